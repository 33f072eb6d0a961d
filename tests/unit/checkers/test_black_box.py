"""The black-box check against histories with known verdicts, a brute-force check, and the clock."""

from dataclasses import replace
from random import Random
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.sim.checkers import (
    Action,
    Cas,
    CheckUndecided,
    Delete,
    Get,
    Operation,
    Outcome,
    Put,
    Range,
    check_black_box,
)
from tests.unit.checkers.brute_force import is_linearizable
from tests.unit.checkers.generation import executed_history, without_positions

K = b"k"
UNKNOWN = Outcome.UNKNOWN


def parse(text: str) -> list[Operation]:
    """A history in the style of porcupine's test data: one event per line, `client call action` or
    `client return result`; a call without a return has an unknown outcome."""
    running: dict[str, tuple[int, Action]] = {}
    history = []
    for instant, line in enumerate(text.split("\n")):
        words = line.split()
        if not words:
            continue
        client, event, *rest = words
        if event == "call":
            running[client] = instant, _parse_action(rest)
            continue
        invoked, action = running.pop(client)
        result = _parse_result(action, rest[0])
        history.append(Operation(client, action, invoked, instant, Outcome.OK, result))
    for client, (invoked, action) in running.items():
        history.append(Operation(client, action, invoked, 0, UNKNOWN))
    return history


def _parse_value(word: str) -> bytes | None:
    return None if word == "nil" else word.encode()


def _parse_action(words: list[str]) -> Action:
    match words:
        case ["put", value]:
            return Put(K, value.encode())
        case ["get"]:
            return Get(K)
        case ["delete"]:
            return Delete(K)
        case ["cas", expect, value]:
            return Cas(K, _parse_value(expect), value.encode())
    raise ValueError(words)


def _parse_result(action: Action, word: str) -> bytes | bool | None:
    match action:
        case Put():
            return None
        case Get():
            return _parse_value(word)
    return word == "yes"


LINEARIZABLE = {
    "the register of Herlihy and Wing, read while it is written": """
        a call put 100
        b call get
        c call get
        c return nil
        b return 100
        a return ok
        """,
    "reads of two concurrent writes settle on one": """
        a call put 1
        b call put 2
        a return ok
        b return ok
        c call get
        c return 1
        d call get
        d return 1
        """,
    "a cas that lost against another": """
        a call cas nil 1
        b call cas nil 2
        a return no
        b return yes
        a call get
        a return 2
        """,
    "a write without an answer is seen at last": """
        a call put 1
        b call get
        b return nil
        b call get
        b return nil
        b call get
        b return 1
        """,
    "a write without an answer is never seen": """
        a call put 1
        b call put 2
        b return ok
        b call get
        b return 2
        """,
    "a cas without an answer explains that another failed": """
        a call put 1
        a return ok
        b call cas 1 2
        a call cas 1 3
        a return no
        a call get
        a return 2
        """,
    "a chain of two without an answer": """
        a call put 1
        b call cas 1 2
        c call get
        c return 2
        """,
    "a delete without an answer lets another find nothing": """
        a call put 1
        a return ok
        b call delete
        c call delete
        c return no
        a call get
        a return nil
        """,
    "the same value written twice": """
        a call put 1
        a return ok
        b call put 2
        b return ok
        a call put 1
        c call get
        c return 1
        a return ok
        """,
    "which of two without an answer came first shows only later": """
        a call cas nil 2
        d call delete
        b call cas nil 1
        e call delete
        d return yes
        c call get
        c return 2
        f call put 2
        e return yes
        """,
    "a cas that could write what is there already": """
        a call put 2
        b call get
        a return ok
        b return 2
        c call cas nil 2
        """,
    "a cas without an answer was seen, and others write its value later": """
        a call cas nil 1
        b call get
        b return 1
        b call delete
        b return yes
        b call put 2
        b return ok
        b call put 1
        b return ok
        b call get
        b return 1
        """,
    "a delete between two writes of one value": """
        a call put 1
        a return ok
        b call delete
        c call put 1
        b return yes
        c return ok
        d call get
        d return nil
        """,
}

NOT_LINEARIZABLE = {
    "a read goes back behind an earlier one during a write": """
        a call put 200
        b call get
        b return 200
        c call get
        c return nil
        """,
    "two reads disagree about the order of two writes": """
        a call put 1
        b call put 2
        a return ok
        b return ok
        c call get
        c return 1
        d call get
        d return 2
        """,
    "a cas fails although nothing was in its way": """
        a call put 1
        a return ok
        b call cas 1 2
        b return no
        """,
    "a cas succeeds on a value that is gone": """
        a call put 1
        a return ok
        a call put 2
        a return ok
        b call cas 1 3
        b return yes
        """,
    "one write without an answer is seen, overwritten, and seen again": """
        a call put 1
        b call get
        b return 1
        b call put 2
        b return ok
        b call get
        b return 1
        """,
    "a write without an answer is seen before it began": """
        b call get
        b return 1
        a call put 1
        """,
    "a delete that found nothing after a write": """
        a call put 1
        a return ok
        b call delete
        b return no
        """,
    "two deletes of one write": """
        a call put 1
        a return ok
        b call delete
        c call delete
        b return yes
        c return yes
        """,
    "a write is forgotten after a delete without an answer was not": """
        a call put 1
        a return ok
        b call delete
        c call get
        c return nil
        c call get
        c return 1
        """,
}


