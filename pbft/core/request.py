"""Requests on arrival (OSDI'99 section 4.1; protocol.md sections 4, 5, 7)."""

from pbft.core import execution
from pbft.core.effects import Refuse, Send
from pbft.core.state import Core, Mode
from pbft.errors import Reason
from pbft.messages import Authenticated, Request
from pbft.types import ReplicaId


def on_submit(core: Core, request: Authenticated[Request], full_results: bool) -> None:
    """A request from its client: answered from the cache, or taken; a backup forwards it at
    once."""
    message = request.message
    known = core.sessions.cached_reply(message)
    if known is not None:
        if known.request_digest != request.digest:
            known = core.sessions.conflict(request, known)
        execution.queue_reply(core, message, known, full=full_results)
        return
    if core.sessions.is_settled(message):
        core.reject("request", Reason.SETTLED, None)
        return
    reason = core.pool.add(request, core.now.monotonic_us, core.timeout_us, None)
    if full_results and reason in (None, Reason.DUPLICATE):
        core.pool.note_wanted(message)
    if reason is Reason.DUPLICATE:
        return
    if reason is not None:
        core.reject("request", reason, None)
        core.emit(Refuse(message.client, message.session, message.number, reason.value))
        return
    if core.mode is Mode.NORMAL and not core.is_primary:
        core.emit(Send(core.primary, request.signed))


def check_forwarded(core: Core, message: Request, sender: ReplicaId) -> Reason | None:
    """Whether a request that a peer passed on could matter; pure. A peer can replay without end
    what clients really signed: that is not worth verifying again."""
    if core.sessions.is_settled(message):
        return Reason.SETTLED
    if message in core.pool:
        return Reason.DUPLICATE
    return _check_expired(core, sender) if core.sessions.is_expired(message) else None


def on_forwarded(core: Core, request: Authenticated[Request], sender: ReplicaId) -> None:
    """A request that a peer passed on: taken, and never passed on again."""
    message = request.message
    expired = core.sessions.is_expired(message)
    reason = check_forwarded(core, message, sender)
    if reason is None:
        now_us = core.now.monotonic_us
        reason = core.pool.add(request, now_us, core.timeout_us, sender, only_reserved=expired)
    if reason is not None:
        core.reject("request", reason, sender)
    elif expired:
        interval_us = core.settings.limits.expired_interval_us
        core.expired_pace.count(sender, core.now.monotonic_us, interval_us)


def _check_expired(core: Core, sender: ReplicaId) -> Reason | None:
    """Whether a request of a closed session is taken from a peer.

    Any peer can replay all that a client ever sent in sessions that are over, and only executing
    them again says that they are. So they must not crowd out what the client sends now: one per
    peer and client, in the place reserved for that peer, and few per second. They are not refused
    altogether, because a client that does not reach the primary learns only this way, by the
    answer SESSION_EXPIRED, that it must open another session. A backup has no use for them:
    nobody is suspected for their sake, and the client's next copy finds a later primary.

    A replica that lags knows of fewer closed sessions than others, and so refuses less.
    """
    if not core.is_primary:
        return Reason.SETTLED
    interval_us = core.settings.limits.expired_interval_us
    allowed = core.expired_pace.allows(sender, core.now.monotonic_us, interval_us)
    return None if allowed else Reason.RATE_LIMIT
