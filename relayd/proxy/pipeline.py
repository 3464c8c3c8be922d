"""The path of a request, on one page: accept, match, authorise, admit, (choose), attempt.

Each room is a plain call that decides at once; a refusal is an ExchangeError, which becomes an answer in one place.
The order is a safety property: nothing is sent upstream before the last room has said yes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from relayd.access.cors import preflight, refusal
from relayd.errors import ExchangeError
from relayd.limits.ticket import Refused as NoRoom
from relayd.limits.ticket import retry_after
from relayd.plan.plan import PlannedRoute, Resilience
from relayd.proxy.call import form_finder, model_in_body, model_in_path
from relayd.proxy.choose import choose
from relayd.proxy.collect import Collector
from relayd.proxy.direct import has_permits
from relayd.proxy.exchange import Exchange
from relayd.proxy.outgoing import fields_of, forwarding_of, request_id_of, strips_keys, target_of
from relayd.proxy.respond import answer, fixed_answer, redirect_answer
from relayd.proxy.socket import begin as open_socket
from relayd.routing.matchers import ModelWanted
from relayd.wire.headers import TOKENS
from relayd.wire.http1 import RequestHead
from relayd.wire.path import needs_look

_ASKS_PREFLIGHT = b"access-control-request-method"


def walk(exchange: Exchange, body: bytes | None) -> None:
    """Take an exchange through its rooms. `body` is the whole body, None if there is none or it will be streamed.

    Afterwards the exchange is under way at an endpoint, waits (for its body, in a queue), or has been answered.
    """
    try:
        if body is not None:
            exchange.record.bytes_in = len(body)
        if not accept(exchange):
            find(exchange, body)
    except ExchangeError as refused:  # the rescue door of the path
        exchange.fail(refused)


def find(exchange: Exchange, body: bytes | None) -> None:
    """From the route on; once more from here when a rule asks for the model and the body had to be read for it."""
    try:
        route = match(exchange)
    except ModelWanted:
        read_model(exchange, body)
        return
    if cors(exchange, route):
        return
    consumer = authorise(exchange, route.allow)
    admit(exchange, route)
    if route.action != "proxy":
        answer_here(exchange, route)
    elif exchange.head.upgrade is not None and not route.upgrade and open_socket(exchange, walk):
        exchange.consumer = consumer
    elif has_permits(exchange, route, consumer):
        attempt(exchange, route, consumer, body)
    elif body is None and exchange.head.has_body and gathers(route.resilience, exchange.head):
        gather_for(exchange, route)
    else:
        choose(exchange, route, body, body is not None or not exchange.head.has_body)


def gathers(resilience: Resilience | None, head: RequestHead) -> bool:
    """Whether the body is read first: where it decides, and where a dialect is spoken unless it is a file."""
    if resilience is None or resilience.needs_body or resilience.dialect is None:
        return resilience is not None and resilience.needs_body
    kind = (head.get(b"content-type") or b"").lower()
    return not kind.startswith((b"multipart/", b"audio/", b"image/", b"video/", b"application/octet-stream"))


def read_model(exchange: Exchange, body: bytes | None) -> None:
    """Learn the model, then match again."""
    head = exchange.head

    def go_on(data: bytes | None, whole: bool) -> None:
        head.model = model_in_path(head.path) or (model_in_body(head, data) if data else None) or ""
        find(exchange, data)

    if body is None and head.has_body:
        gather(exchange, go_on, foresee(exchange))
    else:
        go_on(body, True)


def foresee(exchange: Exchange) -> int:
    """Before a body is read to find its route: whether its sender could be let in at all, and how long it may be."""
    candidates = exchange.plan.table.candidates(exchange.head)
    if not candidates:  # only the normal form of the path leads to the rule that asks for the model
        raise ExchangeError("ambiguous_path", "another reading leads elsewhere")
    exchange.route = candidates[0]  # in whose words a refusal is
    if all(route.allow is not None for route in candidates):
        authorise(exchange, frozenset(name for route in candidates for name in route.allow or ()))
    limits = [route.body_limit for route in candidates]
    limit, length = max(limits) if all(limits) else 0, exchange.head.length
    if limit and length is not None and length > limit:
        raise ExchangeError("body_too_large", f"{length} bytes")
    exchange.route = None
    return limit


def gather_for(exchange: Exchange, route: PlannedRoute) -> None:
    """Read the body before a target is chosen: the whole, or of a form so much that its model is known."""
    finder = form_finder(exchange.head)

    def go_on(data: bytes, whole: bool) -> None:
        if finder is not None:
            exchange.head.model = finder.model or ""
            exchange.form_model_bytes = finder.value_bytes
        choose(exchange, route, data, whole)

    exchange.phase = "admit"
    exchange.collect(Collector(route.body_limit, go_on, finder))


def gather(exchange: Exchange, then: Callable[[bytes, bool], None], limit: int) -> None:
    """Read the body before going on."""
    exchange.phase = "admit"
    exchange.collect(Collector(limit, then))


def accept(exchange: Exchange) -> bool:
    """Name the exchange; answer OPTIONS that go no further (RFC 9110 7.6.2, 9.3.7)."""
    head, record, down = exchange.head, exchange.record, exchange.down
    house = exchange.plan.house
    exchange.request_id = request_id_of(house, down, head) or b"%032x" % random.getrandbits(128)
    record.id = exchange.request_id.decode("latin-1")
    record.method, record.host = head.method.decode("latin-1"), head.host.decode("latin-1")
    record.path, record.query = head.path.decode("latin-1"), head.query.decode("latin-1")
    record.client = down.peer
    if head.method == b"OPTIONS":
        forwards = head.get(b"max-forwards")
        if head.target == b"*" or (forwards is not None and forwards.strip(b"0") == b""):
            exchange.respond(answer(200, "", b"", (("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),)))
            return True
        if forwards is not None and forwards.isdigit() and len(forwards) < 10:
            fewer = b"Max-Forwards: %d" % (int(forwards) - 1)
            head.keep = [fewer if line.lower().startswith(b"max-forwards:") else line for line in head.keep]
    return False


def match(exchange: Exchange) -> PlannedRoute:
    """First match wins. A path that another reader could take to another route is refused, not guessed at."""
    exchange.phase = "match"
    head, table = exchange.head, exchange.plan.table
    route = table.match(head)
    if needs_look(head.path) and table.contradiction(head, route, route is not None and route.moves_path) is not None:
        raise ExchangeError("ambiguous_path", "another reading leads elsewhere")
    if route is None:
        raise ExchangeError("no_route")
    exchange.route = route
    exchange.record.route = route.name
    resilience = route.resilience
    if head.upgrade is not None and resilience is not None and resilience.sockets:
        return route
    if head.upgrade is not None and (not route.upgrade or b"h2c" in TOKENS[head.upgrade]):
        head.upgrade = None  # RFC 9110 7.8: a server may ignore Upgrade; h2c would hide requests from the gate
    return route


def cors(exchange: Exchange, route: PlannedRoute) -> bool:
    """Answer a browser's preflight; it carries no key, so it comes before authorise."""
    head = exchange.head
    if route.cors is None or head.method != b"OPTIONS":
        return False
    origin, method = head.get(b"origin"), head.get(_ASKS_PREFLIGHT)
    if origin is None or method is None:
        return False
    asked = head.get(b"access-control-request-headers") or b""
    fields = preflight(route.cors, origin.decode("latin-1"), method.decode("latin-1"), asked.decode("latin-1"))
    exchange.mute_cors()
    if fields is None:
        exchange.respond(answer(403, "", b"", tuple(refusal(route.cors))))
    else:
        exchange.respond(answer(204, "", b"", tuple(fields)))
    return True


