"""The terminal application of `pbft top` (Textual)."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.events import Resize
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Footer, OptionList
from textual.widgets.option_list import Option

from pbft.cli.top import paint
from pbft.cli.top.model import ClusterModel
from pbft.cli.top.source import Source
from pbft.errors import PbftError

LOOK_SECONDS = 0.2
"""Between two looks at one replica."""
PAINT_SECONDS = 0.25
WIDE_COLUMNS = 110
"""A terminal from which the journal stands beside the lanes."""
CARD_COLUMNS = 20
"""A card narrower than this cannot be read."""


class Panel(Widget):
    """A rectangle that a painter fills, given its width and height."""

    def __init__(self, painter: Callable[[int, int], Text], identity: str) -> None:
        super().__init__(id=identity)
        self._painter = painter

    def render(self) -> Text:
        """See Widget."""
        return self._painter(self.content_size.width, self.content_size.height)


class Card(Widget):
    """One replica; a click selects it."""

    def __init__(self, model: ClusterModel, replica: int) -> None:
        super().__init__(id=f"replica{replica}")
        self._model = model
        self._replica = replica

    def render(self) -> Text:
        """See Widget."""
        return paint.card(self._model, self._model.replicas[self._replica], self.content_size.width)

    def show(self, is_selected: bool) -> None:
        """Brings the frame up to date with what the replica is doing."""
        one = self._model.replicas[self._replica]
        word, colour = paint.condition(one)
        if word == "normal":
            is_primary = one.status is not None and one.status.role == "primary"
            colour = paint.PRIMARY if is_primary else paint.DIM
        if one.status is not None and one.status.faults and not one.is_silent:
            colour = paint.BAD
        self.styles.border = ("heavy" if is_selected else "round", colour)
        self.border_title = paint.card_title(one).markup
        self.refresh()

    def on_click(self) -> None:
        """A click selects."""
        assert isinstance(self.app, TopApp)
        self.app.action_select(self._replica)


class Crimes(ModalScreen[str | None]):
    """Which behaviour a replica shall have."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, replica: int, behaviours: dict[str, str]) -> None:
        super().__init__()
        self._replica = replica
        self._behaviours = behaviours

    def compose(self) -> ComposeResult:
        """See Screen."""
        width = max(map(len, self._behaviours), default=0) + 2
        choices = OptionList(
            *(
                Option(paint.choice(name.ljust(width), does), id=name)
                for name, does in self._behaviours.items()
            )
        )
        choices.border_title = f"corrupt replica {self._replica}"
        yield choices

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """One was chosen."""
        self.dismiss(event.option.id)