@pytest.mark.parametrize("name", LINEARIZABLE)
def test_a_linearizable_history_is_accepted(name: str) -> None:
    history = parse(LINEARIZABLE[name])
    assert is_linearizable(history)
    assert check_black_box(history) is None


@pytest.mark.parametrize("name", NOT_LINEARIZABLE)
def test_another_history_is_rejected(name: str) -> None:
    history = parse(NOT_LINEARIZABLE[name])
    assert not is_linearizable(history)
    violation = check_black_box(history)
    assert violation is not None
    # Every one of these goes wrong with its last answer.
    last = max(operation.completed_us for operation in history)
    assert violation.operation.completed_us == last


VALUES = st.sampled_from([b"1", b"2"])
MAYBE = st.one_of(st.none(), VALUES)


@st.composite
def tiny_operations(draw: st.DrawFn) -> Operation:
    action = draw(
        st.one_of(
            st.builds(Put, st.just(K), VALUES),
            st.builds(Get, st.just(K)),
            st.builds(Get, st.just(K)),
            st.builds(Delete, st.just(K)),
            st.builds(Cas, st.just(K), MAYBE, VALUES),
        )
    )
    result: bytes | bool | None = None
    if isinstance(action, Get):
        result = draw(MAYBE)
    elif not isinstance(action, Put):
        result = draw(st.booleans())
    invoked = draw(st.integers(0, 12))
    completed = invoked + draw(st.integers(0, 6))
    outcome = draw(st.sampled_from([Outcome.OK, Outcome.OK, Outcome.OK, UNKNOWN, Outcome.FAILED]))
    return Operation("c", action, invoked, completed, outcome, result)


@settings(max_examples=600, deadline=None)
@given(st.lists(tiny_operations(), max_size=6))
def test_it_agrees_with_brute_force(history: list[Operation]) -> None:
    verdict = check_black_box(history)
    assert (verdict is None) == is_linearizable(history)
    if verdict is not None:
        # The operation named is the one with which it went wrong.
        end = verdict.operation.completed_us
        before = [
            operation
            if operation.completed_us < end or operation.outcome is not Outcome.OK
            else replace(operation, outcome=UNKNOWN)
            for operation in history
        ]
        assert is_linearizable(before)


@pytest.mark.parametrize("values", [None, 3])
@pytest.mark.parametrize("unknown", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_an_execution_is_accepted_and_a_wrong_answer_in_it_is_not(
    seed: int, unknown: float, values: int | None
) -> None:
    history = executed_history(seed, 600, 6, 3, unknown, values=values)
    assert check_black_box(history) is None
    reads = [
        index
        for index, operation in enumerate(history)
        if isinstance(operation.action, Get) and operation.outcome is Outcome.OK
    ]
    index = Random(seed).choice(reads)
    broken = list(history)
    broken[index] = replace(history[index], result=b"never written")
    violation = check_black_box(broken)
    assert violation is not None
    assert violation.operation == broken[index]


def test_keys_are_judged_apart() -> None:
    one = parse(LINEARIZABLE["a cas that lost against another"])
    other = [
        replace(operation, action=replace(operation.action, key=b"other"))
        for operation in parse(NOT_LINEARIZABLE["two deletes of one write"])
    ]
    violation = check_black_box([*one, *other])
    assert violation is not None
    assert violation.operation in other


def test_a_range_is_a_read_of_each_of_its_keys() -> None:
    history = [
        Operation("a", Put(b"a", b"1"), 0, 10),
        Operation("a", Put(b"b", b"1"), 0, 10),
        Operation("b", Range(b"a", b"c"), 20, 30, Outcome.OK, ((b"a", b"1"), (b"b", b"1"))),
        Operation("b", Range(b"b", None), 20, 30, Outcome.OK, ((b"b", b"1"),)),
        Operation("b", Range(b"c", None), 20, 30, Outcome.OK, ()),
    ]
    assert check_black_box(history) is None
    torn = replace(history[2], result=((b"a", b"1"),))
    violation = check_black_box([*history[:2], torn])
    assert violation is not None
    assert violation.operation.action == Get(b"b")


def test_fifty_thousand_operations_take_seconds() -> None:
    history = without_positions(executed_history(1, 50_000, 4, 10, unknown=0.01))
    started = process_time()
    assert check_black_box(history) is None
    assert process_time() - started < 60


def test_a_search_that_would_not_end_says_so() -> None:
    history = executed_history(1, 200, 4, 1)
    with pytest.raises(CheckUndecided):
        check_black_box(history, steps_max=10)
