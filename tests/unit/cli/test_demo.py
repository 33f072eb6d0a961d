"""`pbft demo`: pictures that can be read, and claims that can fail."""

import json
import re

import pytest

from pbft.cli.demo import DEMOS, load
from pbft.cli.demos import generals, simulated
from pbft.cli.demos.diagram import Diagram, Mark, Message, Phase
from pbft.cli.demos.generals import ATTACK, RETREAT, Field, TraitorousCommander
from pbft.cli.demos.story import Story
from pbft.cli.main import run
from pbft.core.effects import Effect
from pbft.types import Instant

SIMULATED = [name for name in DEMOS if load(name).simulated is not None]
ESCAPE_OF_COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]")


@pytest.mark.parametrize("name", SIMULATED)
def test_every_simulated_demo_holds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", name, "-w", "json"]) == 0
    told = capsys.readouterr()
    checks = json.loads(told.out)
    assert checks and all(check["held"] and check["demo"] == name for check in checks)
    assert "What was checked" in told.err and "Why: " in told.err


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", SIMULATED)
def test_demos_fit_their_width(name: str, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(width=width)
    demo = load(name)
    assert demo.simulated is not None
    story.begin(name, demo.title)
    demo.simulated(story)
    assert story.end()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert any("◆─" in line for line in lines) or name == "three-generals"
    assert any("┼" in line for line in lines)


def test_a_claim_that_does_not_hold_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def do_nothing(self: object, effects: list[Effect], now: Instant) -> list[Effect]:
        return effects

    # An accomplice that turns honest: with one traitor of four nothing breaks.
    monkeypatch.setattr(generals.Accomplice, "rewrite", do_nothing)
    assert run(["demo", "too-many-faults"]) == 1
    assert "✗ two traitors of four" in capsys.readouterr().out


def test_three_generals_whose_traitor_repents_fail_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Field, "betray", lambda self, traitor, behaviour: None)
    assert run(["demo", "three-generals", "-w", "json"]) == 1
    assert not any(check["held"] for check in json.loads(capsys.readouterr().out))


def test_a_demo_that_checks_nothing_does_not_hold(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(width=80)
    story.begin("empty", "Nothing")
    assert not story.end()
    story.begin("next", "Something")
    story.check("a claim", "an outcome", True)
    assert story.end()
    story.check("another", "its outcome", False)
    assert not story.end()


def test_the_list_names_every_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--list", "-w", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["demo"] for row in listed] == list(DEMOS)
    assert {row["where"] for row in listed} == {"local cluster", "simulator"}
    assert run(["demo"]) == 2
    assert run(["demo", "no-such"]) == 2


def test_a_multicast_is_one_line() -> None:
    diagram = Diagram(["client", "zero", "one", "two"], frozenset({2}))
    diagram.rows += [
        Phase("prepare"),
        Message(1, (2, 3), "d1"),
        Message(2, (0, 3), "d2", lost=(1,)),
        Mark((1, 3), "prepared"),
        Mark((3,), "killed", "✗", ends=True),
        Message(1, (2,)),
    ]
    header, phase, first, second, prepared, killed, last = (
        line.text for line in diagram.render(80)
    )
    assert header.split() == ["client", "zero", "one*", "two"]
    lanes = [column for column, mark in enumerate(first) if mark in "│●▶"]
    assert phase.startswith("prepare ┄") and [phase[column] for column in lanes] == ["┼"] * 4
    assert [first[column] for column in lanes] == ["│", "●", "▶", "▶"]
    assert "●─d1─" in first and set(first[lanes[1] + 1 : lanes[2]]) <= set("─d1")
    assert [second[column] for column in lanes] == ["◀", "✗", "◆", "▶"]
    assert "◆─d2─" in second
    assert prepared.startswith("prepared") and [prepared[column] for column in lanes] == list(
        "│■│■"
    )
    assert killed[lanes[3]] == "✗"
    assert [last[column] for column in lanes] == ["│", "●", "▶", "┆"]


def test_a_message_to_the_left_names_itself_beside_its_sender() -> None:
    diagram = Diagram(["client", "zero", "one"])
    diagram.rows.append(Message(2, (0,), "result"))
    line = diagram.render(80)[1].text
    assert line.endswith("─result─●")
    assert line.index("◀") < line.index("┼") < line.index("result")


def test_colours_give_way_to_no_color(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> str:
        story = Story(width=80)
        story.begin("colour", "A title")
        story.check("a claim", "an outcome", False)
        story.end()
        return capsys.readouterr().out

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert ESCAPE_OF_COLOUR.search(told())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not ESCAPE_OF_COLOUR.search(told())


def test_a_commander_tells_each_lieutenant_its_order() -> None:
    field = Field(4)
    crime = field.crime_of(0, TraitorousCommander.name)
    plan = {1: ATTACK, 2: RETREAT, 3: ATTACK}
    field.betray(0, TraitorousCommander(crime, plan, commits=False))
    assert field.play([ATTACK, RETREAT], simulated.STOP_US) is None
    told = {
        one.receiver: one.order
        for one in field.told
        if one.sender == 0 and one.phase == "pre-prepare" and one.view == 0
    }
    assert told == plan
    assert field.loyal_orders() == {}
