"""The terminal application, driven by Textual's pilot on a recorded view change."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.text import Text

from pbft.cli.failure import CommandFailed
from pbft.cli.main import run
from pbft.cli.process_table import ProcessState
from pbft.cli.top import paint
from pbft.cli.top.app import Card, Crimes, Panel, TopApp
from pbft.cli.top.lanes import Lane
from pbft.cli.top.model import ClusterModel
from pbft.cli.top.reading import Reading
from tests.unit.cli.test_top_model import RECORDING

WIDE, NARROW = (120, 40), (80, 24)


class Recording:
    """Plays readings; each replica stays at its last one."""

    def __init__(self, readings: list[Reading], local: bool = True) -> None:
        self.replicas = max(one.replica for one in readings) + 1
        self.done: list[tuple[str, int]] = []
        self.readings = readings
        self._left = {
            replica: [one for one in readings if one.replica == replica]
            for replica in range(self.replicas)
        }
        self.behaviours = {"wrong-reply": "answers wrongly"}
        names = ("kill", "start", "freeze", "resume", "heal") if local else ("heal",)
        self.actions: dict[str, Callable[[int], str]] = {name: self._act(name) for name in names}

    def _act(self, name: str) -> Callable[[int], str]:
        def act(replica: int) -> str:
            if name == "start":
                raise CommandFailed(f"replica {replica} runs already")
            self.done.append((name, replica))
            return f"{name} {replica}"

        return act

    def read(self, replica: int) -> Reading:
        left = self._left[replica]
        return left.pop(0) if len(left) > 1 else replace(left[0], entries=())

    def skip_to(self, reading: Reading) -> None:
        self._left[reading.replica] = [replace(reading, entries=())]

    def corrupt(self, replica: int, behaviour: str) -> str:
        self.done.append((behaviour, replica))
        return behaviour


def readings() -> list[Reading]:
    return [Reading.from_json(json.loads(line)) for line in RECORDING.read_text().splitlines()]


def until_the_view_change() -> list[Reading]:
    """The recording up to the moment at which f + 1 replicas were between two views."""
    model, taken = ClusterModel(4), []
    for one in readings():
        model.take(one)
        taken.append(one)
        if model.is_changing_view and len(taken) > 2 and taken[-1].replica == 1:
            return taken
    raise AssertionError("the recording has no view change")


def app_of(source: Recording) -> TopApp:
    """With everything recorded taken in at once, so that the picture does not depend on time."""
    app = TopApp(source)
    for one in source.readings:
        app.model.take(one)
        source.skip_to(one)
    return app


def screen(app: TopApp) -> str:
    """What the terminal shows, as plain text."""
    lines = [
        [segment.text for segment in strip] for strip in app.screen._compositor.render_strips()
    ]
    return "\n".join("".join(line) for line in lines)


def seen(size: tuple[int, int], source: Recording) -> str:
    async def story() -> str:
        app = app_of(source)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            return screen(app)

    return asyncio.run(story())


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_a_view_change_under_way_is_seen(size: tuple[int, int]) -> None:
    shown = seen(size, Recording(until_the_view_change()))
    for text in (
        "view change to 4",
        "view-change ■■■· 3/3",
        "···· 0/3",
        "● down",
        "● changing",
        "pre-prepare",
        "prepare",
        "commit",
        "execute",
        "primary 3 is unreachable",
        "Kill",
        "Corrupt",
    ):
        assert text in shown, text
    assert all(len(line) == size[0] for line in shown.splitlines())
    assert len(shown.splitlines()) == size[1]


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_after_it_the_new_primary_orders(size: tuple[int, int]) -> None:
    shown = seen(size, Recording(readings()))
    assert "primary 0" in shown
    assert "entered view 4, primary 0" in shown
    assert "■■■· 2/2" in shown
    assert ("operations per second" in shown) is (size == WIDE)


def test_keys_choose_a_replica_and_hurt_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        source = Recording(readings())
        app = app_of(source)
        notes: list[tuple[str, str]] = []
        # They stay for seconds: on a machine that is busy the first is gone before the last comes.
        monkeypatch.setattr(
            app, "notify", lambda text, *, severity="", timeout: notes.append((text, severity))
        )
        async with app.run_test(size=WIDE) as pilot:
            await pilot.press("2", "k", "right", "f", "right", "r", "left", "s", "h", "9")
            await pilot.pause()
            assert app.selected == 3
            assert app.query_one("#replica3", Card).styles.border_top[0] == "heavy"
            assert app.query_one("#replica2", Card).styles.border_top[0] == "round"
            async with asyncio.timeout(60):
                while len(notes) < 5:
                    await pilot.pause(0.05)
        assert sorted(source.done) == [("freeze", 3), ("heal", 3), ("kill", 2), ("resume", 0)]
        assert [text for text, severity in notes if severity == "error"] == [
            "replica 3 runs already"
        ]

    asyncio.run(story())


def test_corrupting_asks_how() -> None:
    async def story() -> None:
        source = Recording(readings())
        app = app_of(source)
        async with app.run_test(size=WIDE) as pilot:
            await pilot.press("1", "c")
            await pilot.pause()
            assert isinstance(app.screen, Crimes)
            await pilot.press("escape")
            await pilot.pause()
            assert source.done == []
            await pilot.press("c")
            await pilot.pause()
            await pilot.press("enter")
            async with asyncio.timeout(60):
                while not source.done:
                    await pilot.pause(0.05)
            assert source.done == [("wrong-reply", 1)]

    asyncio.run(story())


def test_a_click_chooses() -> None:
    async def story() -> None:
        app = app_of(Recording(readings()))
        async with app.run_test(size=WIDE) as pilot:
            await pilot.click("#replica2")
            assert app.selected == 2

    asyncio.run(story())


def test_keys_without_a_use_are_not_offered() -> None:
    async def story() -> str:
        app = app_of(Recording(readings(), local=False))
        async with app.run_test(size=WIDE) as pilot:
            await pilot.press("k")
            return screen(app)

    shown = asyncio.run(story())
    assert "Kill" not in shown and "Heal" in shown


@pytest.mark.parametrize(("replicas", "width", "columns"), [(4, 80, 4), (7, 120, 4), (7, 160, 7)])
def test_cards_stand_in_rows_that_can_be_read(replicas: int, width: int, columns: int) -> None:
    async def story() -> None:
        source = Recording([Reading(replica, 0, None, None) for replica in range(replicas)])
        app = TopApp(source)
        async with app.run_test(size=(width, 40)) as pilot:
            await pilot.pause()
            first = app.query_one("#replica0").region.y
            cards = [app.query_one(f"#replica{replica}").region for replica in range(replicas)]
            assert sum(card.y == first for card in cards) == columns
            assert all(card.right <= width and card.width >= 20 for card in cards)

    asyncio.run(story())


def test_looking_goes_on() -> None:
    async def story() -> None:
        source = Recording(readings())
        app = TopApp(source)
        async with app.run_test(size=WIDE) as pilot:
            async with asyncio.timeout(60):
                while app.model.view != 4:
                    await pilot.pause(0.1)
            assert app.query_one("#lanes", Panel).size.width > 60

    asyncio.run(story())


@pytest.mark.parametrize("replicas", [4, 5, 7, 10])
def test_every_line_fits(replicas: int) -> None:
    model = ClusterModel(replicas)
    for one in readings():
        model.take(one)
    for width in (80, 120):
        assert paint.title(model, width).cell_len == width
        assert max(map(len, paint.view_change(model, width).plain.splitlines())) <= width
        for line in paint.charts(model, 40, 12).plain.splitlines():
            assert len(line) == 40
    for width in (18, 28):
        lines = paint.card(model, model.replicas[0], width).plain.splitlines()
        assert len(lines) == 7 and all(len(line) == width for line in lines)


def conditions() -> list[tuple[ProcessState | None, str, bool, str]]:
    return [
        (ProcessState.DOWN, "normal", True, "down"),
        (ProcessState.FROZEN, "normal", True, "frozen"),
        (None, "normal", True, "silent"),
        (None, "view_changing", False, "changing"),
        (None, "diverged", False, "diverged"),
        (ProcessState.RUNNING, "normal", False, "normal"),
    ]


@pytest.mark.parametrize(("process", "mode", "silent", "word"), conditions())
def test_a_card_says_what_a_replica_is_doing(
    process: ProcessState | None, mode: str, silent: bool, word: str
) -> None:
    model = ClusterModel(4)
    model.take(readings()[1])
    one = model.replicas[1]
    assert one.status is not None
    one.process, one.is_silent, one.status = process, silent, replace(one.status, mode=mode)
    assert paint.card(model, one, 28).plain.startswith(f"● {word} ")


def test_a_card_tells_the_worst() -> None:
    model = ClusterModel(4)
    model.take(readings()[1])
    one = model.replicas[1]
    assert one.status is not None
    one.status = replace(one.status, rejections={"bad_signature": 3}, pending_requests=5)
    assert "5 pending" in paint.card(model, one, 28).plain
    assert "hostile               3 of 3" in paint.card(model, one, 28).plain
    one.accusers = {0, 2}
    assert "accused by 0 2" in paint.card(model, one, 28).plain
    one.status = replace(one.status, faults=("silent",))
    assert paint.card(model, one, 28).plain.splitlines()[-1].startswith("silent")


def test_equal_digests_have_equal_colours() -> None:
    def colours(digest: str) -> list[str]:
        return [str(span.style) for span in paint.swatch(digest).spans]

    assert colours("0e0190aa") == colours("0e0190aa")
    assert colours("0e0190aa") != colours("f10190aa")
    assert len(colours("not a digest")) == 2


def test_a_vote_for_something_else_is_a_cross() -> None:
    model = ClusterModel(4)
    lane = Lane(7, 0, prepares={1: "aa", 2: "aa", 3: "bb"}, commits={0: "aa", 1: "aa"})
    model.lanes._lanes[7] = lane
    row = paint.lanes(model, 75, 5).plain.splitlines()[1]
    assert "·■■✗ 2/2" in row and "■■·· 2/3" in row


def test_bars_grow_with_values() -> None:
    top, bottom = paint.bars([0.0, 1.0, 16.0], 4, 2, "red")
    assert (top.plain, bottom.plain) == ("   █", " ▁▁█")
    assert isinstance(top, Text)


def test_the_help_does_not_wait_for_textual() -> None:
    code = "import sys, pbft.cli.top; sys.exit('textual' in sys.modules or 'grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_without_a_terminal_it_says_what_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["top", "--cluster", "nowhere.toml"]) == 1
    assert "pbft cluster status -w json" in capsys.readouterr().err
