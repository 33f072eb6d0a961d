"""One replica as a process: built from its configuration, run, stopped cleanly."""

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

import uvloop

from pbft.core.replica import Replica
from pbft.core.settings import Settings
from pbft.crypto.keys import load_key_pair
from pbft.crypto.signing import ReplicaSigner
from pbft.crypto.verifier import Verifier
from pbft.errors import ConfigurationError, Rejected
from pbft.garbage import collect_rarely
from pbft.genesis import Genesis, parse_genesis
from pbft.node import descriptors
from pbft.node.admin import AdminListener
from pbft.node.admin_tls import AdminSecurity
from pbft.node.config import NodeConfiguration
from pbft.node.event_log import EventLog, LibraryHandler
from pbft.node.event_stream import EventStream
from pbft.node.faults import FaultBoard, FaultDesk
from pbft.node.identity import days_until_expiry, load_own_identity
from pbft.node.inbox import Inbox
from pbft.node.metrics import Metrics
from pbft.node.network import Network
from pbft.node.observation import ObservedCore, ObservedService
from pbft.node.outbox import Outbox
from pbft.node.runtime import Runtime
from pbft.node.sealer import Sealer
from pbft.node.state_disk import StateDisk
from pbft.node.status import BEAT_SECONDS, NodeStatus, StatusBoard
from pbft.node.tail_disk import TailDisk
from pbft.node.worker import WorkerThread
from pbft.service.kv.store import KEY_VALUE_DOMAIN, KeyValueStore
from pbft.storage import directory
from pbft.storage.api import StorageCorrupt, StorageFailed
from pbft.storage.state import LayeredState

EXIT_DISK_FAILED = 70
"""Exit code of a replica whose disk refused a write (EX_SOFTWARE: restarting does not help)."""
EXPIRY_WARNING_DAYS = 30
ADVICE = (
    "This replica does not vote with what is left: move the directory away, run pbft storage init, "
    "and start again; it then rejoins by itself"
)
PUBLISH_SECONDS = 0.25
"""About how old the published status may get. To publish costs a tenth of a call: twenty times a
second it was a twentieth of a busy replica's time."""


