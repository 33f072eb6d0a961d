"""The bounded memory of verified things."""

from pbft.crypto.remembered import Remembered


def test_bounded_in_number_and_the_least_recently_used_goes_first() -> None:
    memory: Remembered[str] = Remembered(2, 100)
    memory.put(b"a", "A", 1)
    memory.put(b"b", "B", 1)
    assert memory.get(b"a") == "A"
    memory.put(b"c", "C", 1)
    assert memory.get(b"b") is None
    assert (memory.get(b"a"), memory.get(b"c")) == ("A", "C")
    assert len(memory) == 2


def test_bounded_in_bytes() -> None:
    memory: Remembered[str] = Remembered(100, 10)
    memory.put(b"a", "A", 6)
    memory.put(b"b", "B", 4)
    assert memory.size_bytes == 10
    memory.put(b"c", "C", 5)
    assert (memory.get(b"a"), memory.get(b"b"), memory.get(b"c")) == (None, "B", "C")
    assert memory.size_bytes == 9


def test_what_is_larger_than_the_room_pushes_nothing_out() -> None:
    memory: Remembered[str] = Remembered(100, 10)
    memory.put(b"a", "A", 6)
    memory.put(b"b", "B", 11)
    assert (memory.get(b"a"), memory.get(b"b")) == ("A", None)
