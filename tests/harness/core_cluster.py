"""A small deterministic cluster in memory: real cores, codec, verifier and state, virtual time.

Nothing moves by itself: a test submits, settles the network, lets time pass, drops or holds what it
names, crashes and restarts replicas, and forges statements of those that it does not run.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeAlias, TypeVar

from pbft.codec import decode_message, encode_peer_item
from pbft.core import invariants
from pbft.core.effects import (
    Answer,
    Broadcast,
    Effect,
    Event,
    EventName,
    Install,
    Merge,
    Persist,
    ReadBack,
    Rejection,
    Send,
    Truncate,
)
from pbft.core.replica import Replica
from pbft.core.settings import Settings, Timers
from pbft.core.state import Core
from pbft.crypto.signing import FAKE
from pbft.crypto.verifier import Verifier
from pbft.errors import Reason, Rejected
from pbft.limits import LocalLimits
from pbft.messages import (
    Kind,
    PeerItem,
    ReadReplies,
    ReadReply,
    ReadRequest,
    Replies,
    Reply,
    Signed,
    SignedMessage,
)
from pbft.storage.memory import MemoryBase, MemoryLog
from pbft.storage.state import LayeredState
from pbft.types import ClientKey, Instant, Micros, ReplicaId, SequenceNumber
from tests.harness.core_forge import WALL_EPOCH_US, Forge, forge
from tests.harness.core_oracles import Oracles
from tests.harness.journal import Journal

START_US = 10_000_000
SECOND = 1_000_000
DELIVERIES_MAX = 200_000
"""More than any test needs: two replicas that talk without end are a failure."""

S = TypeVar("S")


@dataclass(frozen=True)
class Message:
    """An item under way. `kind` and `body` speak of the signed statement, or of the item itself."""

    sender: ReplicaId
    to: ReplicaId
    item: PeerItem

    @cached_property
    def body(self) -> SignedMessage | PeerItem:
        """The statement inside an envelope, else the item."""
        if isinstance(self.item, Signed):
            return decode_message(self.item.kind, self.item.payload)
        return self.item

    def says(self, *kinds: type[object]) -> bool:
        """Whether it is one of these."""
        return isinstance(self.body, kinds)


Predicate: TypeAlias = Callable[[Message], bool]


class Node:
    """One replica: its disk outlives it."""

    def __init__(self, cluster: "Cluster", settings: Settings) -> None:
        self.cluster = cluster
        self.settings = settings
        self.id = settings.replica
        self.log = MemoryLog()
        self.base = MemoryBase()
        self.wall_skew_us = 0
        self.holds_merges = False
        self.holds_seals = False
        """Merges wait for `finish_jobs`."""
        self.jobs: deque[Merge | Install] = deque()
        self.effects: list[Effect] = []
        """Everything that was performed since the last start."""
        self.crashes_after: int | None = None
        """The power fails after so many more effects; None: it does not."""
        self.rejections: Counter[tuple[str, Reason]] = Counter()
        self.answers: list[Answer] = []
        self.starts = 0
        self._replica: Replica | None = None

    # Life.

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self._replica is not None

    @property
    def replica(self) -> Replica:
        """The running replica."""
        assert self._replica is not None, f"replica {self.id} is down"
        return self._replica

    @property
    def core(self) -> Core:
        """All that it knows."""
        return self.replica.core

    @property
    def journal(self) -> list[bytes]:
        """The operations that its state shows, in order of execution."""
        return self.service.entries()

    def start(self) -> None:
        """Starts on what the disk holds."""
        cluster = self.cluster
        genesis = cluster.forge.genesis
        constants = genesis.constants
        self.effects = []
        self.jobs.clear()
        self.verifier = Verifier(genesis, FAKE)
        self.state = LayeredState(self.base, constants.buckets, constants.bucket_salt)
        self.service = Journal(self.state)
        signer = cluster.forge.signers[self.id]
        saved = self.log.load(self.state.durable_sequence)
        replica = Replica(
            self.settings, genesis, signer, self.verifier, self.state, self.service, saved
        )
        self.verifier.relevance = replica.relevance
        self._replica = replica
        self.starts += 1
        nonce = bytes([self.id, self.starts]) * 16
        self.step(lambda now: replica.start(now, nonce))

    def crash(self) -> None:
        """Loses everything but the disk."""
        self._replica = None
        self.crashes_after = None

    def restart(self) -> None:
        """Crashes and starts again."""
        self.crash()
        self.start()

    # Steps.

    def now(self) -> Instant:
        """What its clocks show."""
        now_us = self.cluster.now_us
        return Instant(now_us, WALL_EPOCH_US + now_us - START_US + self.wall_skew_us)

    def step(self, call: Callable[[Instant], list[Effect]]) -> list[Effect]:
        """One step of the core, its effects performed and everything checked."""
        effects = call(self.now())
        invariants.check(self.core)
        for effect in effects:
            if self._fails_now():
                return effects
            self.cluster.oracles.watch(self.id, effect)
            self.effects.append(effect)
            self._perform(effect)
        if not self.holds_seals:
            effects += self.finish_seals()
        return effects

    def finish_seals(self) -> list[Effect]:
        """Computes the digests that are due."""
        effects = []
        while self.is_up and self.state.is_sealing:
            if (sealed := self.state.advance_seal()) is not None:
                effects += self.step(partial(self.replica.sealed, *sealed))
        return effects

    def _fails_now(self) -> bool:
        if self.crashes_after is None:
            return False
        self.crashes_after -= 1
        fails = self.crashes_after < 0
        if fails:
            self.crash()
        return fails

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Persist() | Truncate():
                self.log.write([effect])
            case ReadBack():
                records = self.log.read_decided(effect.sequences, effect.size)
                self.step(partial(self.replica.read_back, effect.peer, records))
            case Send() | Broadcast():
                self.cluster.post(self.id, effect)
            case Answer():
                self.answers.append(effect)
            case Rejection():
                self.rejections[effect.message, effect.reason] += 1
            case Merge() | Install():
                self.jobs.append(effect)
                if not self.holds_merges:
                    self.finish_jobs()

    def finish_jobs(self) -> None:
        """Does the disk work that waits."""
        while self.jobs and self.is_up:
            job, replica = self.jobs.popleft(), self.replica
            if isinstance(job, Merge):
                merge = self.state.begin_merge(job)
                merge.run()
                self.state.finish_merge(merge)
                self.step(partial(replica.merged, job.sequence))
            else:
                install = self.state.begin_install(job)
                install.run()
                self.state.finish_install(install)
                self.step(partial(replica.installed, job.sequence))

    def receive(self, sender: ReplicaId, item: PeerItem) -> list[Effect]:
        """What a peer sent, through codec and verifier; a refusal of the verifier is counted."""
        try:
            inbound = self.verifier.admit_peer(sender, encode_peer_item(item))
        except Rejected as error:
            self.rejections["verifier", error.reason] += 1
            return []
        return self.step(lambda now: self.replica.receive(sender, inbound, now))

    def submit(self, request: Signed, full_results: bool = False) -> list[Effect]:
        """A request of a client that is connected here. Raises Rejected as the verifier does."""
        authenticated = self.verifier.admit_request(request)
        return self.step(lambda now: self.replica.submit(authenticated, full_results, now))

    def read(self, client: ClientKey, read: ReadRequest) -> list[Effect]:
        """A fast read."""
        return self.step(lambda now: self.replica.read(client, read, now))

    def link(self, peer: ReplicaId, up: bool) -> list[Effect]:
        """A stream broke, or both stand again."""
        return self.step(lambda now: self.replica.link(peer, up, now))

    def tick(self) -> list[Effect]:
        """A deadline passed."""
        return self.step(self.replica.tick)

    # Looking.

    def sent(self, *kinds: type[S]) -> list[S]:
        """Statements (or items) of these kinds that left since the last start, in order."""
        items = [e.item for e in self.effects if isinstance(e, Send | Broadcast)]
        bodies = [Message(self.id, self.id, item).body for item in items]
        return [body for body in bodies if isinstance(body, kinds)]

    def view_change(self) -> Signed:
        """The one view-change that it broadcast since the last start."""
        (found,) = [
            effect.item
            for effect in self.effects
            if isinstance(effect, Broadcast)
            and isinstance(effect.item, Signed)
            and effect.item.kind is Kind.VIEW_CHANGE
        ]
        return found

    def events(self, name: EventName) -> list[Event]:
        """What it reported under this name since the last start."""
        return [e for e in self.effects if isinstance(e, Event) and e.name is name]

    def replies(self) -> list[Reply]:
        """All replies that it answered, in order."""
        found: list[Reply] = []
        for answer in self.answers:
            message = decode_message(answer.replies.kind, answer.replies.payload)
            if isinstance(message, Replies):
                found += message.replies
        return found

    def read_replies(self) -> list[ReadReply]:
        """All read answers, in order."""
        found: list[ReadReply] = []
        for answer in self.answers:
            message = decode_message(answer.replies.kind, answer.replies.payload)
            if isinstance(message, ReadReplies):
                found += message.replies
        return found


@dataclass
class Network:
    """What is under way, in order, and what happens to it."""

    queue: deque[Message] = field(default_factory=deque)
    held: list[Message] = field(default_factory=list)
    drops: Predicate | None = None
    """What is lost."""
    holds: Predicate | None = None
    """What is kept until `release`."""


class Cluster:
    """n replicas, of which `live` run; the others are the test's to speak for."""

    def __init__(
        self,
        replicas: int = 4,
        live: Iterable[ReplicaId] | None = None,
        *,
        pipeline_depth: int = 8,
        timers: Timers | None = None,
        limits: LocalLimits | None = None,
        with_forge: Forge | None = None,
    ) -> None:
        self.forge = with_forge or forge(replicas)
        self.oracles = Oracles()
        self.thresholds = self.forge.thresholds
        self.now_us = START_US
        self.network = Network()
        chosen = range(replicas) if live is None else live
        self.nodes = {
            i: Node(
                self,
                Settings(
                    i,
                    pipeline_depth,
                    timers=timers or Timers(),
                    limits=limits or LocalLimits(),
                ),
            )
            for i in chosen
        }
        self.oracles.honest.update(self.nodes)
        for node in self.nodes.values():
            node.start()
        self.settle()

    def __getitem__(self, replica: ReplicaId) -> Node:
        return self.nodes[replica]

    @property
    def up(self) -> list[Node]:
        """The nodes that run, ascending."""
        return [node for _, node in sorted(self.nodes.items()) if node.is_up]

    # The network.

    def post(self, sender: ReplicaId, effect: Send | Broadcast) -> None:
        """Puts an item under way."""
        if isinstance(effect, Send):
            receivers = [effect.to]
        else:
            receivers = [i for i in range(self.thresholds.replicas) if i != sender]
        for to in receivers:
            message = Message(sender, to, effect.item)
            if self.network.drops is not None and self.network.drops(message):
                continue
            if self.network.holds is not None and self.network.holds(message):
                self.network.held.append(message)
            else:
                self.network.queue.append(message)

    def settle(self) -> None:
        """Delivers everything that is under way and what it causes; takes no time."""
        delivered = 0
        while self.network.queue:
            self.deliver(self.network.queue.popleft())
            delivered += 1
            assert delivered < DELIVERIES_MAX, "replicas that talk without end"

    def deliver(self, message: Message) -> None:
        """Hands one message over, if its receiver runs."""
        node = self.nodes.get(message.to)
        if node is not None and node.is_up:
            node.receive(message.sender, message.item)

    def drop(self, predicate: Predicate | None) -> None:
        """From now on loses what the predicate names (None: nothing)."""
        self.network.drops = predicate

    def hold(self, predicate: Predicate | None) -> None:
        """From now on keeps what the predicate names (None: nothing)."""
        self.network.holds = predicate

    def release(self, order: Callable[[list[Message]], list[Message]] = list) -> None:
        """Delivers what was held, in this order, and holds nothing any more."""
        held, self.network.held = order(self.network.held), []
        self.network.holds = None
        self.network.queue.extend(held)
        self.settle()

    def isolate(self, *replicas: ReplicaId) -> None:
        """Loses everything from and to these."""
        self.drop(lambda m: m.sender in replicas or m.to in replicas)

    # Time.

    def advance(self, duration_us: Micros) -> None:
        """Lets time pass, every deadline served at its moment."""
        until_us = self.now_us + duration_us
        ticks = 0
        while True:
            due = [(node.replica.next_deadline_us() or until_us, node.id) for node in self.up]
            at_us, earliest = min(due, default=(until_us + 1, -1))
            if at_us > until_us:
                break
            ticks = ticks + 1 if at_us <= self.now_us else 0
            assert ticks < 100, f"replica {earliest} asks for ticks without end"
            self.now_us = max(self.now_us, at_us)
            self.nodes[earliest].tick()
            self.settle()
        self.now_us = until_us

    # Doing.

    def submit(
        self, request: Signed, to: Iterable[ReplicaId] | None = None, full_results: bool = False
    ) -> None:
        """A client sends a request, by default to the primary that the first node believes in."""
        for replica in [self.up[0].core.primary] if to is None else to:
            if replica in self.nodes and self.nodes[replica].is_up:
                self.nodes[replica].submit(request, full_results)
        self.settle()

    def run(self, count: int, first: int = 1, client: int = 0) -> None:
        """Submits requests one after the other and settles each."""
        for number in range(first, first + count):
            self.submit(self.forge.request(number, client=client))

    def tell(self, to: ReplicaId, *items: PeerItem, sender: ReplicaId | None = None) -> None:
        """Forged items reach a node; by default each comes from its signer."""
        for item in items:
            signer = _signer(item)
            if signer is not None:
                self.oracles.forged.add(signer)
            origin = sender if sender is not None else (0 if signer is None else signer)
            self.nodes[to].receive(origin, item)
        self.settle()

    def fail_primary(self) -> ReplicaId:
        """Crashes the primary; its peers see their streams to it break. Returns who it was."""
        failed = self.up[0].core.primary
        self.nodes[failed].crash()
        for node in self.up:
            node.link(failed, False)
        self.settle()
        return failed

    def bring_back(self, replica: ReplicaId) -> None:
        """Restarts a crashed replica; the streams stand again."""
        self.nodes[replica].start()
        for node in self.up:
            if node.id != replica:
                node.link(replica, True)
        self.settle()

    # Looking.

    def views(self) -> set[int]:
        """The views of all nodes that run."""
        return {node.core.view for node in self.up}

    def executed(self) -> set[SequenceNumber]:
        """How far the nodes that run have executed."""
        return {node.core.executed for node in self.up}

    def agree(self) -> bool:
        """Whether all nodes that run show the same state."""
        journals = [node.journal for node in self.up]
        return all(journal == journals[0] for journal in journals)


def _signer(item: PeerItem) -> ReplicaId | None:
    signed = getattr(item, "pre_prepare", item)
    signer = signed.signer if isinstance(signed, Signed) else None
    return signer if isinstance(signer, int) else None


def lose_disk(cluster: Cluster, replica: int) -> None:
    """The replica comes back with an empty directory."""
    node = cluster[replica]
    node.crash()
    node.log, node.base = MemoryLog(), MemoryBase()
    cluster.oracles.forged.add(replica)
    node.start()
    cluster.settle()