class ReplicaNode:
    """Everything that one replica owns. `run` does it all; `stop` ends it."""

    def __init__(
        self,
        configuration: NodeConfiguration,
        log: EventLog | None = None,
        *,
        rejoin: bool = False,
    ) -> None:
        """Reads genesis and key; opens nothing yet. `rejoin`: as a replica that lost its votes.
        Raises ConfigurationError."""
        if not __debug__:
            raise ConfigurationError("assertions are the safety net: start without python -O")
        self._configuration = configuration
        self._log = log or EventLog(configuration.replica)
        self._genesis = read_genesis(configuration)
        configuration.check_against(self._genesis)
        key_pair = load_key_pair(configuration.key)
        if key_pair.public != self._genesis.replicas[configuration.replica]:
            raise ConfigurationError(
                f"{configuration.key} is not the key of replica {configuration.replica} in "
                f"{configuration.genesis}: check `replica` and `key`"
            )
        self._identity = load_own_identity(configuration, self._genesis)
        self._admin_security = None
        if self._identity is not None:
            self._admin_security = AdminSecurity.of(self._identity, self._genesis.cluster_id)
        self._signer = ReplicaSigner(configuration.replica, key_pair, self._genesis.cluster_id)
        self._faults = FaultBoard(
            configuration.replica,
            self._genesis,
            self._signer,
            configuration.data,
            configuration.allow_fault_injection,
        )
        self._faults.take(configuration.faults)
        self._rejoin = rejoin
        self._stop_asked = False
        self._runtime: Runtime | None = None
        self._published_at = 0.0

    def stop(self) -> None:
        """Lets `run` end cleanly. In the event loop's thread."""
        self._stop_asked = True
        if self._runtime is not None:
            self._runtime.stop()

    async def run(self) -> None:
        """Serves until `stop`. Raises ConfigurationError, StorageCorrupt, ReplicaHalted."""
        try:
            await self._run_on_disk()
        except StorageCorrupt as error:
            self._log.error("disk_corrupt", error=str(error))
            raise StorageCorrupt(f"{self._configuration.data}: {error}. {ADVICE}") from error
        except StorageFailed as error:
            self._on_disk_failed("what a state transfer received", error)

    async def _run_on_disk(self) -> None:
        for name in self._faults.begin():
            self._log.info("disk_fault_performed", fault=name)
        storage = directory.open(
            self._configuration.data, self._genesis.cluster_id, self._configuration.replica
        )
        try:
            constants = self._genesis.constants
            state = LayeredState(storage.base, constants.buckets, constants.bucket_salt)
            try:
                await self._run_on(storage, state)
            finally:
                state.close()
        finally:
            storage.close()

    async def _run_on(self, storage: directory.Storage, state: LayeredState) -> None:
        configuration, genesis = self._configuration, self._genesis
        self._metrics = Metrics(configuration.replica, package_version())
        self._events = EventStream(configuration.replica)
        verifier = Verifier(genesis)
        core = self._restore(storage, state, verifier)
        verifier.relevance = core.relevance
        self._core = core
        inbox = Inbox(len(genesis.replicas))
        self._network = Network(
            configuration.replica,
            genesis,
            self._signer,
            verifier,
            inbox,
            self._metrics,
            self._log,
            self._identity,
            *descriptors.share(descriptors.raise_limit()),
        )
        log_worker, state_worker = WorkerThread("vote log"), WorkerThread("state")
        state_disk = StateDisk(state, state_worker, inbox.put_own, self._on_disk_failed)
        tail_disk = TailDisk(storage.log.read_decided, log_worker, inbox.put_own, self._log)
        outbox = Outbox(
            storage.log.write,
            log_worker,
            self._network,
            state_disk.perform,
            tail_disk.perform,
            self._on_disk_failed,
            self._metrics.on_sync,
        )
        self._runtime = Runtime(
            ObservedCore(core, configuration.replica, self._events, self._metrics),
            genesis,
            verifier,
            inbox,
            outbox,
            state_disk,
            self._network,
            self._metrics,
            self._log,
            partial(self._on_turn, Sealer(state, inbox.put_own)),
        )
        self._faults.records = state.domain(KEY_VALUE_DOMAIN)
        self._faults.on_change = self._runtime.set_behaviour
        self._runtime.set_behaviour(self._faults.behaviour)
        try:
            await self._serve(self._runtime, outbox)
            await outbox.close()
        finally:
            await self._network.close()
            await log_worker.close()
            await state_worker.close()

    def _restore(
        self, storage: directory.Storage, state: LayeredState, verifier: Verifier
    ) -> Replica:
        """The core as the disk has it. Raises StorageCorrupt if that is not this replica's."""
        configuration, genesis = self._configuration, self._genesis
        try:
            return Replica(
                Settings(
                    configuration.replica,
                    pipeline_depth=configuration.pipeline_depth,
                    timers=configuration.timers,
                    rejoin=self._rejoin,
                ),
                genesis,
                self._signer,
                verifier,
                state,
                ObservedService(KeyValueStore(state, genesis.limits), self._metrics),
                storage.log.load(state.durable_sequence),
            )
        except Rejected as error:
            raise StorageCorrupt(str(error)) from error

    async def _serve(self, runtime: Runtime, outbox: Outbox) -> None:
        configuration = self._configuration
        self._board = StatusBoard(self._genesis.thresholds, self._status(), outbox.is_responsive)
        self._metrics.watch(self._board.lag_seconds, lambda: self._log.lost)
        if self._stop_asked:
            return
        await self._network.listen(
            str(configuration.peer_address), str(configuration.client_address)
        )
        self._warn_of_the_connections()
        address = configuration.admin_address
        admin = AdminListener(
            address.host,
            address.port,
            self._board,
            self._metrics.registry,
            self._events,
            FaultDesk(self._faults, asyncio.get_running_loop()),
            self._admin_security,
        )
        beat = asyncio.create_task(self._beat(), name="heartbeat")
        try:
            self._network.dial({peer: str(it) for peer, it in configuration.peers.items()})
            self._log.info(
                "started",
                cluster=self._genesis.cluster_id.hex(),
                peers_at=configuration.peer_address,
                clients_at=configuration.client_address,
                admin_at=configuration.admin_address,
                faults=list(configuration.faults),
            )
            await runtime.run()
            self._log.info("stopping")
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            admin.close()

    def _warn_of_the_connections(self) -> None:
        """Says it while nothing has gone wrong yet."""
        if self._identity is None:
            self._log.warning("insecure", text="plain text: nothing tells who connects")
            return
        left = days_until_expiry(self._identity)
        if left < EXPIRY_WARNING_DAYS:
            self._log.warning("certificate_expires", days=left)

    async def _beat(self) -> None:
        """Shows that the event loop turns, how late it is, and what the core is at."""
        while True:
            asked = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self._board.beat(max(0.0, time.monotonic() - asked))
            self._publish_if_due()

    def _on_turn(self, sealer: Sealer) -> None:
        sealer.wake()
        self._publish_if_due()

    def _publish_if_due(self) -> None:
        if time.monotonic() - self._published_at >= PUBLISH_SECONDS:
            self._publish()

    def _publish(self) -> None:
        self._published_at = time.monotonic()
        status = self._status()
        self._board.publish(status)
        self._metrics.on_status(status)
        self._network.report_queues()

    def _status(self) -> NodeStatus:
        summary = self._core.summary()
        sealed = self._core.core.sealed
        sequence = max(sealed, default=0)
        transferring = summary.transferring and summary.mode in ("normal", "view_changing")
        mode = "state_transfer" if transferring else summary.mode
        return NodeStatus(
            replica=summary.replica,
            view=summary.view,
            role="primary" if summary.is_primary else "backup",
            mode=mode,
            low_water_mark=summary.low_water_mark,
            executed=summary.executed,
            state_digest=sealed.get(sequence, b"").hex(),
            state_digest_sequence=sequence,
            pending_requests=summary.pending_requests,
            tail_memory_bytes=summary.tail_memory_bytes,
            tail_log_bytes=summary.tail_log_bytes,
            faults=self._faults.names(),
            rejections=dict(self._metrics.rejections),
            peers_connected=self._network.peers_connected,
            clients_connected=self._network.clients_connected,
            operations=self._metrics.operations,
        )

    def _on_disk_failed(self, what: str, error: BaseException) -> NoReturn:
        """Nobody knows what is on disk now: the process ends at once, before anything leaves."""
        try:
            self._log.error("disk_failed", what=what, error=repr(error))
        finally:
            os._exit(EXIT_DISK_FAILED)


