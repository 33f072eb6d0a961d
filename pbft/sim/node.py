"""One simulated replica: the real core, codec and verifier between a virtual network and disk."""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Protocol

from pbft.codec import decode_client_item, encode_gateway_item, encode_peer_item
from pbft.core.effects import (
    Broadcast,
    DecidedRecord,
    Effect,
    Halt,
    Install,
    Merge,
    ReadBack,
    Refuse,
    Rejection,
    Send,
)
from pbft.core.replica import Replica
from pbft.core.settings import Settings
from pbft.crypto.signing import ReplicaSigner, SignatureScheme
from pbft.crypto.verifier import Decoders, Unverified, Verifier
from pbft.errors import Reason, Rejected
from pbft.faults.api import Behaviour
from pbft.genesis import Genesis
from pbft.messages import Inbound, ReadRequest, Refusal, Submit
from pbft.service.kv.store import KeyValueStore
from pbft.sim.disk import DiskSpeed, Leaving, Outbox
from pbft.sim.network import Links, Place
from pbft.sim.scheduler import Scheduler
from pbft.sim.virtual_base import VirtualBase
from pbft.sim.virtual_log import CrashableLog, VirtualLog
from pbft.storage.api import StorageCorrupt
from pbft.storage.memory import MemoryLog
from pbft.storage.state import LayeredState, MergePlan
from pbft.storage.transfer import InstallPlan
from pbft.types import ClientKey, Instant, Micros, ReplicaId

SLOW_SEAL = 300
"""How much longer a slow digest takes than others: the next checkpoint may be stable by then."""
SLOW_MERGE_US = 4_000_000
"""How long a slow merge takes at most: several checkpoints may become stable meanwhile."""
OPERATOR_US = 100_000
"""How soon a replica whose disk proved corrupt is started again on a new one."""
WALL_EPOCH_US = 1_700_000_000_000_000
"""What a right wall clock shows when the world begins."""


class Watcher(Protocol):
    """Who looks on: the invariants, the counters and the trace."""

    def began(self, node: "Node") -> None:
        """A node starts (again); its core has not made a step yet."""
        ...

    def stepped(self, node: "Node", effects: list[Effect]) -> None:
        """The core of a node made a step; what it wants done was not yet tampered with."""
        ...

    def left(self, node: "Node", effect: Leaving) -> None:
        """Something leaves a node, after whatever had to be durable."""
        ...

    def received(self, node: "Node", origin: Place, data: bytes) -> None:
        """Bytes reached a node that runs."""
        ...

    def admitted(self, node: "Node", origin: ReplicaId, inbound: Inbound) -> None:
        """A peer's message was verified and taken in."""
        ...

    def unreadable(self, node: "Node", error: StorageCorrupt) -> None:
        """A node read something from its disk that is not what was written."""
        ...

    def failed(self, node: "Node", error: Exception) -> None:
        """The core of a node raised an exception."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the nodes of one world share."""

    scheduler: Scheduler
    network: Links
    genesis: Genesis
    scheme: SignatureScheme
    decoders: Decoders
    speed: DiskSpeed
    watcher: Watcher
    clients: Mapping[Place, ClientKey]
    """Who is at which place beside the replicas."""


