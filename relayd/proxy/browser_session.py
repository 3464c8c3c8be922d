"""The session of a browser that has signed in to an application (sign_in.py), found by the cookie of a request.

1. Only routes of an application with `allow` know sessions. A key in a header field is looked at first.
2. The key of a session is looked up for every request. If it is no longer known, or may not use the route any more, the
   session is ended.
3. A browser without a session reaches the sign-in page and its files, nothing else (`is_public`).
"""

from __future__ import annotations

from collections.abc import Callable

from relayd import clock
from relayd.access.client_request import ClientRequest
from relayd.access.identity import Identity
from relayd.access.key_store import KeysBehind
from relayd.access.sessions import cookie_value
from relayd.plan.plan import PlannedRoute
from relayd.proxy.application import SESSION_COOKIE, is_public
from relayd.proxy.exchange import Exchange
from relayd.wire.http1 import RequestHead


def session_identity(exchange: Exchange, may_enter: Callable[[Identity], bool]) -> Identity | None:
    """The identity of the request's session, None without one. Raises KeysBehind."""
    token = cookie_value(exchange.head.get_all(b"cookie"), SESSION_COOKIE)
    sessions = exchange.gateway.sessions
    session = None if token is None else sessions.find(token, clock.monotonic())
    if session is None:
        return None
    identity = exchange.plan.consumers.identify_digest(session.key_digest)
    if identity is None or not may_enter(identity):
        sessions.end(session)
        return None
    exchange.session = session
    return identity


def is_sign_in(exchange: Exchange, route: PlannedRoute) -> bool:
    """True if a request without a key asks for the sign-in page of an application, its files, or to sign in."""
    method = exchange.head.method.decode("latin-1")
    return route.action == "admin" and is_public(method, path_of(route, exchange.head))


def is_over(exchange: Exchange) -> bool:
    """True if the session of this exchange has ended, or its key, token or address would no longer be accepted."""
    session, consumers = exchange.session, exchange.plan.consumers
    if session is not None and (session.ended or clock.monotonic() >= session.end_s):
        return True
    try:
        if session is not None:
            return consumers.identify_digest(session.key_digest) is None
        route, identity = exchange.route, exchange.identity
        if route is None or identity is None or route.allow is None:
            return False
        request = client_request(exchange)
        found = consumers.identify(request, lambda one: one.may_enter(route.name, route.allow))
        is_awaited = request.awaited is not None or request.lacks_keys  # the keys of its issuer are being read
        return not is_awaited and (found is None or found.name != identity.name)
    except KeysBehind:  # many keys have changed; the next look decides
        return False


def client_request(exchange: Exchange) -> ClientRequest:
    """The request of an exchange as authenticators see it."""
    record = exchange.record
    return ClientRequest(
        exchange.head, exchange.plan.consumers.ordered_fields, record.client or record.peer,
        exchange.down.client_certificate,
    )


def path_of(route: PlannedRoute, head: RequestHead) -> str:
    """The path of a request in the application of its route: without the route's prefix and the query."""
    path = route.rewritten(head.path).removeprefix(route.admin_prefix)
    return (path if path.startswith(b"/") else b"/" + path).decode("latin-1")
