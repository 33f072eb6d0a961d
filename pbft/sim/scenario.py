"""From a seed to everything that will go wrong in one run (swarm testing, adversary.md section 4).

Each run draws a few dimensions and leaves the others alone: runs in which everything is bad at once
see less than many runs of which each is bad in its own way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random

from pbft.core.settings import MILLISECOND, SECOND, Timers
from pbft.errors import ConfigurationError
from pbft.faults.registry import BEHAVIOURS
from pbft.faults.small_scope import SmallScope
from pbft.genesis import ProtocolConstants
from pbft.limits import LocalLimits, ProtocolLimits
from pbft.quorum import Thresholds
from pbft.sim.disk import DiskSpeed
from pbft.sim.network import Conditions, Place
from pbft.sim.twins import Twin
from pbft.types import Micros, ReplicaId

CLIENT_CRIMES = ("equivocating-client", "forging-client")
"""Byzantine clients, by the names under which --faults asks for them."""
DRAWN_APART = (SmallScope.name, Twin.name)
"""What takes the place of a crime by name in some runs."""
FAULTS = (*BEHAVIOURS, *DRAWN_APART, *CLIENT_CRIMES)
NO_FAULTS = "none"
"""The name with which --faults asks for honest replicas and clients only."""

LATER_PRIMARY = ("wrong-new-view",)
"""Crimes of the primary of a new view: more likely done by a replica that becomes one."""
PRIMARY = (
    "bad-signature",
    "censor",
    "equivocate",
    "skewed-proposal",
    "slow-primary",
    "withhold-body",
)
"""Crimes that only a primary can commit."""
SPARED = 0.25
"""Share of the runs with room for a disk that loses what was synced."""
APART = 0.2
"""Share of the runs with crimes in which one of the corrupt commits none that anybody thought
of."""
WEARY = 0.25
"""Share of the runs in which every request is a heavy one and few have room in a batch."""
SLOW_SEALS = 0.1
"""Share of the digests that come late in every run that is drawn."""
NEED_VIEW_CHANGE = ("forge-view-change", "omit-view-change", "wrong-new-view")
NEED_TRANSFER = ("poison-transfer",)


@dataclass(frozen=True, slots=True)
class Crime:
    """A behaviour of one replica, with its options."""

    replica: ReplicaId
    behaviour: str
    share_percent: int = 100
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """Directions between places that carry nothing for a while."""

    start_us: Micros
    end_us: Micros
    directions: tuple[tuple[Place, Place], ...]
    noticed: bool


@dataclass(frozen=True, slots=True)
class Outage:
    """A replica that is down (killed, power lost) or frozen for a while."""

    start_us: Micros
    end_us: Micros
    replica: ReplicaId
    frozen: bool


class Damage(Enum):
    """What becomes of a disk."""

    FULL = "full"
    SYNC = "sync"
    FLIPPED = "flipped"
    TORN = "torn"
    MISDIRECTED = "misdirected"
    STATE = "state damaged"
    LOST = "lost"
    ROLLED_BACK = "rolled back"


HARMLESS = (Damage.FULL, Damage.SYNC)
"""Nothing that was synced is lost: such a replica does not count as faulty."""


@dataclass(frozen=True, slots=True)
class DiskFault:
    """A replica ends because of its disk, or comes back with a disk that is not what it was."""

    copy_us: Micros
    """When the copy is made that is rolled back to."""
    start_us: Micros
    end_us: Micros
    """When the replica starts again."""
    replica: ReplicaId
    damage: Damage


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run, completely determined."""

    seed: int
    replicas: int
    constants: ProtocolConstants = field(default_factory=ProtocolConstants)
    limits: ProtocolLimits = field(default_factory=ProtocolLimits)
    local_limits: LocalLimits = field(default_factory=LocalLimits)
    timers: Timers = field(default_factory=Timers)
    pipeline_depth: int = 8
    conditions: Conditions = field(default_factory=Conditions)
    speed: DiskSpeed = field(default_factory=DiskSpeed)
    wall_skews_us: tuple[Micros, ...] = ()
    crimes: tuple[Crime, ...] = ()
    client_crimes: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()
    outages: tuple[Outage, ...] = ()
    disk_faults: tuple[DiskFault, ...] = ()
    clients: int = 3
    """Honest ones."""
    requests_per_client: int = 40
    keys: int = 6
    faults_end_us: Micros = 4 * SECOND
    """When everything is healed."""
    power_loss_at_end: bool = False
    """After all is settled every honest replica loses power at once and must come back equal."""
    quiet_timeouts: int = 3
    """For how many request timeouts the settled cluster is watched."""
    forced: Thresholds | None = None
    """Other thresholds than those for this many replicas: only for showing what they are for."""

    @property
    def requests(self) -> int:
        """How many requests the honest clients make at the least."""
        return self.clients * self.requests_per_client


