"""The phase that finds the session of a request, on routes that use sessions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from relayd.proxy.client_session import ENDPOINTS, SPACE, ClientSession, key_of, presented_id, remove_id
from relayd.proxy.exchange import Exchange
from relayd.proxy.respond import WAIT, Wait
from relayd.wire.json_steps import Steps


def find_session(exchange: Exchange, resume: Callable[[Exchange], None]) -> Wait | None:
    """Find the session of the request, or prepare a new one. With a result of WAIT, `resume` is called later."""
    route = exchange.route
    if route is None or not route.uses_session or exchange.client_session is not None:
        return None
    settings, gateway, consumer = exchange.plan.config.sessions, exchange.gateway, exchange.consumer or ""
    ttl_s = float(settings.ttl)
    is_secure = exchange.down.tls or (exchange.origin is not None and exchange.origin.proto == b"https")
    session = exchange.client_session = ClientSession(
        settings, gateway.space(SPACE + consumer, ttl_s), gateway.space(ENDPOINTS + consumer, ttl_s),
        gateway.session_counts, is_secure=is_secure,
        may_begin=exchange.head.upgrade is None and exchange.down.socket_memory is None,
    )
    session_id, by_cookie = presented_id(exchange.head, settings)
    if route.action == "proxy":
        remove_id(exchange.head, settings)
    if session_id:
        steps = _look_up(exchange, session, session_id, by_cookie)
        if not exchange.work(steps, partial(resume, exchange)):
            return WAIT
    return None


def _look_up(exchange: Exchange, session: ClientSession, session_id: bytes, by_cookie: bool) -> Steps[None]:
    yield from session.look_up_steps(session_id, by_cookie, bool(exchange.plan.session_upstreams))
    session.is_uncertain = session.is_new and (
        exchange.gateway.is_store_degraded() or bool(session.space.lost(key_of(session_id)))
    )
    if not session.is_new:
        session.record(exchange.record)
