"""The demos that no real cluster can play: too few generals, and too many traitors."""

from pbft.cli.demos.generals import (
    ATTACK,
    COMMANDER,
    RETREAT,
    Accomplice,
    Field,
    TraitorousCommander,
    TraitorousLieutenant,
)
from pbft.cli.demos.story import Story, commas
from pbft.core.settings import SECOND
from pbft.faults.delivery import Silent
from pbft.types import ReplicaId

PATIENCE_US = 5 * SECOND
"""Ten request timeouts: who has done nothing by then is stuck."""
STOP_US = 1 * SECOND // 4
"""Before the first timeout: only the three phases are looked at."""


def three_generals(story: Story) -> None:
    """n = 3 with one traitor: nothing helps."""
    story.say(
        """Three generals surround a city. The commander (the primary) sends attack or retreat to
        two lieutenants (the backups); one of the three is a traitor (marked *). The loyal ones must
        all do the same. PBFT needs four for that: a genesis with three replicas is refused, so the
        thresholds are forced here, f = 1 and either q = 3 or q = n - f = 2."""
    )
    _silent_traitor(story)
    _two_faced_commander(story)
    _indistinguishable(story)
    story.why(
        """Two quorums of n - f generals must share a loyal one, or each can hear a different story:
        2(n - f) - n > f, so n > 3f. With n = 3 and f = 1 a quorum of three waits for the traitor
        for ever, and two quorums of two may share nobody but the traitor."""
    )


def _silent_traitor(story: Story) -> None:
    story.say("1. q = 3. Lieutenant 2 is a traitor and says nothing.")
    field = Field(3, quorum=3)
    field.betray(2, Silent(field.crime_of(2, Silent.name)))
    violation = field.play([ATTACK], PATIENCE_US)
    story.draw(field.diagram())
    done = field.loyal_orders()
    story.check(
        "three generals, q = 3: one silent traitor stops it for good",
        f"{len(done)} loyal generals acted in {PATIENCE_US // SECOND} s of virtual time",
        violation is None and not done and field.requests_settled == 0,
    )


def _two_faced_commander(story: Story) -> None:
    story.say("2. q = 2, the only choice that is live. The commander tells two stories.")
    field = Field(3, quorum=2)
    plan = {1: ATTACK, 2: RETREAT}
    crime = field.crime_of(COMMANDER, TraitorousCommander.name)
    field.betray(COMMANDER, TraitorousCommander(crime, plan, commits=True))
    violation = field.play([ATTACK, RETREAT], PATIENCE_US)
    story.draw(field.diagram())
    _show_orders(story, field)
    orders = set(field.loyal_orders().values())
    story.check(
        "three generals, q = 2: agreement breaks, and the simulator sees it",
        "nothing broke" if violation is None else f"{violation.invariant}: {violation.detail}",
        violation is not None and violation.invariant == "I1" and orders == {ATTACK, RETREAT},
    )


def _indistinguishable(story: Story) -> None:
    story.say(
        "3. Whom should loyal lieutenant 1 believe (q = 3)? First the commander is the traitor."
    )
    first = Field(3, quorum=3)
    crime = first.crime_of(COMMANDER, TraitorousCommander.name)
    plan = {1: ATTACK, 2: RETREAT}
    first.betray(COMMANDER, TraitorousCommander(crime, plan, commits=False))
    first.play([ATTACK, RETREAT], STOP_US)
    story.draw(first.diagram())
    story.say("Now the commander is loyal, and lieutenant 2 lies about what it was told.")
    second = Field(3, quorum=3)
    crime = second.crime_of(2, TraitorousLieutenant.name)
    second.betray(2, TraitorousLieutenant(crime, second.orders, commits=False))
    second.play([ATTACK], STOP_US)
    story.draw(second.diagram())
    heard = [first.heard_by(1), second.heard_by(1)]
    rows = [
        ["commander is the traitor", *_heard(heard[0])],
        ["lieutenant 2 is the traitor", *_heard(heard[1])],
    ]
    story.saw(["lieutenant 1 hears when", "from the commander", "from lieutenant 2"], rows)
    story.check(
        "a traitorous commander and a traitorous lieutenant look the same to the loyal one",
        f"{len(heard[0])} messages each, {'equal' if heard[0] == heard[1] else 'different'}",
        heard[0] == heard[1]
        and {(sender, order) for sender, _, order in heard[0]}
        == {(COMMANDER, ATTACK), (2, RETREAT)},
    )


def _heard(heard: list[tuple[ReplicaId, str, str]]) -> list[str]:
    return [
        ", ".join(f"{phase} {order}" for sender, phase, order in heard if sender == general)
        for general in (COMMANDER, 2)
    ]


