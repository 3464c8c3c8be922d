"""The sweep of one exchange: the gateway's timer checks its timeouts, and keeps its silent stream alive."""

from __future__ import annotations

from relayd.errors import ExchangeError
from relayd.proxy.exchange import Exchange
from relayd.proxy.filters.keepalive import COMMENT, takes_comments
from relayd.proxy.filters.translate import stream_head
from relayd.proxy.retry_loop import RetryLoop


def enforce_timeouts(exchange: Exchange, now_s: float) -> None:
    """End the exchange if a timeout has expired, or send a keep-alive comment if one is due."""
    route, loop = exchange.route, exchange.retry_loop
    if route is None or exchange.phase == "over":
        return
    timeouts = exchange.effective_timeouts
    if exchange.tunnel is not None:
        exchange.tunnel.enforce_timeouts(now_s, timeouts)
    if loop is None or exchange.tunnel is not None:
        return
    if timeouts.total_s and now_s - exchange.record.started > timeouts.total_s:
        exchange.fail(ExchangeError("total_timeout", f"{timeouts.total_s:g} s"))
        return
    attempt = exchange.attempt
    per_attempt_s = loop.target.upstream.retries.spec.per_attempt_s
    if attempt is not None and (fault := attempt.expired(now_s, timeouts, per_attempt_s)) is not None:
        attempt.fail(fault)
        return
    keep_alive(exchange, loop, now_s)


def keep_alive(exchange: Exchange, loop: RetryLoop, now_s: float) -> None:
    """Send a comment to a client whose stream is silent."""
    ai_request, attempt, writer = exchange.ai_request, exchange.attempt, exchange.writer
    keepalive = None if ai_request is None else ai_request.keepalive
    if keepalive is None and attempt is not None and writer.committed:
        keepalive = attempt.keepalive
    if keepalive is None or exchange.client_detached or exchange.head.version != 11:
        return
    translated = ai_request if ai_request is not None and ai_request.needs_translation(loop.target) else None
    slot = None if attempt is None else attempt.slot
    response = None if slot is None or translated is not None else slot.response
    if (slot is not None and slot.hold) or (response is not None and not takes_comments(response)):
        return
    if not keepalive.is_due(now_s):
        return
    comment = translated.renderer.keepalive() if translated is not None and translated.content_rendered else COMMENT
    if not writer.started:
        head = stream_head(None)
        head.keep += [f"{name}: {value}\r\n".encode() for name, value in exchange.queue_fields()]
        writer.head(head)
    writer.comment(comment)
