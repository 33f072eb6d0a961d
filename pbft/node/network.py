"""All streams of one replica: peers and clients in, peers and clients out."""

import asyncio
from collections.abc import Mapping, Sequence

from pbft.core.ports import Signer
from pbft.crypto.tls import TlsIdentity, server_name
from pbft.errors import Reason
from pbft.genesis import Genesis
from pbft.node.event_log import EventLog
from pbft.node.inbox import Inbox, LinkChanged, ListenerLost
from pbft.node.metrics import Metrics
from pbft.transport.api import (
    ClientLimits,
    Direction,
    HelloVerifier,
    ListenerEnded,
    PeerLimits,
)
from pbft.transport.gateway import Gateway
from pbft.transport.peer_acceptor import PeerAcceptor
from pbft.transport.peer_dialler import PeerDialler
from pbft.types import ClientKey, ReplicaId

FAULTY = frozenset(
    {
        Reason.MALFORMED,
        Reason.OVERSIZE,
        Reason.BAD_SIGNATURE,
        Reason.WRONG_DOMAIN,
        Reason.SENDER_MISMATCH,
        Reason.UNKNOWN_SENDER,
        Reason.CLIENT_UNAUTHORIZED,
        Reason.BAD_BODY,
        Reason.BAD_CERTIFICATE,
        Reason.BAD_VIEW_CHANGE,
        Reason.BAD_NEW_VIEW,
    }
)
"""Reasons that no honest sender gives: each is charged to the stream it came through. An honest
replica relays only what it verified itself."""
DEAR_SECONDS = 0.005
"""Whatever takes longer to refuse is charged, too: what honest peers send in vain costs less, or
comes seldom (a large body that another peer has brought)."""


