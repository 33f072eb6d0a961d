"""The session table: what each client had executed, as replicated state (protocol.md section 4).

Records of domain SESSIONS, all of version 0:

    client                              floor, cached bytes, live sessions with their `acknowledged`
    client || session                   a closed session above the floor, or not swept yet
    client || session || number         an executed request above `acknowledged`, with its reply

and `COUNT_KEY` with the number of clients. An object per client is a cache of its records, replies
excepted: loaded when the client is first heard of, dropped when the state is replaced.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from pbft.core.ports import Records
from pbft.crypto.digest import behind_lengths, results_digest
from pbft.limits import ProtocolLimits
from pbft.messages import Authenticated, Outcome, Reply, Request
from pbft.types import UINT64_MAX, ClientKey, Digest, Micros, SequenceNumber

_HEADER = struct.Struct(">QQQQI")
_LIVE = struct.Struct(">QQ")
_REPLY = struct.Struct(">32sQQBQ32s?I")
_LENGTH = struct.Struct(">I")
_U64 = struct.Struct(">Q")

COUNT_KEY = b"\x00clients"
"""No client key is this short, so it cannot collide."""


@dataclass(slots=True)
class Session:
    """One live session: numbers at or below `acknowledged` are settled."""

    acknowledged: int = 0
    executed: int = 0
    """Bit k: the number `acknowledged` + 1 + k was executed. No request is admitted whose number is
    more than W above, so a session is small whatever its client never acknowledges."""

    def has_executed(self, number: int) -> bool:
        """Whether a number was executed and is not settled yet."""
        above = number - self.acknowledged - 1
        return above >= 0 and bool(self.executed >> above & 1)

    def add(self, number: int) -> None:
        """A number above `acknowledged` was executed."""
        self.executed |= 1 << number - self.acknowledged - 1

    def settle(self, acknowledged: int) -> list[int]:
        """Raises `acknowledged`; returns the executed numbers that are settled by that."""
        first, raised = self.acknowledged + 1, acknowledged - self.acknowledged
        numbers = range(first, first + min(raised, self.executed.bit_length()))
        settled = [number for number in numbers if self.has_executed(number)]
        self.executed >>= raised
        self.acknowledged = acknowledged
        return settled


@dataclass(slots=True)
class ClientSessions:
    """All that is known about one client."""

    floor: int = 0
    """Sessions at or below are closed, whatever else is known."""
    closed: int = 0
    """Closed sessions with a record of their own: those above the floor, and those below it that
    are not swept yet."""
    highest: int = 0
    """Highest session ever opened."""
    cached_bytes: int = 0
    live: dict[int, Session] = field(default_factory=dict)


CLIENTS_CACHED = 4_096
"""Clients whose sessions are kept as objects."""

SESSIONS_SWEPT = 64
"""Closed sessions below the floor that one request forgets at most: more than one, so that they
become fewer, and few, so that it takes no time. All replicas must agree on it."""

_NOBODY = ClientSessions()


def encode_reply(reply: Reply) -> bytes:
    """The record of an executed request."""
    results = () if reply.results is None else reply.results
    head = _REPLY.pack(
        reply.request_digest,
        reply.sequence,
        reply.agreed_time_us,
        reply.outcome,
        reply.highest_session,
        reply.results_digest,
        reply.results is not None,
        len(results),
    )
    return head + behind_lengths(results, _LENGTH.size)


def decode_reply(session: int, number: int, value: bytes) -> Reply:
    """Inverse of `encode_reply`; the value comes from verified state."""
    digest, sequence, time_us, outcome, highest, results_hash, full, count = _REPLY.unpack_from(
        value
    )
    results = []
    position = _REPLY.size
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(value, position)
        position += _LENGTH.size
        results.append(value[position : position + length])
        position += length
    return Reply(
        session,
        number,
        digest,
        sequence,
        time_us,
        Outcome(outcome),
        results_hash,
        tuple(results) if full else None,
        highest,
    )


def _cached_bytes(value: bytes) -> int:
    """Of results in an encoded reply."""
    count: int = _REPLY.unpack_from(value)[-1]
    return len(value) - _REPLY.size - count * _LENGTH.size


class SessionTable:
    """Decides requests at execution. Everything here is deterministic and the same on every
    replica."""

    def __init__(
        self,
        records: Records,
        limits: ProtocolLimits,
        open_admission: bool,
        replicas: Sequence[bytes],
    ) -> None:
        """`replicas` are the keys of the genesis."""
        self._records = records
        self._replicas = frozenset(replicas)
        self._limits = limits
        self._open_admission = open_admission
        self._clients: dict[ClientKey, ClientSessions] = {}

    def reload(self) -> None:
        """Forgets the cache: the state underneath was replaced."""
        self._clients.clear()

    # Reading, for requests that are not ordered yet.

    def cached_reply(self, request: Request) -> Reply | None:
        """The reply of this (client, session, number) if it was executed and is not yet settled."""
        session = self._peek(request.client).live.get(request.session)
        return None if session is None else self._reply(session, request)

    def conflict(self, request: Authenticated[Request], known: Reply) -> Reply:
        """The reply to another request than the one that was executed under its number: the same
        everywhere, whether it is ordered or not."""
        return self._plain(request, Outcome.CONFLICT, known.sequence, known.agreed_time_us, 0)

    def is_settled(self, request: Request) -> bool:
        """Whether ordering the request again could not change anything: executed, or
        acknowledged."""
        session = self._peek(request.client).live.get(request.session)
        if session is None:
            return False
        return request.number <= session.acknowledged or session.has_executed(request.number)

    def is_expired(self, request: Request) -> bool:
        """Whether the request's session is closed."""
        client = self._peek(request.client)
        closed = client.closed > 0 and self._is_closed(request.client, request.session)
        return request.session <= client.floor or closed

    # Deciding, at execution.

    def admit(
        self, request: Authenticated[Request], sequence: SequenceNumber, time_us: Micros
    ) -> tuple[bool, Reply | None]:
        """Decides a request in the order that protocol.md section 4 fixes, up to executing it.

        Returns (True, None) if it is to be executed now; else (False, its reply), where None means
        that the number was settled before and nobody waits for an answer.
        """
        message = request.message
        client = self._client(message.client)
        session = client.live.get(message.session)
        if session is None:
            refused = self._open(message, client)
            if refused is not None:
                return False, self._plain(request, refused, sequence, time_us, client.highest)
            session = client.live[message.session]
        self._acknowledge(message, client, session)
        if message.number <= session.acknowledged:
            self._save(message.client, client)
            return False, None
        known = self._reply(session, message)
        if known is not None:
            self._save(message.client, client)
            if known.request_digest == request.digest:
                return False, known
            return False, self.conflict(request, known)
        if message.expires_at_us and time_us > message.expires_at_us:
            reply = self._plain(request, Outcome.EXPIRED, sequence, time_us, 0)
            self.record(message, reply)
            return False, reply
        return True, None

    def record(self, message: Request, reply: Reply) -> Reply:
        """Stores the reply of a request that was just decided; returns it as it is to be sent."""
        client = self._client(message.client)
        session = client.live[message.session]
        kept = reply
        size = sum(map(len, reply.results or ()))
        if client.cached_bytes + size > self._limits.cached_result_bytes:
            # Bounded per client: the digest stays, which is enough to match and to stay
            # exactly-once.
            kept = Reply(
                reply.session,
                reply.number,
                reply.request_digest,
                reply.sequence,
                reply.agreed_time_us,
                Outcome.RESULT_FORGOTTEN,
                reply.results_digest,
                None,
            )
            size = 0
        client.cached_bytes += size
        session.add(message.number)
        self._records.put(
            _number_key(message.client, message.session, message.number), 0, encode_reply(kept)
        )
        self._save(message.client, client)
        return reply

    def close(self, message: Request) -> None:
        """The session's closing request executes: its number stays known, it counts toward S no
        more."""
        client = self._client(message.client)
        self._drop_session(message.client, client, message.session)
        self._records.put(_session_key(message.client, message.session), 0, b"")
        client.closed += 1
        if client.closed > self._limits.session_numbers_kept:
            # None below the floor is left here, because a request sweeps more than it adds; but the
            # floor must not fall whatever the numbers are.
            lowest = self._lowest_closed(message.client)
            self._raise_floor(message.client, client, max(client.floor, lowest))
        else:
            self._sweep(message.client, client)
        self._save(message.client, client)

    # Inside.

    def _reply(self, session: Session, request: Request) -> Reply | None:
        """The reply of a number that was executed and is not settled; not kept as an object,
        because a client may have thousands that it never acknowledges."""
        number = request.number
        if not session.has_executed(number):
            return None
        stored = self._stored(request.client, request.session, number)
        return decode_reply(request.session, number, stored)

    def _stored(self, key: ClientKey, session: int, number: int) -> bytes:
        record = self._records.get(_number_key(key, session, number))
        assert record is not None
        return record[1]

    def _plain(
        self,
        request: Authenticated[Request],
        outcome: Outcome,
        sequence: SequenceNumber,
        time_us: Micros,
        highest: int,
    ) -> Reply:
        digest: Digest = results_digest(outcome, highest, ())
        message = request.message
        return Reply(
            message.session,
            message.number,
            request.digest,
            sequence,
            time_us,
            outcome,
            digest,
            (),
            highest,
        )

    def _open(self, message: Request, client: ClientSessions) -> Outcome | None:
        """Opens the session, or says why it cannot be."""
        key = message.client
        closed = client.closed > 0 and self._is_closed(key, message.session)
        if message.session <= client.floor or closed:
            return Outcome.SESSION_EXPIRED
        if client.highest == 0 and not self._admits_one_more(key):
            del self._clients[key]
            return Outcome.CLIENT_REFUSED
        client.live[message.session] = Session()
        client.highest = max(client.highest, message.session)
        if len(client.live) > self._limits.sessions_per_client:
            self._raise_floor(key, client, min(client.live))
        else:
            self._sweep(key, client)
        self._save(key, client)
        return None if message.session in client.live else Outcome.SESSION_EXPIRED

    def _admits_one_more(self, key: ClientKey) -> bool:
        """Counts a client that was never heard of, if it is to be counted and there is room.

        A replica that asks to rejoin is no client: clients that fill the table must not bar it
        from the cluster for ever. The genesis says which keys those are, so all decide alike.
        """
        if not self._open_admission or key in self._replicas:
            return True
        known = self._records.get(COUNT_KEY)
        count = 0 if known is None else _U64.unpack(known[1])[0]
        if count >= self._limits.clients:
            return False
        self._records.put(COUNT_KEY, 0, _U64.pack(count + 1))
        return True

    def _acknowledge(self, message: Request, client: ClientSessions, session: Session) -> None:
        if message.acknowledged > session.acknowledged:
            settled = session.settle(message.acknowledged)
            self._drop_numbers(message.client, client, message.session, settled)

    def _drop_numbers(
        self, key: ClientKey, client: ClientSessions, session: int, numbers: list[int]
    ) -> None:
        for number in numbers:
            client.cached_bytes -= _cached_bytes(self._stored(key, session, number))
            self._records.delete(_number_key(key, session, number), 0)

    def _drop_session(self, key: ClientKey, client: ClientSessions, session: int) -> None:
        numbers = client.live.pop(session).settle(UINT64_MAX)
        self._drop_numbers(key, client, session, numbers)

    def _raise_floor(self, key: ClientKey, client: ClientSessions, floor: int) -> None:
        client.floor = floor
        for session in [session for session in client.live if session <= floor]:
            self._drop_session(key, client, session)
        self._sweep(key, client)

    def _sweep(self, key: ClientKey, client: ClientSessions) -> None:
        """Forgets a bounded number of closed sessions at or below the floor, which says all there
        is to say about them. There may be as many as limits allow, and one request must not take
        the time of all; whoever opens or closes a session adds at most one."""
        if client.closed == 0:
            return
        # Of sessions at or below the floor none is live, so there are no other records.
        below = self._records.scan(_session_key(key, 0), _session_key(key, client.floor + 1))
        swept = [record for record, _, _ in islice(below, SESSIONS_SWEPT)]
        for record in swept:
            self._records.delete(record, 0)
        client.closed -= len(swept)

    def _is_closed(self, key: ClientKey, session: int) -> bool:
        return self._records.get(_session_key(key, session)) is not None

    def _lowest_closed(self, key: ClientKey) -> int:
        for record, _, _ in self._records.scan(_session_key(key, 0), _successor(key)):
            if len(record) == len(key) + _U64.size:
                lowest: int = _U64.unpack_from(record, len(key))[0]
                return lowest
        raise AssertionError("no closed session though the count says so")

    def _peek(self, key: ClientKey) -> ClientSessions:
        """For reading only: a client that never executed anything leaves no trace here."""
        return self._clients.get(key) or (
            _NOBODY if self._records.get(key) is None else self._client(key)
        )

    def _client(self, key: ClientKey) -> ClientSessions:
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = self._load(key)
            if len(self._clients) > CLIENTS_CACHED:
                # The records are the truth, so a client that comes back is loaded again.
                del self._clients[next(iter(self._clients))]
        return client

    def _load(self, key: ClientKey) -> ClientSessions:
        header = self._records.get(key)
        client = ClientSessions()
        if header is None:
            return client
        value = header[1]
        client.floor, client.closed, client.highest, client.cached_bytes, count = (
            _HEADER.unpack_from(value)
        )
        for index in range(count):
            session, acknowledged = _LIVE.unpack_from(value, _HEADER.size + index * _LIVE.size)
            client.live[session] = live = Session(acknowledged)
            start, end = _number_key(key, session, 0), _session_key(key, session) + b"\xff" * 9
            for record, _, _ in self._records.scan(start, end):
                live.add(_U64.unpack_from(record, len(key) + _U64.size)[0])
        return client

    def _save(self, key: ClientKey, client: ClientSessions) -> None:
        live = b"".join(
            _LIVE.pack(session, client.live[session].acknowledged)
            for session in sorted(client.live)
        )
        header = _HEADER.pack(
            client.floor, client.closed, client.highest, client.cached_bytes, len(client.live)
        )
        self._records.put(key, 0, header + live)


def _session_key(client: ClientKey, session: int) -> bytes:
    return client + _U64.pack(session)


def _number_key(client: ClientKey, session: int, number: int) -> bytes:
    return client + _U64.pack(session) + _U64.pack(number)


def _successor(prefix: bytes) -> bytes:
    """The first key after all keys with this prefix of 32 bytes (a key of all ones has none
    shorter)."""
    return prefix + b"\xff" * 17