class TopApp(App[None]):
    """Looks at a cluster until `q`."""

    TITLE = "pbft top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", show=False),
        Binding("right", "step(1)", "Replica", key_display="← →"),
        *(Binding(str(digit), f"select({digit})", show=False) for digit in range(10)),
        Binding("k", "hurt('kill')", "Kill"),
        Binding("s", "hurt('start')", "Start"),
        Binding("f", "hurt('freeze')", "Freeze"),
        Binding("r", "hurt('resume')", "Resume"),
        Binding("c", "corrupt", "Corrupt"),
        Binding("h", "hurt('heal')", "Heal"),
        Binding("q", "quit", "Quit"),
    ]
    CSS = """
    Screen { background: #0d1117; color: #c9d1d9; layout: vertical; overflow: hidden; }
    #title { height: 1; background: #161b22; }
    #cards { layout: grid; grid-size: 4; grid-rows: 9; height: auto; }
    Card { height: 9; border: round #30363d; border-title-align: left; padding: 0 1; }
    #change { height: 1; background: #161b22; }
    #below { height: 1fr; }
    #lanes { padding: 0 1 0 0; }
    #beside { width: 1fr; border-left: vkey #30363d; }
    #journal { height: 1fr; padding: 0 1; }
    #charts { height: 12; padding: 0 1; border-top: solid #30363d; }
    .-narrow Card { padding: 0; }
    .-narrow #below { layout: vertical; }
    .-narrow #lanes { height: 2fr; padding: 0; }
    .-narrow #beside { width: 100%; height: 1fr; border: none; border-top: solid #30363d; }
    .-narrow #journal { padding: 0; }
    .-narrow #charts { display: none; }
    Footer { background: #161b22; }
    Crimes { align: center middle; background: #0d1117 60%; }
    Crimes OptionList { width: 90%; max-width: 100; height: auto; max-height: 80%;
                        border: round #f85149; background: #161b22;
                        text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE_COLUMNS, "-wide")]
        self.source = source
        self.model = ClusterModel(source.replicas)
        self.selected = 0

    def compose(self) -> ComposeResult:
        """See App."""
        model = self.model
        yield Panel(lambda width, height: paint.title(model, width), "title")
        with Container(id="cards"):
            for replica in range(self.source.replicas):
                yield Card(model, replica)
        yield Panel(lambda width, height: paint.view_change(model, width), "change")
        with Horizontal(id="below"):
            yield Panel(lambda width, height: paint.lanes(model, width, height), "lanes")
            with Container(id="beside"):
                yield Panel(lambda width, height: paint.journal(model, width, height), "journal")
                yield Panel(lambda width, height: paint.charts(model, width, height), "charts")
        yield Footer(compact=True)

    def on_resize(self, event: Resize) -> None:
        """As many cards beside each other as are readable, in rows of equal length."""
        replicas = self.source.replicas
        rows = math.ceil(replicas / max(1, event.size.width // CARD_COLUMNS))
        self.query_one("#cards").styles.grid_size_columns = math.ceil(replicas / rows)
        is_wide = event.size.width >= WIDE_COLUMNS
        self.query_one("#lanes").styles.width = (
            paint.lanes_width(replicas) + 1 if is_wide else "100%"
        )

    def on_mount(self) -> None:
        """Begins to look."""
        for replica in range(self.source.replicas):
            self.follow(replica)
        self.set_interval(PAINT_SECONDS, self.show)
        self.show()

    @work
    async def follow(self, replica: int) -> None:
        """Looks at one replica again and again: a slow one does not hold up the others."""
        while True:
            self.model.take(await asyncio.to_thread(self.source.read, replica))
            # All look at the same moments, so that what they tell fits together.
            await asyncio.sleep(LOOK_SECONDS - time.monotonic() % LOOK_SECONDS)

    def show(self) -> None:
        """Paints what is known now."""
        for card in self.query(Card):
            card.show(card.id == f"replica{self.selected}")
        for panel in self.query(Panel):
            panel.refresh()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys for what cannot be done here are not shown."""
        if action == "hurt":
            return parameters[0] in self.source.actions
        return bool(self.source.behaviours) if action == "corrupt" else True

    def action_select(self, replica: int) -> None:
        """Chooses the replica that the keys act on."""
        if replica < self.source.replicas:
            self.selected = replica
            self.show()

    def action_step(self, by: int) -> None:
        """Chooses the next or the previous replica."""
        self.action_select((self.selected + by) % self.source.replicas)

    def action_hurt(self, name: str) -> None:
        """Does something to the chosen replica."""
        replica, action = self.selected, self.source.actions[name]
        self.perform(lambda: action(replica))

    @work
    async def action_corrupt(self) -> None:
        """Asks how, and makes the chosen replica misbehave."""
        replica = self.selected
        behaviour = await self.push_screen_wait(Crimes(replica, self.source.behaviours))
        if behaviour is not None:
            self.perform(lambda: self.source.corrupt(replica, behaviour))

    @work
    async def perform(self, action: Callable[[], str]) -> None:
        """Runs an action in a thread and tells how it went."""
        try:
            self.notify(await asyncio.to_thread(action), timeout=3)
        except (PbftError, OSError) as error:
            self.notify(str(error), severity="error", timeout=6)
