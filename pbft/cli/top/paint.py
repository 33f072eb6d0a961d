"""The model as coloured text. Pure: a model and a width in, text out."""

import colorsys
import time
from collections.abc import Collection

from rich.text import Text

from pbft.cli.process_table import ProcessState
from pbft.cli.top.journal import Line, Tone
from pbft.cli.top.lanes import Lane
from pbft.cli.top.model import ClusterModel, ReplicaView

DIM = "#6e7681"
FAINT = "#30363d"
PLAIN = "#c9d1d9"
GOOD = "#3fb950"
NOTABLE = "#d29922"
BAD = "#f85149"
VIEW = "#bc8cff"
PRIMARY = "#e3b341"
PHASES = {
    "pre-prepare": "#56d4dd",
    "prepare": "#58a6ff",
    "commit": "#bc8cff",
    "execute": "#3fb950",
}
COUNTED = ("prepare", "commit", "execute")
"""Phases that a quorum (of execute: f + 1, what a client waits for) completes."""
TONES = {Tone.QUIET: DIM, Tone.GOOD: GOOD, Tone.NOTABLE: NOTABLE, Tone.BAD: BAD}
BARS = "▁▂▃▄▅▆▇█"
HERE = "■"
MISSING = "·"
CONFLICT = "✗"
DIGEST_CHARACTERS = 6
WIDE_CARD = 24
"""Columns inside a card from which there is room for words besides the numbers."""
MODES = {
    "normal": ("normal", GOOD),
    "view_changing": ("changing", VIEW),
    "state_transfer": ("fetching", NOTABLE),
    "recalling": ("recalling", NOTABLE),
    "rejoining": ("rejoining", NOTABLE),
    "diverged": ("diverged", BAD),
}


def condition(one: ReplicaView) -> tuple[str, str]:
    """What a replica is doing, in a word, and its colour."""
    if one.process is ProcessState.DOWN:
        return "down", BAD
    if one.process is ProcessState.FROZEN:
        return "frozen", PHASES["pre-prepare"]
    if one.is_silent or one.status is None:
        return "silent", NOTABLE
    return MODES.get(one.status.mode, (one.status.mode, NOTABLE))


def title(model: ClusterModel, width: int) -> Text:
    """The one line about the cluster as a whole."""
    thresholds = model.thresholds
    left = Text(no_wrap=True)
    left.append(" pbft ", f"bold #0d1117 on {PRIMARY}")
    left.append(f" n {thresholds.replicas}  f {thresholds.faulty}  q {thresholds.quorum}", DIM)
    primary = thresholds.primary_of(model.view)
    left.append(f"   view {model.view}", f"bold {VIEW}")
    left.append(f"  primary {primary}", f"bold {PRIMARY}")
    right = Text(no_wrap=True)
    right.append(f"{model.operations_per_second:,.0f}", f"bold {GOOD}").append(" op/s", DIM)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        value = model.latency_ms(share)
        right.append(f"  {name} ", DIM).append("–" if value is None else f"{value:,.0f} ms", PLAIN)
    right.append(" ")
    return _spread(left, right, width)


