"""One simulated cluster: replicas, clients, network, disks and the faults of its scenario."""

import traceback
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from pbft.codec import decode_message, decode_peer_item
from pbft.core import invariants as core_invariants
from pbft.core.effects import Broadcast, Effect, Event, EventName, Send
from pbft.core.settings import Settings
from pbft.crypto.signing import ED25519, FAKE, ClientSigner, ReplicaSigner
from pbft.crypto.verifier import Decoders, Verifier
from pbft.faults.api import Behaviour, Corruption
from pbft.faults.registry import Several, make_behaviour
from pbft.messages import Hello, Inbound, Request, Signed
from pbft.sim.clients import ByzantineClient, HonestClient
from pbft.sim.disk import Leaving
from pbft.sim.disk_faults import DamagedDisk
from pbft.sim.forced import make_genesis
from pbft.sim.invariants import Counters, Violation, Watch
from pbft.sim.network import Network, Place
from pbft.sim.node import Node, Surroundings
from pbft.sim.scenario import Crime, Cut, Outage, Scenario
from pbft.sim.scheduler import Scheduler
from pbft.sim.trace import Trace
from pbft.sim.twins import CopysNetwork, Phases, Twin, draw_parts
from pbft.sim.virtual_log import VirtualLog
from pbft.sim.workload import draw_visits
from pbft.sim.write_ahead import WriteAhead
from pbft.storage.api import StorageCorrupt
from pbft.types import ReplicaId, View

CORE_CHECK_SLOTS = 4
"""The core's own invariants walk over its slots: so many in a step, on average. What is wrong with
a slot stays wrong."""
DECODED = 1024
"""What is broadcast arrives at every replica: so many messages are decoded once for all."""
DELIVERED_AGAIN = 0.02
"""Share of the messages to honest replicas that are handed over twice, for I7."""


@dataclass(frozen=True, slots=True)
class IssuingSigner:
    """A client's signer that notes every payload it signed: I3 allows no other to be executed."""

    signer: ClientSigner
    issued: set[bytes]

    @property
    def client(self) -> bytes:
        """The client's key."""
        return self.signer.client

    def sign(self, message: Request | Hello) -> Signed:
        """Signs and remembers."""
        signed = self.signer.sign(message)
        self.issued.add(signed.payload)
        return signed