class Network:
    """The sink and the courier of a replica (pbft.transport.api, pbft.node.outbox)."""

    def __init__(
        self,
        replica: ReplicaId,
        genesis: Genesis,
        signer: Signer,
        verifier: HelloVerifier,
        inbox: Inbox,
        metrics: Metrics,
        log: EventLog,
        identity: TlsIdentity | None,
        peer_limits: PeerLimits,
        client_limits: ClientLimits,
    ) -> None:
        """`identity` of None means plain text, towards peers and clients alike."""
        self._replica = replica
        self._identity = identity
        self._genesis = genesis
        self._signer = signer
        self._inbox = inbox
        self._metrics = metrics
        self._log = log
        self._peer_limits = peer_limits
        self._acceptor = PeerAcceptor(replica, genesis, verifier, self, peer_limits)
        self._gateway = Gateway(replica, genesis, verifier, self, client_limits)
        self._diallers: dict[ReplicaId, PeerDialler] = {}
        self._up: set[tuple[ReplicaId, Direction]] = set()
        self._watches: list[asyncio.Task[None]] = []

    async def listen(self, peer_address: str, client_address: str) -> tuple[int, int]:
        """Listens for peers and clients; returns the two ports. Raises ConfigurationError."""
        peer_port = await self._acceptor.start(peer_address, self._identity)
        client_port = await self._gateway.start(client_address, self._identity)
        for listener in (self._acceptor, self._gateway):
            self._watches.append(asyncio.create_task(self._watch(listener), name="listener"))
        return peer_port, client_port

    async def _watch(self, listener: PeerAcceptor | Gateway) -> None:
        try:
            await listener.until_ended()
        except ListenerEnded as error:
            self._inbox.put_own(ListenerLost(error))

    def dial(self, peers: Mapping[ReplicaId, str]) -> None:
        """Begins to connect to the peers at these addresses."""
        for peer, address in peers.items():
            self._inbox.put_own(LinkChanged(peer, up=False))
            dialler = PeerDialler(
                peer,
                peer_key=self._genesis.replicas[peer],
                own_key=self._genesis.replicas[self._replica],
                address=address,
                signer=self._signer,
                sink=self,
                limits=self._peer_limits,
                identity=self._identity,
                server_name=server_name(self._genesis.cluster_id, peer),
            )
            self._diallers[peer] = dialler
            dialler.start()

    async def close(self) -> None:
        """Ends every stream and stops listening."""
        await self._gateway.close()
        for dialler in self._diallers.values():
            await dialler.close()
        await self._acceptor.close()
        await asyncio.gather(*self._watches)

    @property
    def peers_connected(self) -> list[ReplicaId]:
        """Peers with streams in both directions, ascending."""
        return [peer for peer in range(len(self._genesis.replicas)) if self._is_up(peer)]

    @property
    def clients_connected(self) -> int:
        """Streams of clients."""
        return self._gateway.streams

    def report_queues(self) -> None:
        """Brings the metrics of the peers up to date."""
        for peer, dialler in self._diallers.items():
            self._metrics.on_peer(peer, self._is_up(peer), dialler.waiting_bytes)

    # The courier of the outbox.

    def send(self, peer: ReplicaId, item: bytes) -> None:
        """See Courier.send."""
        dialler = self._diallers.get(peer)
        if dialler is not None:
            dialler.send(item)
            self._metrics.on_bytes("out", len(item))

    def broadcast(self, item: bytes) -> None:
        """See Courier.broadcast."""
        for dialler in self._diallers.values():
            dialler.send(item)
        self._metrics.on_bytes("out", len(item) * len(self._diallers))

    def answer(self, client: ClientKey, item: bytes) -> None:
        """See Courier.answer."""
        self._gateway.answer(client, item)

    # The sink of the transport.

    def on_rejection(self, message: str, reason: Reason, peer: ReplicaId | None) -> None:
        """See RejectionSink."""
        self._metrics.on_rejection(message, reason, peer)
        if reason in FAULTY or message in ("hello", "certificate"):
            who = "nobody" if peer is None else peer
            self._log.warning("rejected", peer=who, message=message, reason=reason.value)

    def on_link(self, peer: ReplicaId, direction: Direction, up: bool) -> None:
        """See PeerSink."""
        was_up = self._is_up(peer)
        if up:
            self._up.add((peer, direction))
        else:
            self._up.discard((peer, direction))
        if direction is Direction.INBOUND and up and peer in self._diallers:
            self._diallers[peer].nudge()
        if self._is_up(peer) != was_up:
            self._inbox.put_own(LinkChanged(peer, up=not was_up))
            self._log.info("peer_disconnected" if was_up else "peer_connected", peer=peer)

    async def on_peer_items(self, peer: ReplicaId, items: Sequence[bytes]) -> None:
        """See PeerSink."""
        self._metrics.on_bytes("in", sum(map(len, items)))
        await self._inbox.put_peer_items(peer, items)

    async def on_client_items(self, stream: int, client: ClientKey, items: Sequence[bytes]) -> None:
        """See ClientSink."""
        self._metrics.on_bytes("in", sum(map(len, items)))
        await self._inbox.put_client_items(stream, client, items)

    def on_client_gone(self, stream: int) -> None:
        """See ClientSink."""
        self._inbox.forget_client(stream)

    # For the runtime: what was wrong inside a frame.

    def reject_peer_item(
        self, peer: ReplicaId, message: str, reason: Reason, seconds: float = 0.0
    ) -> None:
        """Counts an item of a peer that was not accepted, which took so long to find, and charges
        the peer if it is its fault or was dear."""
        self.on_rejection(message, reason, peer)
        is_charged = reason in FAULTY or seconds > DEAR_SECONDS
        if is_charged and not self._acceptor.on_fault(peer, seconds):
            dropped = self._inbox.forget_peer_items(peer)
            self._metrics.on_rejection("peer_item", Reason.RATE_LIMIT, peer, dropped)
            self._log.warning("peer_throttled", peer=peer, dropped=dropped)

    def reject_client_item(
        self, stream: int, message: str, reason: Reason, seconds: float = 0.0
    ) -> None:
        """Counts an item of a client's stream that was not accepted, which took so long to find,
        and charges the client if it is its fault."""
        self.on_rejection(message, reason, None)
        if reason in FAULTY and not self._gateway.on_fault(stream, seconds):
            dropped = self._inbox.forget_client(stream)
            self._metrics.on_rejection("client_item", Reason.RATE_LIMIT, None, dropped)

    def _is_up(self, peer: ReplicaId) -> bool:
        return (peer, Direction.INBOUND) in self._up and (peer, Direction.OUTBOUND) in self._up
