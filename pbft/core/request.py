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
    if known is not None and known.request_digest == request.digest:
        execution.queue_reply(core, message, known, full=full_results)
        return
    if core.sessions.is_settled(message):
        core.reject("request", Reason.SETTLED, None)
        return
    reason = core.pool.add(request, core.now.monotonic_us, core.timeout_us, None)
    if reason is Reason.DUPLICATE:
        return
    if reason is not None:
        core.reject("request", reason, None)
        core.emit(Refuse(message.client, message.session, message.number, reason.value))
        return
    if core.mode is Mode.NORMAL and not core.is_primary:
        core.emit(Send(core.primary, request.signed))


def on_forwarded(core: Core, request: Authenticated[Request], sender: ReplicaId) -> None:
    """A request that a peer passed on: taken, and never passed on again."""
    if core.sessions.is_settled(request.message):
        core.reject("request", Reason.SETTLED, sender)
        return
    reason = core.pool.add(request, core.now.monotonic_us, core.timeout_us, sender)
    if reason is not None:
        core.reject("request", reason, sender)
