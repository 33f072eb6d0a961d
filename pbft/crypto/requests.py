"""Whether a client's request is acceptable: a pure function of its bytes and the genesis.

Nothing of execution state is asked here (protocol.md section 5): duplicates, settled and expired
requests are decided at execution, and all honest replicas decide alike.
"""

import hashlib
from collections.abc import Callable
from typing import cast

from pbft.codec import decode_message
from pbft.crypto.digest import request_digest
from pbft.crypto.envelopes import Envelopes
from pbft.crypto.remembered import Remembered
from pbft.errors import Reason, Rejected
from pbft.genesis import Genesis
from pbft.limits import VERIFIED_REQUEST_BYTES, VERIFIED_REQUESTS
from pbft.messages import REJOIN_OPERATION, Authenticated, Kind, Request, Signed


class RequestVerifier:
    """Admits requests and remembers those that were good."""

    def __init__(self, genesis: Genesis, envelopes: Envelopes) -> None:
        self._genesis = genesis
        self._envelopes = envelopes
        self._good: Remembered[Authenticated[Request]] = Remembered(
            VERIFIED_REQUESTS, VERIFIED_REQUEST_BYTES
        )

    def admit(
        self, signed: Signed, require_relevant: Callable[[Request], None] | None = None
    ) -> Authenticated[Request]:
        """The request in this envelope; `require_relevant` is called before its signature is
        checked and may raise.

        Raises Rejected(WRONG_DOMAIN | OVERSIZE | MALFORMED | SENDER_MISMATCH | CLIENT_UNAUTHORIZED
        | BAD_SIGNATURE).
        """
        if signed.kind is not Kind.REQUEST:
            raise Rejected(Reason.WRONG_DOMAIN, f"{signed.kind.name} instead of a request")
        if len(signed.payload) > self._genesis.limits.request_bytes:
            raise Rejected(Reason.OVERSIZE, f"a request of {len(signed.payload)} bytes")
        client = self._envelopes.public_key(signed)
        digest = request_digest(signed.payload)
        # All three have fixed lengths; kind and cluster are the same for all that are remembered.
        fingerprint = hashlib.sha256(client + signed.signature + digest).digest()
        remembered = self._good.get(fingerprint)
        if remembered is not None:
            if require_relevant is not None:
                require_relevant(remembered.message)
            return remembered
        request = cast(Request, decode_message(signed.kind, signed.payload))
        self._validate(request, signed)
        if require_relevant is not None:
            require_relevant(request)
        self._envelopes.require_authentic(signed)
        admitted = Authenticated(request, signed, digest)
        self._good.put(fingerprint, admitted, len(signed.payload))
        return admitted

    def restored(self, signed: Signed) -> Authenticated[Request]:
        """A request from the own vote log, admitted before it was written: decoded only.

        Raises Rejected(WRONG_DOMAIN | MALFORMED | OVERSIZE) if it is not what was written.
        """
        if signed.kind is not Kind.REQUEST:
            raise Rejected(Reason.WRONG_DOMAIN, f"{signed.kind.name} instead of a request")
        request = cast(Request, decode_message(signed.kind, signed.payload))
        return Authenticated(request, signed, request_digest(signed.payload))

    def _validate(self, request: Request, signed: Signed) -> None:
        limits = self._genesis.limits
        if request.client != signed.signer:
            raise Rejected(Reason.SENDER_MISMATCH, "a request in the name of another client")
        if self._genesis.replica_with_key(request.client) is not None:
            # A replica's key may ask for one thing only: to rejoin (protocol.md section 10).
            if request.operations != (REJOIN_OPERATION,) or request.number != 1:
                raise Rejected(Reason.CLIENT_UNAUTHORIZED, "a replica's key is no client's")
        elif not self._genesis.admits(request.client):
            raise Rejected(Reason.CLIENT_UNAUTHORIZED)
        if len(request.operations) > limits.operations_per_request:
            raise Rejected(Reason.OVERSIZE, f"{len(request.operations)} operations")
        if len(signed.payload) > limits.operation_bytes and any(
            len(operation) > limits.operation_bytes for operation in request.operations
        ):
            raise Rejected(Reason.OVERSIZE, "an operation beyond the limit")
        if request.session < 1 or request.number < 1:
            raise Rejected(Reason.MALFORMED, "sessions and numbers start at 1")
        in_flight = request.number - request.acknowledged
        if not 0 < in_flight <= limits.requests_in_flight:
            raise Rejected(Reason.MALFORMED, "acknowledged < number <= acknowledged + W")
        if bool(request.operations) is request.close_session:
            raise Rejected(Reason.MALFORMED, "operations, or the close of the session, not both")