def authorise(exchange: Exchange, allow: frozenset[str] | None) -> str | None:
    """Which consumer, and is it among those that are granted this? None lets everybody in."""
    exchange.phase = "authorise"
    consumers = exchange.plan.consumers
    if not consumers.names:
        return None
    consumer = exchange.consumer = consumers.identify(exchange.head)
    exchange.record.consumer = consumer or ""
    if allow is not None and consumer not in allow:
        if consumer is None:
            raise ExchangeError("unauthorized", "no known key", (("WWW-Authenticate", "Bearer"),))
        raise ExchangeError("forbidden", f"consumer {consumer}")
    return consumer


def admit(exchange: Exchange, route: PlannedRoute) -> None:
    """Is there room, and is the body small enough to begin with?"""
    exchange.phase = "admit"
    if exchange.gateway.draining:
        raise ExchangeError("draining", headers=(("Retry-After", "1"),))
    if route.action == "proxy":
        priorities = exchange.plan.priorities
        try:
            exchange.gateway.overload.admit(priorities.get(exchange.consumer or "", 0) if priorities else 0)
        except NoRoom as refused:
            raise ExchangeError("overloaded", headers=(("Retry-After", retry_after(refused.retry_after_s)),)) from None
    length = exchange.head.length if exchange.head.length is not None else exchange.record.bytes_in
    if route.body_limit and length > route.body_limit:
        raise ExchangeError("body_too_large", f"{length} bytes")


def answer_here(exchange: Exchange, route: PlannedRoute) -> None:
    """Routes that end in relayd itself."""
    head = exchange.head
    if route.action == "redirect":
        exchange.respond(redirect_answer(route, head, "https" if exchange.down.tls else "http"))
    elif route.action == "respond":
        exchange.respond(fixed_answer(route))
    elif route.action == "admin":
        path = route.rewritten(head.path).removeprefix(route.admin_prefix)
        path = path if path.startswith(b"/") else b"/" + path
        method = "GET" if head.method == b"HEAD" else head.method.decode("latin-1")
        status, content_type, body = exchange.gateway.admin_handler(
            method, path.decode("latin-1"), write=route.admin_write
        )
        exchange.respond(answer(status, content_type, body, (("Cache-Control", "no-store"),)))
    else:
        raise ExchangeError("not_in_force", route.name)


def attempt(exchange: Exchange, route: PlannedRoute, consumer: str | None, body: bytes | None) -> None:
    """Pick an endpoint and send the request there."""
    exchange.phase = "attempt"
    head, down, plan = exchange.head, exchange.down, exchange.plan
    upstream = route.upstream
    assert upstream is not None
    exchange.record.upstream = upstream.name
    client, forwarding = forwarding_of(plan.house, down, head)
    exchange.record.client = client
    endpoint = upstream.pick()
    if endpoint is None:
        why, after_s = upstream.unavailable()
        raise ExchangeError("no_endpoint", why, (("Retry-After", retry_after(after_s)),))
    exchange.upstream, exchange.endpoint = upstream, endpoint
    spec = upstream.spec
    target = target_of(route, endpoint, spec, head)
    strip = strips_keys(route, spec, consumer)
    fields = fields_of(
        route, plan.house, endpoint, spec, head, forwarding, exchange.request_id, strip, plan.key_fields
    )
    if head.upgrade is not None and route.upgrade and not (head.chunked or head.length):
        # With a body it stays plain HTTP: a tunnel has no framing, the body would be the endpoint's next request.
        exchange.upgrade(endpoint, target, fields)
    else:
        exchange.attempt(endpoint, target, fields, body)
