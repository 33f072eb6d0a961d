"""The witness check: positions, results, fast reads, and writes of unknown outcome."""

from dataclasses import replace
from random import Random
from time import process_time

import pytest

from pbft.sim.checkers import (
    Cas,
    Delete,
    Get,
    Operation,
    Outcome,
    Put,
    Range,
    check_black_box,
    check_witness,
)
from tests.unit.checkers.generation import executed_history

K, L = b"k", b"l"
OK, UNKNOWN = Outcome.OK, Outcome.UNKNOWN


def at(position: int, operation: Operation) -> Operation:
    return replace(operation, position=(position, 0))


def explanation(history: list[Operation]) -> str:
    violation = check_witness(history)
    assert violation is not None
    return violation.explanation


@pytest.mark.parametrize("unknown", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_an_execution_is_accepted(seed: int, unknown: float) -> None:
    assert check_witness(executed_history(seed, 1000, 6, 3, unknown)) is None
    assert check_witness(executed_history(seed, 1000, 6, 3, unknown, values=3)) is None


@pytest.mark.parametrize("seed", range(40))
def test_what_it_accepts_without_unknown_outcomes_the_black_box_accepts(seed: int) -> None:
    """Results and positions are disturbed at random: some of these are linearizable all the same,
    but none may pass here and not there."""
    random = Random(seed)
    history = executed_history(seed, 60, 4, 2, values=2)
    for _ in range(random.randrange(3)):
        one, other = random.sample(range(len(history)), 2)
        if isinstance(history[one].action, Get):
            result = random.choice([None, b"value-0", b"value-1"])
            history[one] = replace(history[one], result=result)
        elif history[one].position and history[other].position:
            places = history[one].position, history[other].position
            history[one] = replace(history[one], position=places[1])
            history[other] = replace(history[other], position=places[0])
    if check_witness(history) is None:
        assert check_black_box(history) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_wrong_answer_is_found(seed: int) -> None:
    history = executed_history(seed, 300, 5, 3, unknown=0.02)
    done = [
        index
        for index, operation in enumerate(history)
        if operation.outcome is OK and not isinstance(operation.action, Put)
    ]
    index = Random(seed).choice(done)
    broken = history[index]
    if isinstance(broken.action, Get):
        history[index] = replace(broken, result=b"never written")
        violation = check_witness(history)
        assert violation is not None
        assert violation.operation == history[index]
    else:
        definite = [operation for operation in history if operation.outcome is OK]
        definite[definite.index(broken)] = replace(broken, result=not broken.result)
        assert explanation(definite)


def test_the_order_of_execution_respects_real_time() -> None:
    first = at(2, Operation("a", Put(K, b"1"), 0, 10))
    second = at(1, Operation("b", Put(L, b"1"), 11, 20))
    assert "complete before one that was executed earlier had begun" in explanation([first, second])
    # Touching intervals overlap.
    assert check_witness([first, replace(second, invoked_us=10)]) is None
    # What has no end is complete before nothing.
    assert check_witness([replace(first, outcome=UNKNOWN), second]) is None


def test_operations_without_effect_may_share_a_position() -> None:
    write = at(1, Operation("a", Put(K, b"1"), 0, 10))
    reads = [
        at(2, Operation("a", Get(K), 0, 20, OK, b"1")),
        at(2, Operation("b", Cas(K, b"2", b"3"), 0, 20, OK, False)),
        at(2, Operation("c", Delete(L), 0, 20, OK, False)),
    ]
    assert check_witness([write, *reads]) is None
    effect = at(2, Operation("d", Cas(K, b"1", b"3"), 0, 20, OK, True))
    assert "shares its position" in explanation([write, *reads, effect])


def test_what_was_reported_as_failed_is_not_executed() -> None:
    failed = Operation("a", Put(K, b"1"), 0, 10, Outcome.FAILED)
    assert check_witness([failed]) is None
    assert "reported as failed" in explanation([at(1, failed)])


def test_a_write_without_a_position_is_no_witness() -> None:
    with pytest.raises(ValueError, match="no position is known"):
        check_witness([Operation("a", Put(K, b"1"), 0, 10)])


def test_a_fast_read_matches_a_state_between_its_ends() -> None:
    writes = [
        at(number, Operation("a", Put(K, b"%d" % number), 10 * number, 10 * number + 5))
        for number in range(1, 6)
    ]
    for value, accepted in ((b"1", False), (b"2", True), (b"3", True), (b"4", True), (b"5", False)):
        # Begun after 2 had completed, complete before 5 began.
        read = Operation("b", Get(K), 27, 44, OK, value)
        assert (check_witness([*writes, read]) is None) == accepted, value


def test_fast_reads_do_not_go_back() -> None:
    write = at(1, Operation("a", Put(K, b"1"), 0, 100))
    new = Operation("b", Get(K), 10, 20, OK, b"1")
    old = Operation("c", Get(K), 21, 30, OK, None)
    assert "matches no state" in explanation([write, new, old])
    assert check_witness([write, new, replace(old, invoked_us=20)]) is None


def test_a_fast_range_matches_one_state_in_all_keys() -> None:
    writes = [
        at(1, Operation("a", Put(K, b"1"), 0, 100)),
        at(2, Operation("a", Put(L, b"1"), 0, 100)),
        at(3, Operation("a", Put(K, b"2"), 0, 100)),
    ]
    whole = Range(K, None)
    for result, accepted in (
        ((), True),
        (((K, b"1"),), True),
        (((K, b"1"), (L, b"1")), True),
        (((K, b"2"), (L, b"1")), True),
        (((L, b"1"),), False),
        (((K, b"2"),), False),
        (((L, b"1"), (K, b"1")), False),
        (((K, b"1"), (K, b"1")), False),
    ):
        read = Operation("b", whole, 10, 20, OK, result)
        assert (check_witness([*writes, read]) is None) == accepted, result


def test_an_executed_range_is_compared_key_by_key() -> None:
    history = [
        at(1, Operation("a", Put(K, b"1"), 0, 10)),
        at(2, Operation("a", Put(L, b"1"), 0, 10)),
        at(3, Operation("b", Range(K, L), 20, 30, OK, ((K, b"1"),))),
        at(4, Operation("b", Range(L, None), 20, 30, OK, ((L, b"1"),))),
    ]
    assert check_witness(history) is None
    history[3] = replace(history[3], result=())
    assert "b'l' has the value b'1'" in explanation(history)
    history[3] = replace(history[3], result=((K, b"1"), (L, b"1")))
    assert "not pairs of the range" in explanation(history)


def test_an_unplaced_write_explains_once() -> None:
    history = [
        Operation("a", Put(K, b"1"), 0, 0, UNKNOWN),
        at(1, Operation("b", Put(K, b"2"), 0, 10)),
        at(2, Operation("b", Get(K), 20, 30, OK, b"1")),
        at(3, Operation("b", Put(K, b"3"), 40, 50)),
    ]
    assert check_witness(history) is None
    again = at(4, Operation("b", Get(K), 60, 70, OK, b"1"))
    assert "has the value b'3'" in explanation([*history, again])


def test_an_unplaced_write_explains_nothing_before_it_began() -> None:
    read = at(1, Operation("b", Get(K), 0, 10, OK, b"1"))
    write = Operation("a", Put(K, b"1"), 5, 0, UNKNOWN)
    assert check_witness([read, write]) is None
    assert check_witness([replace(read, position=None), write]) is None
    late = replace(write, invoked_us=11)
    assert check_witness([read, late]) is not None
    assert check_witness([replace(read, position=None), late]) is not None


def test_unplaced_writes_chain() -> None:
    history = [
        Operation("a", Put(K, b"1"), 0, 0, UNKNOWN),
        Operation("b", Cas(K, b"1", b"2"), 0, 0, UNKNOWN),
        at(1, Operation("c", Get(K), 10, 20, OK, b"2")),
    ]
    assert check_witness(history) is None
    assert check_witness(history[1:]) is not None


def test_an_unplaced_write_is_not_spent_where_others_explain_the_result_too() -> None:
    """The read of 4 may be of either way to 2, so each may be left for the last."""
    history = [
        Operation("a", Put(K, b"2"), 0, 0, UNKNOWN),
        Operation("b", Cas(K, b"1", b"3"), 0, 0, UNKNOWN),
        Operation("c", Cas(K, b"3", b"2"), 0, 0, UNKNOWN),
        at(1, Operation("d", Put(K, b"1"), 10, 15)),
        at(2, Operation("d", Get(K), 20, 25, OK, b"2")),
        at(3, Operation("d", Put(K, b"4"), 30, 35)),
        at(4, Operation("d", Get(K), 40, 45, OK, b"2")),
    ]
    assert check_witness(history) is None
    assert check_black_box(history) is None


def test_writes_that_explain_only_together_are_spent_together() -> None:
    history = [
        Operation("a", Cas(K, b"1", b"2"), 0, 0, UNKNOWN),
        Operation("b", Cas(K, b"2", b"3"), 0, 0, UNKNOWN),
        at(1, Operation("c", Put(K, b"1"), 10, 15)),
        at(2, Operation("c", Get(K), 20, 25, OK, b"3")),
        at(3, Operation("c", Put(K, b"1"), 30, 35)),
    ]
    assert check_witness(history) is None
    for value in (b"2", b"3"):
        again = at(4, Operation("c", Get(K), 40, 45, OK, value))
        assert "has the value b'1'" in explanation([*history, again])


def test_a_failed_comparison_leaves_open_what_unplaced_writes_made_of_each_value() -> None:
    """After the first one the key has 2 or 3. The second one says that it is not 2, not what became
    of it: 3, or what only a 2 becomes."""
    history = [
        at(1, Operation("a", Put(K, b"1"), 10, 15)),
        Operation("b", Put(K, b"2"), 0, 0, UNKNOWN),
        Operation("c", Cas(K, b"2", b"3"), 0, 0, UNKNOWN),
        at(2, Operation("a", Cas(K, b"1", b"0"), 20, 25, OK, False)),
        Operation("d", Cas(K, b"2", b"4"), 29, 0, UNKNOWN),
        at(3, Operation("a", Cas(K, b"2", b"0"), 30, 35, OK, False)),
        at(4, Operation("a", Get(K), 40, 45, OK, b"4")),
    ]
    assert check_witness(history) is None
    assert check_black_box(history) is None
    never = [operation for operation in history if operation.client != "d"]
    assert check_witness(never) is not None


def test_a_comparison_of_unknown_outcome_has_found_what_an_unplaced_write_left() -> None:
    history = [
        at(1, Operation("a", Put(K, b"1"), 10, 15)),
        Operation("b", Put(K, b"2"), 0, 0, UNKNOWN),
        at(2, Operation("c", Cas(K, b"2", b"3"), 0, 0, UNKNOWN)),
        at(3, Operation("a", Get(K), 30, 35, OK, b"3")),
    ]
    assert check_witness(history) is None
    assert check_witness([*history[:1], *history[2:]]) is not None


def history_of_doubt(random: Random) -> list[Operation]:
    """Executed operations and unplaced writes of one key with three values, as small as chance
    must be to find what is rare; each result is right about half the time."""
    values = [b"1", b"2", b"3"]
    history = []
    for position in range(1, 5):
        now = 10 * position
        if random.random() < 0.5:
            write = random.choice(
                [Put(K, random.choice(values)), Cas(K, *random.sample(values, 2))]
            )
            history.append(Operation("unknown", write, now - random.choice([1, 15]), 0, UNKNOWN))
        action, results = random.choice(
            [
                (Get(K), [None, *values]),
                (Put(K, random.choice(values)), [None]),
                (Delete(K), [True, False]),
                (Cas(K, *random.sample(values, 2)), [True, False]),
            ]
        )
        result = random.choice(results)
        history.append(at(position, Operation("known", action, now, now + 5, OK, result)))
    return history


def test_what_can_be_explained_at_all_is_accepted() -> None:
    random = Random(1)
    explained = 0
    for _ in range(4_000):
        history = history_of_doubt(random)
        if check_black_box(history) is None:
            explained += 1
            assert check_witness(history) is None
    assert explained > 500


def test_fifty_thousand_operations_take_a_moment() -> None:
    history = executed_history(1, 50_000, 4, 10, unknown=0.01)
    started = process_time()
    assert check_witness(history) is None
    assert process_time() - started < 20