def read_genesis(configuration: NodeConfiguration) -> Genesis:
    """The genesis that a configuration names. Raises ConfigurationError."""
    try:
        data = configuration.genesis.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the genesis {configuration.genesis}: {error.strerror}"
        ) from error
    return parse_genesis(data)


SWITCH_SECONDS = 0.0005


def package_version() -> str:
    """Of this installation."""
    try:
        return version("pbft")
    except PackageNotFoundError:
        return "unknown"


def run_replica(configuration: NodeConfiguration, *, rejoin: bool = False) -> None:
    """Runs one replica in this process until SIGTERM or SIGINT. Raises as ReplicaNode.run."""
    log = EventLog(configuration.replica)
    # A damaged file can end in a signal (SIGBUS, SIGSEGV): that shall not be without a word.
    faulthandler.enable()
    node = ReplicaNode(configuration, log, rejoin=rejoin)
    logging.getLogger().addHandler(LibraryHandler(log))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, node.stop)
        await node.run()

    collect_rarely()
    # Threads that write to disk hold the interpreter while they prepare what they write: the event
    # loop need not wait 5 ms for it each time.
    sys.setswitchinterval(SWITCH_SECONDS)
    # uvloop saves 10 to 20 % of the CPU of a gRPC stream (operations.md section 4).
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
        log.info("stopped")
    finally:
        log.flush()