class World:
    """Everything of one run. `scheduler` drives it; nothing else does."""

    def __init__(self, scenario: Scenario, trace: Trace, *, real_signatures: bool = False) -> None:
        self.scenario = scenario
        self.trace = trace
        self.counters = Counters()
        self.scheduler = Scheduler()
        self.issued: set[bytes] = set()
        self.rotten: set[ReplicaId] = set()
        """Replicas whose disk may hold what cannot be read."""
        self.view_changes: Counter[View] = Counter()
        """Honest replicas that began to move to each view."""
        self._scheme = ED25519 if real_signatures else FAKE
        self._again = Random(f"again {scenario.seed}")
        self._steps = 0
        self._make_genesis()
        self._watch_verifier = Verifier(self.genesis, self._scheme, lambda sender, message: None)
        self.write_ahead = WriteAhead()
        self.watch = Watch(self.genesis, self._watch_verifier, self.issued, self.counters)
        random = Random(f"network {scenario.seed}")
        self.network = Network(self.scheduler, random, scenario.conditions, scenario.replicas)
        self.nodes = self._make_nodes()
        for crime in scenario.crimes:
            self.corrupt(crime.replica, self._make_behaviour(crime))
        self.clients = self._make_clients()
        self.byzantine_clients = self._make_byzantine_clients()
        self.copies = self._make_copies()

    def start(self) -> None:
        """Schedules what will go wrong and starts every replica."""
        self._schedule_faults()
        for node in (*self.nodes, *self.copies):
            node.start()
        if self.copies:
            self._begin_phases()

    # Making it.

    def _make_genesis(self) -> None:
        scenario = self.scenario
        random = Random(f"keys {scenario.seed}")
        count = scenario.clients + len(scenario.client_crimes)
        self._keys = [self._scheme.key_pair(random.randbytes(32)) for _ in range(scenario.replicas)]
        self._client_keys = [self._scheme.key_pair(random.randbytes(32)) for _ in range(count)]
        self.genesis = make_genesis(
            scenario.forced,
            nonce=random.randbytes(32),
            replicas=tuple(pair.public for pair in self._keys),
            clients=frozenset(pair.public for pair in self._client_keys),
            constants=scenario.constants,
            limits=scenario.limits,
        )

    def _make_nodes(self) -> list[Node]:
        scenario = self.scenario
        surroundings = Surroundings(
            self.scheduler,
            self.network,
            self.genesis,
            self._scheme,
            Decoders(lru_cache(DECODED)(decode_peer_item), lru_cache(DECODED)(decode_message)),
            scenario.speed,
            self,
            {
                scenario.replicas + number: pair.public
                for number, pair in enumerate(self._client_keys)
            },
        )
        nodes = []
        for replica, pair in enumerate(self._keys):
            settings = Settings(
                replica=replica,
                pipeline_depth=scenario.pipeline_depth,
                timers=scenario.timers,
                limits=scenario.local_limits,
            )
            signer = ReplicaSigner(replica, pair, self.genesis.cluster_id, self._scheme)
            skew_us = scenario.wall_skews_us[replica] if scenario.wall_skews_us else 0
            random = Random(f"node {scenario.seed} {replica}")
            nodes.append(Node(surroundings, settings, signer, random, skew_us))
        return nodes

    def _make_behaviour(self, crime: Crime) -> Behaviour:
        corruption = self.corruption(crime)
        if crime.behaviour == Twin.name:
            return Twin(corruption)
        return make_behaviour(crime.behaviour, corruption, dict(crime.options))

    def corruption(self, crime: Crime) -> Corruption:
        """What a behaviour of this replica is made with."""
        random = Random(f"crime {self.scenario.seed} {crime.replica} {crime.behaviour}")
        signer = self.nodes[crime.replica].signer
        return Corruption(crime.replica, self.genesis, signer, random, crime.share_percent)

    def corrupt(self, replica: ReplicaId, behaviour: Behaviour) -> None:
        """From now on the replica behaves so, on top of what it did before."""
        node = self.nodes[replica]
        before = node.behaviour.behaviours if isinstance(node.behaviour, Several) else ()
        node.behaviour = Several((*before, behaviour))

    def _make_clients(self) -> list[HonestClient]:
        scenario = self.scenario
        clients = []
        for number in range(scenario.clients):
            random = Random(f"client {scenario.seed} {number}")
            signer = ClientSigner(self._client_keys[number], self.genesis.cluster_id, self._scheme)
            visits = draw_visits(
                random,
                f"c{number}",
                scenario.requests_per_client,
                scenario.keys,
                scenario.faults_end_us,
            )
            clients.append(
                HonestClient(
                    self.scheduler,
                    self.network,
                    self.genesis,
                    IssuingSigner(signer, self.issued),
                    scenario.replicas + number,
                    random,
                    list(visits),
                    self._watch_verifier.is_authentic,
                    self.counters,
                )
            )
        return clients

    def _make_byzantine_clients(self) -> list[ByzantineClient]:
        scenario = self.scenario
        return [
            ByzantineClient(
                self.scheduler,
                self.network,
                self.genesis,
                ClientSigner(
                    self._client_keys[scenario.clients + number],
                    self.genesis.cluster_id,
                    self._scheme,
                ),
                scenario.replicas + scenario.clients + number,
                Random(f"byzantine client {scenario.seed} {number}"),
                crime,
                scenario.faults_end_us,
                self.issued,
            )
            for number, crime in enumerate(scenario.client_crimes)
        ]

    def _make_copies(self) -> list[Node]:
        """The second node of each twin, at a place beyond all others."""
        scenario = self.scenario
        copies = []
        place = scenario.replicas + scenario.clients + len(scenario.client_crimes)
        for crime in scenario.crimes:
            if crime.behaviour != Twin.name:
                continue
            original = self.nodes[crime.replica]
            self.network.add_copy(original.place, place)
            surroundings = replace(original.world, network=CopysNetwork(self.network, place))
            random = Random(f"copy {scenario.seed} {original.place}")
            copy = Node(surroundings, original.settings, original.signer, random)
            copy.behaviour = Several((Twin(self.corruption(crime)),))
            copies.append(copy)
            place += 1
        return copies

    # What goes wrong with it.

    def _begin_phases(self) -> None:
        """Nobody is cut off before it is a member: who first starts when the others hold votes is
        amnesiac to itself, and that would be one faulty replica more."""
        scenario = self.scenario
        random = Random(f"phases {scenario.seed}")
        ends = scenario.replicas + scenario.clients + len(scenario.client_crimes)
        twins = [(node.place, ends + number) for number, node in enumerate(self.copies)]
        others = sorted(set(range(ends)) - {original for original, _ in twins})
        for original, _ in twins:
            self.note(f"replica {original} runs twice: what is told of it is told of both")
        phases = Phases(
            self.scheduler,
            self.network,
            lambda: draw_parts(random, others, twins, scenario.replicas),
            random,
            scenario.faults_end_us,
        )
        phases.begin(lambda: all(map(_is_member, self.honest)))

    def _schedule_faults(self) -> None:
        for cut in self.scenario.cuts:
            self.scheduler.at(cut.start_us, self._begin_cut, cut)
            self.scheduler.at(cut.end_us, self._end_cut, cut)
        for outage in self.scenario.outages:
            self.scheduler.at(outage.start_us, self._begin_outage, outage)
            self.scheduler.at(outage.end_us, self._end_outage, outage)

        for fault in self.scenario.disk_faults:
            self.nodes[fault.replica].log = VirtualLog()
            damaged = DamagedDisk(self, fault)
            self.scheduler.at(fault.copy_us, damaged.copy)
            self.scheduler.at(fault.start_us, damaged.begin)
            self.scheduler.at(fault.end_us, damaged.end)

    def _begin_cut(self, cut: Cut) -> None:
        self.note(f"cut of {len(cut.directions)} directions, noticed: {cut.noticed}")
        self.network.cut(cut.directions, cut.noticed)

    def _end_cut(self, cut: Cut) -> None:
        self.note(f"cut of {len(cut.directions)} directions ends")
        self.network.mend(cut.directions, cut.noticed)

    def _begin_outage(self, outage: Outage) -> None:
        node = self.nodes[outage.replica]
        if node.is_up and outage.frozen:
            self.note(f"replica {outage.replica} freezes")
            node.freeze()
        elif node.is_up:
            self.note(f"replica {outage.replica} loses power")
            node.crash()
            self.count_power_loss()

    def _end_outage(self, outage: Outage) -> None:
        node = self.nodes[outage.replica]
        if outage.frozen:
            self.note(f"replica {outage.replica} thaws")
            node.thaw()
        elif not node.is_up and not node.is_broken:
            self.note(f"replica {outage.replica} starts")
            node.start()

    def count_power_loss(self) -> None:
        """To be called after a loss of power: was it the last replica that had any?"""
        self.counters.power_losses_of_all += not any(node.is_up for node in self.nodes)

    def note(self, text: str) -> None:
        """Puts a line in the trace."""
        self.trace.note(self.scheduler.now_us, text)

    # What is known of it.

    @property
    def honest(self) -> list[Node]:
        """The replicas that nothing corrupts."""
        return [node for node in self.nodes if node.is_honest]

    @property
    def requests_settled(self) -> int:
        """Requests of honest clients whose fate f + 1 replicas told."""
        return sum(client.requests_settled for client in self.clients)

    def behaviours(self) -> Counter[str]:
        """How often each behaviour acted, by name."""
        acted: Counter[str] = Counter()
        for node in (*self.nodes, *self.copies):
            if isinstance(node.behaviour, Several):
                for behaviour in node.behaviour.behaviours:
                    acted[behaviour.name] += behaviour.acted
        for client in self.byzantine_clients:
            acted[client.crime] += client.acted
        return acted

    # Watcher of the nodes.

    def began(self, node: Node) -> None:
        """See Watcher."""
        if node.is_honest:
            executed = node.state.durable_sequence
            # What else is there may have been sent by peers before its first recall was answered.
            blank = node.log.load(executed).rejoin is None
            self.watch.began(node.place, executed, first=node.starts == 1, blank=blank)

    def received(self, node: Node, origin: Place, data: bytes) -> None:
        """See Watcher."""
        self.trace.bytes_arrived(self.scheduler.now_us, origin, node.place, data)

    def admitted(self, node: Node, origin: ReplicaId, inbound: Inbound) -> None:
        """I7: a message handed over again changes neither view, nor marks, nor state."""
        if not node.is_honest or self._again.random() >= DELIVERED_AGAIN:
            return
        assert node.replica is not None
        core = node.replica.core
        if core.execution_due:
            # Any step executes what is left.
            return
        before = (core.view, core.executed, core.low_water_mark, core.agreed_time_us)
        node.take_in(origin, inbound)
        self.counters.delivered_again += 1
        after = (core.view, core.executed, core.low_water_mark, core.agreed_time_us)
        if node.is_up and before != after:
            raise Violation("I7", f"replica {node.place}: a duplicate changed {before} to {after}")

    def stepped(self, node: Node, effects: list[Effect]) -> None:
        """See Watcher."""
        now_us = self.scheduler.now_us
        for effect in effects:
            if isinstance(effect, Event):
                self.trace.event(now_us, node.place, effect)
                if effect.name is EventName.VIEW_CHANGE_STARTED and node.is_honest:
                    self.view_changes[effect.view] += 1
        if not node.is_honest:
            return
        self.watch.stepped(node.place, effects)
        assert node.replica is not None
        core = node.replica.core
        self._steps += 1
        if self._steps % (1 + len(core.log) // CORE_CHECK_SLOTS) == 0:
            try:
                core_invariants.check(core)
            except AssertionError as error:
                raise Violation("I12", f"replica {node.place}: {error!r}") from error

    def left(self, node: Node, effect: Leaving) -> None:
        """See Watcher."""
        if node.is_honest:
            if node.place not in self.rotten:
                self.write_ahead.check(node, effect)
            self.watch.left(node.place, effect)
        elif isinstance(effect, Send | Broadcast):
            self.watch.left_corrupt(effect)

    def unreadable(self, node: Node, error: StorageCorrupt) -> None:
        """See Watcher. What was written and not damaged reads as it was written."""
        if node.is_honest and node.place not in self.rotten:
            raise Violation("I17", f"replica {node.place}: {error}")
        # It is given a new one.
        self.rotten.discard(node.place)
        self.counters.corrupt_disks += 1
        self.note(f"replica {node.place} ends: {error}")

    def failed(self, node: Node, error: Exception) -> None:
        """I17: nothing may make an honest replica raise. A corrupt one only harmed itself."""
        if node.is_honest:
            where = traceback.format_exception(error)
            raise Violation("I17", f"replica {node.place}: {''.join(where[-6:])}") from error
        self.note(f"corrupt replica {node.place} gave up: {error}")


def _is_member(node: Node) -> bool:
    """Whether it runs and its first recall is answered."""
    return node.replica is not None and node.replica.core.recalling is None