class Node:
    """A replica with its disk and clocks. Crashing loses everything but the disk."""

    def __init__(
        self,
        surroundings: Surroundings,
        settings: Settings,
        signer: ReplicaSigner,
        random: Random,
        wall_skew_us: Micros = 0,
    ) -> None:
        self.world = surroundings
        self.settings = settings
        self.place: ReplicaId = settings.replica
        self.behaviour: Behaviour | None = None
        """What corrupts it; None: it is honest."""
        self.replica: Replica | None = None
        """None while it is down."""
        self.starts = 0
        self.rejections: Counter[str] = Counter()
        self.log: CrashableLog = MemoryLog()
        self.base = VirtualBase()
        self.signer = signer
        self.slow_seals = surroundings.speed.slow_seals
        self.slow_merges = surroundings.speed.slow_merges
        """Share of its digests that take much longer."""
        self._random = random
        self._wall_skew_us = wall_skew_us
        self._monotonic_offset_us = random.randrange(1, 10**10)
        self._places = {key: place for place, key in surroundings.clients.items()}
        self._broken = False
        self._frozen: list[Callable[[], None]] | None = None
        """What came while it was frozen; None: it runs."""
        self._jobs: deque[Merge | Install] = deque()
        """Work on the state's disk, one piece at a time; the first is under way."""
        self._sealing = 0
        """The start in which a digest is being computed."""
        self._wake_us: Micros | None = None
        """When the next look at the deadlines is scheduled."""

    @property
    def is_honest(self) -> bool:
        """Whether nothing corrupts it."""
        return self.behaviour is None

    @property
    def is_broken(self) -> bool:
        """Whether its own core gave up: only a corrupt replica may come to that."""
        return self._broken

    @property
    def is_up(self) -> bool:
        """Whether its process runs (frozen or not)."""
        return self.replica is not None

    # Life and death.

    def start(self) -> None:
        """Starts the process on what the disk holds. It refuses to if that is corrupt; its operator
        then makes it a new data directory."""
        self.starts += 1
        try:
            replica = self._restored()
        except StorageCorrupt as error:
            self.world.watcher.unreadable(self, error)
            self.initialise()
            replica = self._restored()
        self.replica = replica
        self._jobs.clear()
        self.world.watcher.began(self)
        nonce = self._random.randbytes(32)
        self._run(lambda now: replica.start(now, nonce))
        if self.is_up:
            self.world.network.attach(self.place, self._on_bytes, self._on_link)

    def _restored(self) -> Replica:
        """The core as the disk has it. Raises StorageCorrupt."""
        world, genesis = self.world, self.world.genesis
        constants = genesis.constants
        self.verifier = Verifier(genesis, world.scheme, self._relevance, world.decoders)
        self.state = LayeredState(self.base, constants.buckets, constants.bucket_salt)
        self.outbox = Outbox(
            world.scheduler, self._random, self.log, world.speed, self._release, self.crash
        )
        service = KeyValueStore(self.state, genesis.limits)
        saved = self.log.load(self.state.durable_sequence)
        return Replica(
            self.settings, genesis, self.signer, self.verifier, self.state, service, saved
        )

    def initialise(self) -> None:
        """`pbft storage init`: an empty data directory."""
        self.log = VirtualLog()
        self.base = VirtualBase()

    def inspect(self) -> None:
        """`pbft log inspect`: reads all records of the durable state, as only a recount does."""
        view = self.base.view
        try:
            for position, _ in view.walk(b""):
                view.record(position)
        except StorageCorrupt as error:
            self._refuse_disk(error)

    def crash(self) -> None:
        """Kills the process and takes the power from its disk."""
        self.world.network.detach(self.place)
        self.outbox.crash()
        self.replica = None
        self._frozen = None
        self._wake_us = None

    def freeze(self) -> None:
        """The process stands still; what arrives waits for it."""
        if self._frozen is None:
            self._frozen = []

    def thaw(self) -> None:
        """It runs on, and everything that waited comes at once."""
        waiting, self._frozen = self._frozen or [], None
        for call in waiting:
            call()
        if self.replica is not None:
            self._wake(self.starts)

    # Input.

    def now(self) -> Instant:
        """What the clocks of this machine show."""
        now_us = self.world.scheduler.now_us
        return Instant(
            now_us + self._monotonic_offset_us, WALL_EPOCH_US + now_us + self._wall_skew_us
        )

    def _on_bytes(self, origin: Place, data: bytes) -> None:
        if self._frozen is not None:
            self._frozen.append(lambda: self._on_bytes(origin, data))
            return
        if self.replica is None:
            return
        self.world.watcher.received(self, origin, data)
        try:
            if origin < len(self.world.genesis.replicas):
                self._on_peer(origin, data)
            else:
                self._on_client(self.world.clients[origin], data)
        except Rejected as error:
            self.rejections[error.reason.value] += 1
        except StorageCorrupt as error:
            self._refuse_disk(error)

    def _on_peer(self, origin: ReplicaId, data: bytes) -> None:
        inbound = self.verifier.admit_peer(origin, data)
        self.take_in(origin, inbound)
        if self.replica is not None:
            self.world.watcher.admitted(self, origin, inbound)

    def take_in(self, origin: ReplicaId, inbound: Inbound) -> None:
        """Hands a verified message to the core."""
        replica = self.replica
        if replica is None:
            return
        if self.behaviour is not None:
            if not self.behaviour.hears(origin):
                return
            self.behaviour.observe(origin, inbound, self.now())
        self._run(lambda now: replica.receive(origin, inbound, now))

    def _on_client(self, client: ClientKey, data: bytes) -> None:
        replica = self.replica
        assert replica is not None
        item = decode_client_item(data)
        if isinstance(item, Submit):
            request = self.verifier.admit_request(item.request)
            self._run(lambda now: replica.submit(request, item.full_results, now))
        elif isinstance(item, ReadRequest):
            self._run(lambda now: replica.read(client, item, now))

    def _on_link(self, peer: Place, up: bool) -> None:
        if self._frozen is not None:
            self._frozen.append(lambda: self._on_link(peer, up))
        elif self.replica is not None and peer < len(self.world.genesis.replicas):
            replica = self.replica
            self._run(lambda now: replica.link(peer, up, now))

    def _wake(self, start: int) -> None:
        """Looks whether a deadline has come; one look is scheduled at a time."""
        if start != self.starts or self.replica is None or self._frozen is not None:
            return
        now = self.now()
        if self._wake_us is not None and self._wake_us > now.monotonic_us:
            return
        self._wake_us = None
        due_us = self.replica.next_deadline_us()
        if due_us is not None and due_us <= now.monotonic_us:
            self._run(self.replica.tick)
            return
        held_us = None if self.behaviour is None else self.behaviour.next_deadline_us()
        if held_us is not None and held_us <= now.monotonic_us:
            self._run(lambda _: [])
            return
        self._schedule_wake()

    # Output.

    def _run(self, step: Callable[[Instant], list[Effect]]) -> None:
        """One step of the core and everything that follows from it."""
        now = self.now()
        watcher = self.world.watcher
        try:
            effects = step(now)
        except StorageCorrupt as error:
            self._refuse_disk(error)
            return
        except Exception as error:
            # Whatever it is, it would end the process.
            self._give_up(error)
            return
        watcher.stepped(self, effects)
        if self.behaviour is not None:
            effects = self.behaviour.rewrite(effects, now)
        for effect in effects:
            if isinstance(effect, Rejection):
                self.rejections[effect.reason.value] += 1
            elif isinstance(effect, Halt):
                self._give_up(RuntimeError(f"halted: {effect.why}"))
                return
            elif isinstance(effect, ReadBack):
                delay_us = int(self.world.speed.sync_us * (1 + self._random.random()))
                self._after(delay_us, partial(self._on_read_back, effect))
        self.outbox.perform(effects)
        self._schedule_wake()
        self._schedule_seal()

    def _schedule_seal(self) -> None:
        """A digest that is to be computed is known after a while, now and then after a long one;
        one at a time."""
        if self.replica is not None and self.state.is_sealing and self._sealing != self.starts:
            self._sealing = self.starts
            slowness = SLOW_SEAL if self._random.random() < self.slow_seals else 1
            delay_us = int(self.world.speed.seal_us * slowness * 2 * self._random.random())
            self._after(delay_us, self._on_seal)

    def _after(self, delay_us: Micros, then: Callable[[Replica], None]) -> None:
        """Goes on with what this process waits for, unless it is gone by then."""
        self.world.scheduler.after(delay_us, self._on_due, self.starts, then)

    def _on_due(self, start: int, then: Callable[[Replica], None]) -> None:
        if start != self.starts or self.replica is None:
            return
        if self._frozen is not None:
            self._frozen.append(lambda: self._on_due(start, then))
            return
        then(self.replica)

    def _on_seal(self, replica: Replica) -> None:
        self._sealing = 0
        sealed = None
        try:
            while sealed is None and self.state.is_sealing:
                sealed = self.state.advance_seal()
        except StorageCorrupt as error:
            self._refuse_disk(error)
            return
        if sealed is not None:
            sequence, digest = sealed
            self._run(lambda now: replica.sealed(sequence, digest, now))

    def _on_read_back(self, effect: ReadBack, replica: Replica) -> None:
        records = self._read_decided(effect)
        self._run(lambda now: replica.read_back(effect.peer, records, now))

    def _read_decided(self, effect: ReadBack) -> Sequence[DecidedRecord]:
        try:
            return self.log.read_decided(effect.sequences, effect.size)
        except StorageCorrupt:
            return ()

    def _give_up(self, error: Exception) -> None:
        self.world.watcher.failed(self, error)
        self._broken = True
        self.crash()

    def _refuse_disk(self, error: StorageCorrupt) -> None:
        """A process that reads something corrupt ends; its operator then makes it a new data
        directory and starts it again."""
        self.world.watcher.unreadable(self, error)
        self.crash()
        self.initialise()
        self.world.scheduler.after(OPERATOR_US, self._start_again, self.starts)

    def _start_again(self, start: int) -> None:
        if start == self.starts and not self.is_up:
            self.start()

    def _schedule_wake(self) -> None:
        if self.replica is None:
            return
        due_us = self.replica.next_deadline_us()
        if self.behaviour is not None:
            held_us = self.behaviour.next_deadline_us()
            due_us = held_us if due_us is None else min(due_us, held_us or due_us)
        if due_us is None or (self._wake_us is not None and self._wake_us <= due_us):
            return
        self._wake_us = due_us
        delay_us = due_us - self.now().monotonic_us
        self.world.scheduler.after(delay_us, self._wake, self.starts)

    def _release(self, effect: Leaving) -> None:
        """Performs what leaves; everything it depends on is durable.

        The watcher may kill the replica just before: on disk, but not sent.
        """
        world = self.world
        world.watcher.left(self, effect)
        if self.replica is None:
            return
        match effect:
            case Broadcast():
                data = encode_peer_item(effect.item)
                for to in range(len(world.genesis.replicas)):
                    if to != self.place:
                        world.network.send(self.place, to, data)
            case Send():
                world.network.send(self.place, effect.to, encode_peer_item(effect.item))
            case Merge() | Install():
                self._add_job(effect)
            case Refuse():
                refusal = Refusal(effect.session, effect.number, effect.reason)
                self._answer(effect.client, encode_gateway_item(refusal))
            case _:
                self._answer(effect.client, encode_gateway_item(effect.replies))

    def _answer(self, client: ClientKey, data: bytes) -> None:
        place = self._places.get(client)
        if place is not None:
            self.world.network.send(self.place, place, data)

    def _add_job(self, job: Merge | Install) -> None:
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._begin_job()

    def _begin_job(self) -> None:
        job, state = self._jobs[0], self.state
        plan: MergePlan | InstallPlan = (
            state.begin_merge(job) if isinstance(job, Merge) else state.begin_install(job)
        )
        delay_us = int(self.world.speed.merge_us * (1 + self._random.random()))
        if self._random.random() < self.slow_merges:
            delay_us += int(SLOW_MERGE_US * self._random.random())
        self._after(delay_us, partial(self._on_job_done, plan))

    def _on_job_done(self, plan: MergePlan | InstallPlan, replica: Replica) -> None:
        """A merge or an install ended."""
        try:
            plan.run()
        except StorageCorrupt as error:
            self._refuse_disk(error)
            return
        job = self._jobs.popleft()
        if isinstance(plan, MergePlan):
            self.state.finish_merge(plan)
            step = replica.merged
        else:
            self.state.finish_install(plan)
            step = replica.installed
        if self._jobs:
            self._begin_job()
        self._run(lambda now: step(job.sequence, now))

    def _relevance(self, sender: ReplicaId, message: Unverified) -> Reason | None:
        assert self.replica is not None
        return self.replica.relevance(sender, message)
