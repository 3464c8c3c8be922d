"""Authorisation: which consumer sent a request, and whether the consumer may use the route and the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import attrgetter

from relayd import clock
from relayd.access.client_request import ClientRequest
from relayd.access.credential import presents_key
from relayd.access.identity import Identity
from relayd.access.key_source import KeySource
from relayd.errors import ExchangeError
from relayd.limits.failed_keys import FailedKeys
from relayd.plan.plan import PlannedRoute
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.browser_session import is_sign_in, session_identity
from relayd.proxy.exchange import Exchange
from relayd.wire.forwarded import UNIX

_ALLOW = attrgetter("allow")
LONGEST_SHOWN = 128
MOST_WAITING = 1000  # requests that wait for the keys of one issuer
LONGEST_WAIT_S = 10.0


class KeysAwaited(Exception):
    """The keys of an issuer are being read, and may contain the key of the request's token."""

    def __init__(self, source: KeySource) -> None:
        super().__init__(source.spec.name)
        self.source = source


def identify(exchange: Exchange, routes: Sequence[PlannedRoute]) -> None:
    """Identify the consumer. Refuse one that can use none of these routes. Raises ExchangeError, KeysBehind, and
    KeysAwaited."""
    exchange.phase = "authorise"
    consumers, record, failed = exchange.plan.consumers, exchange.record, exchange.gateway.failed_keys
    request = ClientRequest(
        exchange.head, consumers.ordered_fields, record.client or record.peer,
        exchange.down.client_certificate,
    )
    is_needed = None not in map(_ALLOW, routes)
    if failed and is_needed:
        refuse_failed(failed, request.client, request.presented)

    def may_enter(identity: Identity) -> bool:
        for route in routes:  # noqa: SIM110 - a generator would cost twice as much for each request
            if identity.may_enter(route.name, route.allow):
                return True
        return False

    identity = consumers.identify(request, may_enter)
    if identity is None:
        local = routes[0] if is_needed and len(routes) == 1 and routes[0].action == "admin" else None
        if local is not None and not presents_key(request.presented):
            identity = session_identity(exchange, may_enter)
    exchange.identity = identity
    if identity is None:
        record.consumer = ""
        if is_needed and request.awaited is not None and len(request.awaited.waiting) < MOST_WAITING:
            raise KeysAwaited(request.awaited)
        if local is not None and not presents_key(request.presented) and is_sign_in(exchange, local):
            return
        if is_needed:
            raise refusal(exchange, request, routes)
        return
    record.consumer = identity.name
    if not may_enter(identity):
        raise ExchangeError("forbidden", f"consumer {identity.name}")


def wait_for_keys(exchange: Exchange, source: KeySource, again: Callable[[], None]) -> None:
    """Call `again` when the keys of an issuer have been read, or could not be. Refuse the request if that takes longer
    than one reading may."""

    def leave() -> None:
        source.waiting.pop(wake, None)
        cancel_timer()

    def wake() -> None:
        cancel_timer()
        exchange.cancel_timer = exchange.call_later(0.0, again)

    def give_up() -> None:
        source.waiting.pop(wake, None)
        headers = (("Retry-After", "1"),)
        exchange.fail(ExchangeError("keys_unavailable", f"{source.spec.name} has not been read in time", headers))

    cancel_timer = exchange.call_later(min(source.spec.timeout_s, LONGEST_WAIT_S) + 1.0, give_up)
    exchange.cancel_timer = leave
    source.waiting[wake] = None


def refuse_failed(failed: FailedKeys, client: str, keys: Sequence[bytes]) -> None:
    """Refuse keys from an address that has tried too many. Raises ExchangeError."""
    retry_after_s = failed.retry_after_s(client, keys, clock.monotonic()) if presents_key(keys) else 0.0
    if retry_after_s:
        headers = (("Retry-After", str(math.ceil(retry_after_s))),)
        raise ExchangeError("too_many_failed_keys", "too many wrong keys from this address", headers)


def refusal(exchange: Exchange, request: ClientRequest, routes: Sequence[PlannedRoute]) -> ExchangeError:
    """The error for a request that needs a key and has no known one. A wrong key is counted against its address."""
    if request.lacks_keys:
        return ExchangeError("keys_unavailable", request.refusal, (("Retry-After", "1"),))
    keys = request.presented
    if presents_key(keys) and not request.may_be_genuine and is_one_client(exchange, request.client):
        exchange.gateway.failed_keys.add(request.client, keys, clock.monotonic())
    challenges = exchange.plan.consumers.challenges(name for route in routes for name in route.allow or ())
    if request.refusal:
        challenges[0] = 'Bearer error="invalid_token"'  # RFC 6750 3.1
    headers = tuple(("WWW-Authenticate", challenge) for challenge in challenges)
    return ExchangeError("unauthorized", request.refusal or "no known key", headers)


def is_one_client(exchange: Exchange, client: str) -> bool:
    """False if the address may be that of many clients: of a trusted proxy that names none, or of a Unix socket."""
    return client != UNIX and not exchange.down.networks.contains(client)


def check_model(exchange: Exchange, ai_request: AiRequest | None) -> None:
    """Refuse a model that the consumer may not use. Raises ExchangeError, and Refused for an invalid body.

    The name that the client uses decides, before aliases and fallbacks. A request to a model that names none is refused
    too, because the endpoint would choose one; so is a tunnel whose messages name the model.
    """
    identity = exchange.identity
    if identity is None or identity.models is None:
        return
    if ai_request is None:
        model = exchange.head.model or ""
    else:
        if not ai_request.model and ai_request.is_translatable:
            ai_request.require_model()
        model = ai_request.model
        is_tunnel = exchange.head.upgrade is not None
        if not model and (is_tunnel or ai_request.is_translatable):
            raise ExchangeError("model_not_allowed", f"consumer {identity.name}, no model")
        if is_tunnel and ai_request.dialect.is_request_path(exchange.head.path):
            raise ExchangeError("model_not_allowed", f"consumer {identity.name}, models in the messages of a tunnel")
    if model:
        require_model(exchange, model)


def require_model(exchange: Exchange, model: str) -> None:
    """Refuse a model that the consumer may not use. Raises ExchangeError."""
    identity = exchange.identity
    if identity is not None and identity.models is not None and not identity.may_use(model):
        raise ExchangeError("model_not_allowed", f"consumer {identity.name}, model {model[:LONGEST_SHOWN]}")