def draw_scenario(
    seed: int, replicas: Sequence[int], faults: Sequence[str] | None = None
) -> Scenario:
    """The scenario of a seed. `replicas`: sizes to choose from; `faults`: names to choose from (all
    if None). Raises ConfigurationError for a name or size that does not exist."""
    random = Random(f"scenario {seed}")
    if not replicas:
        raise ConfigurationError("name at least one number of replicas")
    n = random.choice(list(replicas))
    try:
        faulty = Thresholds.of(n).faulty
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    crimes, client_crimes = _draw_crimes(random, n, faulty, faults)
    if faults is None and crimes and Random(f"spared {seed}").random() < SPARED:
        # Somebody less is Byzantine, so that a disk may forget instead.
        crimes = tuple(crime for crime in crimes if crime.replica != crimes[0].replica)
    apart = Random(f"apart {seed}")
    if faults is None and crimes and apart.random() < APART:
        others = tuple(crime for crime in crimes if crime.replica != crimes[0].replica)
        crimes = (*others, Crime(crimes[0].replica, apart.choice(DRAWN_APART)))
    faults_end_us = random.randrange(2 * SECOND, 5 * SECOND)
    clients = random.randrange(2, 5)
    timeout_us = random.choice((300, 500, 800)) * MILLISECOND
    wishes = {crime.behaviour for crime in crimes}
    interval = 4 if wishes & set(NEED_TRANSFER) else random.choice((4, 4, 8, 16, 64))
    corrupt = {crime.replica for crime in crimes}
    outages = _draw_outages(random, n, faults_end_us, wishes, corrupt)
    cuts = _draw_cuts(random, n, clients, faults_end_us)
    liars = [crime.replica for crime in crimes if crime.behaviour in NEED_TRANSFER]
    if liars:
        outage, cut = _draw_transfer(random, n, faults_end_us, corrupt, liars[0])
        outages, cuts = (*outages, outage), (*cuts, cut)
    disk_faults = _draw_disk_faults(seed, n, faulty, faults_end_us, crimes)
    is_weary = Random(f"weary {seed}").random() < WEARY
    return Scenario(
        seed=seed,
        replicas=n,
        constants=ProtocolConstants(
            checkpoint_interval=interval,
            window=interval * random.choice((2, 2, 3)),
            buckets=random.choice((1, 8, 16)),
            bucket_salt=random.getrandbits(32),
        ),
        limits=_draw_limits(random, is_weary),
        timers=Timers(
            request_timeout_us=timeout_us,
            request_timeout_cap_us=32 * timeout_us,
            link_grace_us=100 * MILLISECOND,
            primary_unreachable_us=200 * MILLISECOND,
            status_fast_us=100 * MILLISECOND,
            status_slow_us=1 * SECOND,
        ),
        pipeline_depth=random.choice((1, 1, 2, 4, 8)),
        conditions=_draw_conditions(random),
        speed=_draw_speed(random),
        wall_skews_us=tuple(random.randrange(-200_000, 200_000) for _ in range(n)),
        crimes=crimes,
        client_crimes=client_crimes,
        cuts=cuts,
        outages=outages,
        disk_faults=disk_faults,
        clients=clients,
        requests_per_client=-(-105 // clients),
        keys=random.randrange(2, 9),
        faults_end_us=faults_end_us,
        power_loss_at_end=random.random() < 0.3,
        quiet_timeouts=100 if random.random() < 0.1 else 3,
        local_limits=_draw_local_limits(random, is_weary),
    )


def _draw_speed(random: Random) -> DiskSpeed:
    return DiskSpeed(
        sync_us=random.choice((0, 500, 5_000)),
        merge_us=random.choice((500, 5_000, 50_000)),
        slow_seals=SLOW_SEALS,
        slow_merges=random.choice((0.0, 0.0, 0.5)),
    )


def _draw_crimes(
    random: Random, n: int, faulty: int, faults: Sequence[str] | None
) -> tuple[tuple[Crime, ...], tuple[str, ...]]:
    names = [name for name in FAULTS if faults is None or name in faults]
    if faults is not None and (unknown := set(faults) - {*FAULTS, NO_FAULTS}):
        known = ", ".join((*FAULTS, NO_FAULTS))
        raise ConfigurationError(f"no fault {sorted(unknown)[0]!r}; known are {known}")
    if not names or (faults is None and random.random() < 0.1):
        return (), ()
    # Unless they are asked for, they take the place of somebody who is drawn here.
    apart = () if faults is None else DRAWN_APART
    behaviours = [name for name in names if name in BEHAVIOURS or name in apart]
    crimes: list[Crime] = []
    for replica in random.sample(range(n), faulty) if behaviours else ():
        for behaviour in random.sample(behaviours, min(len(behaviours), random.choice((1, 1, 2)))):
            place = replica
            if behaviour in PRIMARY and random.random() < 0.6:
                place = 0
            elif behaviour in LATER_PRIMARY and random.random() < 0.9:
                place = 1
            corrupt = {crime.replica for crime in crimes}
            if place not in corrupt and len(corrupt) == faulty:
                place = random.choice(sorted(corrupt))
            rare = behaviour in (*NEED_VIEW_CHANGE, *NEED_TRANSFER)
            share = random.choice((100, 100, 40) if rare else (100, 100, 40, 10))
            crimes.append(Crime(place, behaviour, share))
    client_names = [name for name in names if name in CLIENT_CRIMES]
    some = bool(client_names) and (not behaviours or random.random() < 0.3)
    return tuple(crimes), (random.choice(client_names),) if some else ()


def _draw_limits(random: Random, is_weary: bool) -> ProtocolLimits:
    limits = ProtocolLimits(
        batch_requests=random.choice((1, 2, 8, 1000)),
        sessions_per_client=random.choice((1, 2, 8)),
        cached_result_bytes=random.choice((2048, 1 << 20)),
    )
    return replace(limits, records_per_batch=4) if is_weary else limits


def _draw_local_limits(random: Random, is_weary: bool) -> LocalLimits:
    operations = random.choice((1, 1_000, 1_000))
    limits = LocalLimits(operations_per_step=operations)
    if operations == 1:
        # A small machine: what peers may need still is on disk only.
        limits = replace(limits, tail_bytes=0)
    return replace(limits, heavy_request_records=1, record_us=200) if is_weary else limits


def _draw_conditions(random: Random) -> Conditions:
    return Conditions(
        lost=random.choice((0.0, 0.0, 0.0, 0.01, 0.1, 0.3)),
        duplicated=random.choice((0.0, 0.0, 0.05, 0.5)),
        delay_us=random.choice((500, 2_000, 10_000)),
        late=random.choice((0.0, 0.0, 0.1, 0.3)),
        late_us=random.choice((10_000, 100_000)),
        ordered=random.random() < 0.5,
    )


def _draw_span(random: Random, end_us: Micros) -> tuple[Micros, Micros]:
    start_us = random.randrange(end_us * 3 // 4)
    length_us = random.randrange(end_us // 16, end_us // 2)
    return start_us, min(end_us, start_us + length_us)


def _draw_outages(
    random: Random, n: int, end_us: Micros, wishes: set[str], corrupt: set[ReplicaId]
) -> tuple[Outage, ...]:
    outages: list[Outage] = []
    count = random.choice((0, 0, 1, 2, 4))
    busy: dict[ReplicaId, Micros] = {}
    needs_occasion = bool(wishes & set(NEED_VIEW_CHANGE)) and 0 not in corrupt
    for number in range(max(count, needs_occasion)):
        replica = random.randrange(n)
        start_us, stop_us = _draw_span(random, end_us)
        if number == 0 and needs_occasion:
            # The crime is one against a view change: the first primary is away.
            replica = 0
            start_us, stop_us = end_us // 8, end_us * random.randrange(5, 8) // 8
        if start_us <= busy.get(replica, -1):
            continue
        busy[replica] = stop_us
        outages.append(Outage(start_us, stop_us, replica, random.random() < 0.2))
    if random.random() < 0.1:
        # Power loss of all, whatever else is going on.
        start_us, stop_us = _draw_span(random, end_us)
        outages = [Outage(start_us, stop_us, replica, False) for replica in range(n)]
    return tuple(outages)


def _draw_disk_faults(
    seed: int, n: int, faulty: int, end_us: Micros, crimes: tuple[Crime, ...]
) -> tuple[DiskFault, ...]:
    """Disks that refuse, and, where fewer than f replicas are corrupt, disks that forget."""
    random = Random(f"disks {seed}")
    corrupt = {crime.replica for crime in crimes}
    honest = sorted(set(range(n)) - corrupt)
    found = []
    kinds = list(HARMLESS if len(corrupt) == faulty else Damage)
    for replica in random.sample(honest, faulty - len(corrupt) or 1):
        if random.random() < 0.3:
            continue
        copy_us, start_us, stop_us = sorted(random.randrange(end_us) for _ in range(3))
        found.append(DiskFault(copy_us, start_us, stop_us, replica, random.choice(kinds)))
        if random.random() < 0.3:
            # The next may set it back to before this one.
            start_us, stop_us = sorted(random.randrange(stop_us, end_us) for _ in range(2))
            copy_us = random.randrange(start_us + 1)
            found.append(DiskFault(copy_us, start_us, stop_us, replica, random.choice(kinds)))
    return tuple(found)


def _draw_transfer(
    random: Random, n: int, end_us: Micros, corrupt: set[ReplicaId], liar: ReplicaId
) -> tuple[Outage, Cut]:
    """An occasion to lie to somebody who must catch up: it is down, then it hears the liar only."""
    victim = max(set(range(1, n)) - corrupt)
    back_us = end_us * random.randrange(5, 7) // 8
    others = tuple((other, victim) for other in range(n) if other not in (victim, liar))
    return (
        Outage(end_us // 8, back_us, victim, frozen=False),
        Cut(back_us, end_us, others, noticed=False),
    )


def _draw_cuts(random: Random, n: int, clients: int, end_us: Micros) -> tuple[Cut, ...]:
    cuts = []
    for _ in range(random.choice((0, 0, 1, 2, 3))):
        start_us, stop_us = _draw_span(random, end_us)
        directions = _draw_directions(random, n, n + clients)
        cuts.append(Cut(start_us, stop_us, directions, random.random() < 0.7))
    return tuple(cuts)


def _draw_directions(random: Random, n: int, places: int) -> tuple[tuple[Place, Place], ...]:
    """One replica cut off, two halves, or a few single directions."""
    kind = random.randrange(4)
    everywhere = range(places)
    if kind <= 1:
        lonely = random.randrange(n)
        others = [place for place in everywhere if place != lonely]
        if kind == 0:
            return tuple((lonely, place) for place in others) + tuple(
                (place, lonely) for place in others
            )
        # Asymmetric: it hears, but is not heard, or the other way round.
        if random.random() < 0.5:
            return tuple((lonely, place) for place in others)
        return tuple((place, lonely) for place in others)
    if kind == 2:
        side = {place for place in everywhere if random.random() < 0.5}
        return tuple(
            (one, other)
            for one in everywhere
            for other in everywhere
            if (one in side) != (other in side)
        )
    pairs = [(one, other) for one in range(n) for other in range(n) if one != other]
    return tuple(random.sample(pairs, random.randrange(1, n)))