def charts(model: ClusterModel, width: int, height: int) -> Text:
    """Throughput and latency, a column per second."""
    each = max(1, height // 2 - 1)
    parts = (
        ("operations per second", model.throughput, GOOD),
        ("ordered within, ms (p50)", model.latencies_ms, PHASES["prepare"]),
    )
    lines = []
    for name, values, colour in parts:
        last = values[-1] if values else 0.0
        head = Text(name, DIM)
        lines.append(_spread(head, Text(f"{last:,.0f}", f"bold {colour}"), width))
        lines += bars(list(values), width, each, colour)
    return Text("\n").join(lines)


def bars(values: list[float], width: int, height: int, colour: str) -> list[Text]:
    """The last values as upright bars, the highest of them full."""
    shown = values[-width:]
    top = max(shown, default=0.0) or 1.0
    steps = [round(value / top * height * len(BARS)) for value in shown]
    lines = []
    for row in reversed(range(height)):
        line = Text(" " * (width - len(shown)), no_wrap=True)
        for value, step in zip(shown, steps, strict=True):
            filled = min(len(BARS), step - row * len(BARS))
            if filled > 0:
                line.append(BARS[filled - 1], colour)
            elif row == 0:
                # Something, however little, is not nothing.
                line.append(BARS[0], colour if value > 0 else FAINT)
            else:
                line.append(" ")
        lines.append(line)
    return lines


def card_title(one: ReplicaView) -> Text:
    """The words in a card's upper border."""
    if one.status is not None and one.status.role == "primary" and not one.is_silent:
        return Text(f"primary {one.replica}", f"bold {PRIMARY}")
    return Text(f"replica {one.replica}", f"bold {PLAIN}")


def card(model: ClusterModel, one: ReplicaView, width: int) -> Text:
    """Seven lines about one replica."""
    word, colour = condition(one)
    status = one.status
    if status is None:
        return Text(f"● {word}", f"bold {colour}")
    number = DIM if one.is_silent else PLAIN
    is_wide = width >= WIDE_CARD
    peers = len(model.replicas) - 1
    digest = status.state_digest[:DIGEST_CHARACTERS]
    state = Text("–", DIM)
    if digest:
        state = Text().append_text(swatch(status.state_digest)).append(f" {digest} ", number)
        state.append_text(_verdict(None if one.is_silent else model.agrees(one)))
    rejected = (Text("rejected", DIM), Text(f"{one.rejected:,}", number))
    if one.hostile:
        rejected = (
            Text("hostile", BAD),
            Text(f"{one.hostile:,} of {one.rejected:,}", f"bold {BAD}"),
        )
    links = Text("peers ", DIM).append(
        f"{len(status.peers_connected)}/{peers}",
        number if len(status.peers_connected) == peers else NOTABLE,
    )
    clients = Text()
    if is_wide:
        clients.append(f"{status.clients_connected}", number).append(" clients", DIM)
    rows = [
        (Text(f"● {word}", f"bold {colour}"), Text(f"view {status.view}", VIEW)),
        (Text("executed", DIM), Text(f"{status.executed:,}", f"bold {number}")),
        (
            Text("stable h" if is_wide else "stable", DIM),
            Text(f"{status.low_water_mark:,}", number),
        ),
        (Text("state", DIM), state),
        (links, clients),
        rejected,
        (_trouble(one), Text()),
    ]
    return Text("\n").join(_spread(left, right, width) for left, right in rows)


def swatch(digest: str) -> Text:
    """Two blocks whose colours are the digest's: equal states look equal from afar."""
    text = Text()
    for part in (digest[:4], digest[4:8]):
        hue = int(part, 16) / 0xFFFF if _is_hexadecimal(part) else 0.0
        red, green, blue = (int(255 * one) for one in colorsys.hsv_to_rgb(hue, 0.65, 0.95))
        text.append("█", f"#{red:02x}{green:02x}{blue:02x}")
    return text


def view_change(model: ClusterModel, width: int) -> Text:
    """One line about the last view change."""
    change = model.view_change
    if change is None:
        return Text(" no view change seen", DIM)
    quorum = model.thresholds.quorum
    entered = model.entered(change)
    is_over = len(entered) >= quorum
    text = Text(no_wrap=True)
    style = f"bold {VIEW}" if is_over else f"bold #0d1117 on {VIEW}"
    text.append(f" view change to {change.view} ", style)
    text.append("  view-change ", DIM)
    text.append_text(cells(model, change.signed, VIEW)).append(" ")
    text.append_text(counter(len(change.signed), quorum, VIEW))
    text.append("  entered " if width < 100 else "   new-view accepted ", DIM)
    text.append_text(cells(model, entered, GOOD)).append(" ")
    text.append_text(counter(len(entered), quorum, GOOD))
    took = change.took_us(quorum)
    if not is_over:
        text.append(f"  {_duration(max(0, model.now_us - change.began_us))} …", NOTABLE)
    elif took is not None:
        text.append(f"  {_duration(took)}", PLAIN)
    return text


def lanes(model: ClusterModel, width: int, height: int) -> Text:
    """The newest sequences on their way, the highest first."""
    columns = _columns(len(model.replicas))
    gap = "  " if width >= lanes_width(len(model.replicas)) else " "
    head = Text("sequence".rjust(9) + "  v", f"bold {DIM}")
    for name, colour in PHASES.items():
        head.append(gap + name.ljust(columns[name]), f"bold {colour}")
    head.append("requests".rjust(9) + "ms".rjust(7), f"bold {DIM}")
    lines = [head]
    newest = model.lanes.newest(max(0, height - 1))
    lines += [_lane(model, lane, columns, gap) for lane in newest]
    if len(lines) == 1:
        lines.append(Text("        – nothing is being ordered", DIM))
    return Text("\n").join(lines)


def lanes_width(replicas: int) -> int:
    """Columns that the lanes of so many replicas take with room between the phases."""
    return 28 + sum(2 + width for width in _columns(replicas).values())


def _columns(replicas: int) -> dict[str, int]:
    """Width of each phase: a cell per replica, and a counter where something is counted."""
    return {name: max(len(name), replicas + (5 if name in COUNTED else 0)) for name in PHASES}


def _lane(model: ClusterModel, lane: Lane, columns: dict[str, int], gap: str) -> Text:
    thresholds = model.thresholds
    done = len(lane.executed) >= thresholds.weak
    line = Text(f"{lane.sequence:>9,}", PLAIN if done else f"bold {PRIMARY}", no_wrap=True)
    line.append(f"{lane.view:>3}", DIM)
    phases = (
        ("pre-prepare", lane.accepted, set[int](), 0),
        ("prepare", lane.prepares, lane.conflicting(lane.prepares), thresholds.prepares),
        ("commit", lane.commits, lane.conflicting(lane.commits), thresholds.quorum),
        ("execute", lane.executed, set[int](), thresholds.weak),
    )
    for name, present, conflicting, needed in phases:
        colour = PHASES[name]
        shown = cells(model, present, colour, conflicting)
        if name in COUNTED:
            # Replicas do not look at votes beyond the quorum: to see more of them is luck.
            count = min(len(present) - len(conflicting), needed)
            shown.append(" ").append_text(counter(count, needed, colour))
        line.append(gap).append_text(shown).append(" " * (columns[name] - shown.cell_len))
    line.append(f"{lane.requests:>9,}", DIM)
    took = lane.ordered_us(thresholds.weak)
    return line.append("–".rjust(7) if took is None else f"{took / 1_000:>7,.0f}", DIM)


def cells(
    model: ClusterModel, present: Collection[int], colour: str, conflicting: Collection[int] = ()
) -> Text:
    """One cell per replica, by index: there, missing, or at odds with most."""
    text = Text()
    for one in model.replicas:
        if one.replica in conflicting:
            text.append(CONFLICT, f"bold {BAD}")
        elif one.replica in present:
            text.append(HERE, colour)
        else:
            text.append(MISSING, DIM)
    return text


def counter(count: int, needed: int, colour: str) -> Text:
    """How many there are of how many are needed, in four columns."""
    return Text(f"{count}/{needed}".ljust(4), f"bold {colour}" if count >= needed else DIM)


def journal(model: ClusterModel, width: int, height: int) -> Text:
    """What happened, the newest first."""
    lines = [_journal_line(model, line, width) for line in model.journal.newest(height)]
    return Text("\n").join(lines or [Text("nothing yet", DIM)])


def _journal_line(model: ClusterModel, line: Line, width: int) -> Text:
    moment = time.strftime("%H:%M:%S", time.localtime(line.at_us // 1_000_000))
    text = Text(f"{moment} ", DIM, no_wrap=True)
    text.append_text(cells(model, line.replicas, TONES[line.tone])).append(" ")
    text.append(line.text, TONES[line.tone] if line.tone is not Tone.QUIET else DIM)
    text.truncate(width, overflow="ellipsis")
    return text


def choice(name: str, does: str) -> Text:
    """One behaviour to choose."""
    return Text(name, f"bold {BAD}").append(does, f"not bold {PLAIN}")


def _trouble(one: ReplicaView) -> Text:
    """The worst that is known of a replica: what it was told to do, or what others prove."""
    if one.status is not None and one.status.faults and not one.is_silent:
        return Text(" ".join(one.status.faults), f"bold {BAD}")
    if one.accusers:
        return Text("accused by " + " ".join(map(str, sorted(one.accusers))), BAD)
    if one.status is not None and one.status.pending_requests and not one.is_silent:
        return Text(f"{one.status.pending_requests:,} pending", DIM)
    return Text()


def _verdict(agrees: bool | None) -> Text:
    if agrees is None:
        return Text("?", DIM)
    return Text("✓", f"bold {GOOD}") if agrees else Text(CONFLICT, f"bold {BAD}")


def _duration(us: int) -> str:
    return f"{us / 1_000:,.0f} ms" if us < 10_000_000 else f"{us / 1_000_000:,.0f} s"


def _is_hexadecimal(text: str) -> bool:
    return len(text) == 4 and all(character in "0123456789abcdef" for character in text)


def _spread(left: Text, right: Text, width: int) -> Text:
    """Left and right in one line of exactly this width; the left one gives way."""
    left = left.copy()
    room = max(0, width - right.cell_len)
    left.truncate(max(0, room - (1 if right.cell_len else 0)), overflow="ellipsis")
    line = Text(no_wrap=True).append_text(left)
    line.append(" " * max(0, room - left.cell_len))
    return line.append_text(right)
