"""The sign-in of a browser to an application: a consumer's key is exchanged for a session.

A sign-in is a request with a key: a wrong one is counted against its address, and the key must be allowed on the route.
"""

from __future__ import annotations

from collections.abc import Callable

from relayd import clock
from relayd.access.consumers import key_digest
from relayd.access.credential import presents_key
from relayd.access.key_store import KeysBehind
from relayd.access.sessions import Session
from relayd.errors import ExchangeError
from relayd.proxy.authorisation import is_one_client, refuse_failed
from relayd.proxy.exchange import Exchange


class Browser:
    """The sign-in state of one request to an application."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @property
    def session(self) -> Session | None:
        """The session of the request; None before the sign-in."""
        return self._exchange.session

    @property
    def is_secure(self) -> bool:
        """True if the browser has an encrypted connection, to relayd or to a trusted proxy before it."""
        origin = self._exchange.origin
        return self._exchange.down.tls if origin is None else origin.proto == b"https"

    def sign_in(self, key: bytes, on_done: Callable[[str | ExchangeError], None]) -> None:
        """Check a key, and begin a session. `on_done` gets the token of the session, or the error."""
        exchange = self._exchange
        try:
            on_done(self._sign_in(key))
        except ExchangeError as refused:
            on_done(refused)
        except KeysBehind as behind:
            exchange.work(behind.steps, lambda: self.sign_in(key, on_done), deferred=True)

    def _sign_in(self, key: bytes) -> str:
        exchange, route = self._exchange, self._exchange.route
        assert route is not None
        failed, record = exchange.gateway.failed_keys, exchange.record
        client, now_s = record.client or record.peer, clock.monotonic()
        if not presents_key((key,)):
            raise ExchangeError("unauthorized", "no key")
        refuse_failed(failed, client, (key,))
        digest = key_digest(key)
        identity = exchange.plan.consumers.identify_digest(digest)
        if identity is None:
            if is_one_client(exchange, client):
                failed.add(client, (key,), now_s)
            raise ExchangeError("unauthorized", "no known key")
        record.consumer = identity.name
        if not identity.may_enter(route.name, route.allow):
            raise ExchangeError("forbidden", f"consumer {identity.name}")
        token, _ = exchange.gateway.sessions.begin(digest, now_s)
        return token

    def sign_out(self) -> None:
        """End the session of the request."""
        if self._exchange.session is not None:
            self._exchange.gateway.sessions.end(self._exchange.session)
