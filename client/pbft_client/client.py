# ruff: noqa: ASYNC109 (a deadline per call is the contract; asyncio.timeout would only cancel it)
"""The client of the key-value cluster (service.md section 5).

Every answer it returns is vouched for by f + 1 replicas (q for a fast linearizable read), so no f
of them can make it return anything wrong, whatever they send.
"""

from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

from pbft.crypto.keys import load_key_pair
from pbft.crypto.signing import ClientSigner
from pbft.crypto.tls import TlsIdentity, load_identity
from pbft.errors import ConfigurationError
from pbft.messages import Consistency
from pbft_client import kv
from pbft_client.cluster_file import ClusterFile, load_cluster_file, load_genesis
from pbft_client.engine import ClientSettings, Engine, Settled
from pbft_client.errors import InvalidCall
from pbft_client.results import (
    CasResult,
    DeleteResult,
    Executed,
    Execution,
    KeyValue,
    PutResult,
    RangeResult,
)
from pbft_client.session import Settlement

ReadConsistency: TypeAlias = Literal["linearizable", "ordered", "stale"]
"""linearizable: q replicas at once, ordered if they do not agree or too few are connected; ordered:
like a write; stale: any state that f + 1 replicas agree on, possibly an old one."""

_FAST: dict[str, Consistency | None] = {
    "linearizable": Consistency.LINEARIZABLE,
    "ordered": None,
    "stale": Consistency.STALE,
}