def four_generals(story: Story) -> None:
    """n = 4 with one traitor: agreement, whoever the traitor is."""
    story.say(
        """Four generals, at most one traitor (marked *): f = 1 and q = 3, as every PBFT cluster of
        four replicas. First a lieutenant is the traitor: it claims that it was told to retreat."""
    )
    field = Field(4)
    crime = field.crime_of(3, TraitorousLieutenant.name)
    field.betray(3, TraitorousLieutenant(crime, field.orders, commits=True))
    violation = field.play([ATTACK], PATIENCE_US)
    story.draw(field.diagram())
    _show_orders(story, field)
    orders = field.loyal_orders()
    story.check(
        "a traitorous lieutenant: all loyal generals obey the loyal commander",
        _spoken(orders),
        violation is None and orders == {0: ATTACK, 1: ATTACK, 2: ATTACK},
    )
    story.say(
        """Now the commander is the traitor: it tells lieutenants 1 and 3 to attack, lieutenant 2 to
        retreat, and leaves. No order gets three commits. The lieutenants depose it; the next
        commander must carry over what two loyal ones had prepared."""
    )
    field = Field(4)
    crime = field.crime_of(COMMANDER, TraitorousCommander.name)
    plan = {1: ATTACK, 2: RETREAT, 3: ATTACK}
    field.betray(COMMANDER, TraitorousCommander(crime, plan, commits=False))
    violation = field.play([ATTACK, RETREAT], PATIENCE_US)
    story.draw(field.diagram())
    _show_orders(story, field)
    orders = field.loyal_orders()
    story.check(
        "a traitorous commander: all loyal lieutenants do the same",
        _spoken(orders),
        violation is None and len(orders) == 3 and len(set(orders.values())) == 1,
    )
    story.why(
        """Any two quorums of three among four share at least two generals, one of them loyal, and a
        loyal general votes for one order only. So at most one order can be agreed on, and what may
        have been agreed on is reported by somebody loyal in every quorum of view-changes."""
    )


def too_many_faults(story: Story) -> None:
    """More than f faults: what breaks, seen."""
    story.say(
        """Four generals stand one traitor, f = 1. Here are two: the commander tells lieutenant 2 to
        attack and lieutenant 3 to retreat, and lieutenant 1 confirms to each what it was told."""
    )
    field = Field(4)
    crime = field.crime_of(COMMANDER, TraitorousCommander.name)
    commander = TraitorousCommander(crime, {2: ATTACK, 3: RETREAT}, commits=True)
    field.betray(COMMANDER, commander)
    field.betray(1, Accomplice(field.crime_of(1, Accomplice.name), commander))
    violation = field.play([ATTACK, RETREAT], PATIENCE_US)
    story.draw(field.diagram())
    _show_orders(story, field)
    orders = field.loyal_orders()
    story.why(
        """Both loyal lieutenants hold a quorum of three signed commits, and both quorums contain
        the two traitors: the overlap of f + 1 = 2 has no loyal member any more. The protocol
        promises nothing beyond f, and this is why n must be chosen for the faults to be feared."""
    )
    story.check(
        "two traitors of four (f = 1) break agreement, and the checker sees it",
        "nothing broke" if violation is None else f"{violation.invariant}: {violation.detail}",
        violation is not None and violation.invariant == "I1" and orders == {2: ATTACK, 3: RETREAT},
    )


def _show_orders(story: Story, field: Field) -> None:
    rows: list[list[object]] = []
    for node in field.nodes:
        name = "commander" if node.place == COMMANDER else f"lieutenant {node.place}"
        heard = field.heard_by(node.place)
        phases = [_of_phase(heard, phase) for phase in ("pre-prepare", "prepare", "commit")]
        order = "(traitor)" if node.place in field.traitors else field.carried_out.get(node.place)
        rows.append([name, *phases, order])
    story.saw(["view 0: general", "pre-prepare of", "prepare of", "commit of", "carried out"], rows)


def _of_phase(heard: list[tuple[ReplicaId, str, str]], phase: str) -> str:
    """Who said what: attack 0 1, retreat 2."""
    senders: dict[str, list[ReplicaId]] = {}
    for sender, one, order in heard:
        if one == phase:
            senders.setdefault(order, []).append(sender)
    return ", ".join(f"{order} {commas(told)}" for order, told in sorted(senders.items()))


def _spoken(orders: dict[ReplicaId, str]) -> str:
    return ", ".join(f"general {one} {order}s" for one, order in orders.items()) or "nobody acted"