class Client:
    """Many calls in flight at once are the normal case: calls that wait together travel together.

    Every call takes `timeout` in seconds (None: the client's default), and ends with its result,
    with one of pbft_client.errors (InvalidCall for an argument that can be none), or cancelled;
    `may_take_effect(error)` tells a definite failure from an unknown outcome. Not thread-safe;
    SyncClient is.
    """

    def __init__(self, engine: Engine) -> None:
        """Use `connect`."""
        self._engine = engine

    @classmethod
    async def connect(
        cls,
        cluster: str | Path | ClusterFile,
        key: str | Path | None = None,
        *,
        timeout: float = 10.0,
        settings: ClientSettings | None = None,
        certificate: str | Path | None = None,
    ) -> Self:
        """Connects to a cluster described by its cluster.toml.

        `key`: the client's private key file, by default the one that cluster.toml names. A replica
        lets eight connections of one key in, so many processes need keys of their own: those that
        the genesis admits, which `pbft testnet init` puts side by side (`clients/0.key` and on).
        `certificate`: its TLS certificate with the private key of that, by default the one that
        cluster.toml names, or for another key the file beside it that ends in .pem. `timeout`:
        seconds until enough replicas must be connected.
        Raises ConfigurationError, TooFewAnswers if too few replicas can be reached, or InvalidCall
        if `timeout` is not finite.
        """
        if not isinstance(cluster, ClusterFile):
            cluster = load_cluster_file(Path(cluster))
        genesis = load_genesis(cluster)
        key_file = cluster.key if key is None else Path(key)
        if key_file is None:
            raise ConfigurationError("cluster.toml names no key: give the client's key file")
        signer = ClientSigner(load_key_pair(key_file), genesis.cluster_id)
        addresses = [replica.client for replica in cluster.replicas]
        identity = _load_identity(
            cluster, key_file, None if certificate is None else Path(certificate)
        )
        engine = Engine(genesis, signer, addresses, settings or ClientSettings(), identity)
        await engine.start(timeout)
        return cls(engine)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the session, so that it no longer counts among the client's, and the connections.

        If this is cancelled, it goes on without its caller; a second call waits for the same end.
        """
        await self._engine.close()

    @property
    def signature_checks(self) -> int:
        """Signatures of replicas checked so far: at most f + 1 per request, usually fewer."""
        return self._engine.opener.signature_checks

    async def put(
        self,
        key: bytes,
        value: bytes,
        *,
        return_previous: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """Stores a value. Raises a ClientError."""
        operation = kv.encode_put(key, value, return_previous=return_previous)
        return kv.decode_put(*await self._ordered(operation, True, timeout))

    async def delete(
        self,
        key: bytes | None = None,
        *,
        prefix: bytes | None = None,
        range_end: bytes | None = None,
        return_previous: bool = False,
        timeout: float | None = None,
    ) -> DeleteResult:
        """Deletes a key, an interval [key, range_end), or all keys with a prefix.

        Two values of `range_end` are no end of an interval, as in etcd: b"" is the key alone, like
        None; b"\\0" is the key and all above it. Raises a ClientError.
        """
        start, end = kv.interval_of(key, prefix, range_end)
        operation = kv.encode_delete(start, end, return_previous=return_previous)
        return kv.decode_delete(*await self._ordered(operation, True, timeout))

    async def cas(
        self, key: bytes, *, expect: bytes | None, value: bytes, timeout: float | None = None
    ) -> CasResult:
        """Stores `value` if the key has the value `expect`, or (None) if it does not exist. The
        result is true if it did. Raises a ClientError."""
        operation = kv.encode_cas(key, expect, value)
        return kv.decode_cas(*await self._ordered(operation, True, timeout))

    async def get(
        self,
        key: bytes,
        *,
        consistency: ReadConsistency = "linearizable",
        timeout: float | None = None,
    ) -> KeyValue | None:
        """The key with its value and revisions, None if it does not exist. Raises a ClientError."""
        found = await self.range(key, consistency=consistency, timeout=timeout)
        return found.items[0] if found.items else None

    async def range(
        self,
        key: bytes | None = None,
        *,
        prefix: bytes | None = None,
        range_end: bytes | None = None,
        start: bytes | None = None,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        with_revision: bool = False,
        consistency: ReadConsistency = "linearizable",
        timeout: float | None = None,
    ) -> RangeResult:
        """One key, an interval [key, range_end), or all keys with a prefix, ascending; `start`
        leaves out those below it. `range_end` of b"" or b"\\0" is special, as for `delete`.

        `limit` 0 means all; `revision` 0 the latest. `with_revision` asks a fast read for the
        revision of the store too, which makes it match less often while others write.

        What is too large for one result is a ServiceError: ask for it in pages, with `limit`, and
        `start` the last key and a zero byte. So are more keys than one operation may look at. It
        counts all of them whatever the limit, so only a nearer end helps: pages of longer prefixes,
        or up to some `range_end`. The store keeps its latest revision only, so all pages are of one
        state only if nothing was written meanwhile. Raises a ClientError.
        """
        begin, end = kv.interval_of(key, prefix, range_end, start)
        operation = kv.encode_range(
            begin,
            end,
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            count_only=count_only,
            with_revision=with_revision,
        )
        if not isinstance(consistency, str) or consistency not in _FAST:
            raise InvalidCall(f"consistency must be one of {', '.join(_FAST)}")
        fast = _FAST[consistency]
        if fast is None:
            return kv.decode_range(*await self._ordered(operation, False, timeout))
        settled, index = await self._engine.call(
            operation,
            changes=False,
            consistency=fast,
            exhausted=kv.EXHAUSTED,
            timeout_seconds=timeout,
        )
        return kv.decode_range(*_result(settled, index))

    async def execute(self, operation: bytes, *, timeout: float | None = None) -> Executed:
        """Runs an operation of a service other than the store. Raises a ClientError."""
        operation = kv.bytes_of("operation", operation)
        return Executed(*await self._ordered(operation, True, timeout, exhausted=None))

    async def _ordered(
        self,
        operation: bytes,
        changes: bool,
        timeout: float | None,
        exhausted: bytes | None = kv.EXHAUSTED,
    ) -> tuple[bytes, Execution]:
        settled, index = await self._engine.call(
            operation, changes=changes, exhausted=exhausted, timeout_seconds=timeout
        )
        assert isinstance(settled, Settlement)
        return _ordered_result(settled, index)


def _result(settled: Settled, index: int) -> tuple[bytes, Execution | None]:
    """The call's own result, and its place in the order if it has one."""
    if isinstance(settled, Settlement):
        return _ordered_result(settled, index)
    assert settled.decision is not None
    return settled.decision.results[index], None


def _ordered_result(settled: Settlement, index: int) -> tuple[bytes, Execution]:
    decision = settled.decision
    execution = Execution(
        decision.sequence, settled.session, settled.number, index, decision.agreed_time_us
    )
    return decision.results[index], execution


def _load_identity(
    cluster: ClusterFile, key_file: Path, certificate: Path | None
) -> TlsIdentity | None:
    """What this client shows and trusts; None where cluster.toml says `insecure`."""
    if cluster.insecure:
        return None
    if cluster.authority is None:
        raise ConfigurationError(
            "cluster.toml names no authority, so nothing would tell who answers: name its "
            "certificate, or write insecure = true if the network itself is trusted"
        )
    if certificate is None and key_file == cluster.key:
        certificate = cluster.certificate
    return load_identity(cluster.authority, certificate or key_file.with_suffix(".pem"))
