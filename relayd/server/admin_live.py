"""Live state for the admin application: upstreams, queues and streams as plain data, and the actions on endpoints.

1. Reading changes nothing and waits for nothing. What may be large is read in steps, and an item that ends between two
   of them is left out or shown as it was.
2. An action names the upstream and the endpoint's address as shown on the page. It is in force when its response is
   sent, and stays in force over reloads until it is undone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar
from urllib.parse import unquote

from relayd.errors import ExchangeError
from relayd.plan.specs import endpoint_specs
from relayd.proxy.exchange import Exchange
from relayd.proxy.gateway import Gateway
from relayd.server.exchange_number import MARK, number_of
from relayd.telemetry.recent import LONGEST_TEXT
from relayd.upstream.discovered import Address
from relayd.upstream.upstream import Upstream
from relayd.wire.json_steps import Steps

T = TypeVar("T")

SHOWN_LIMITS = 1000
SHOWN_STREAMS = 1000
SHOWN_WAITERS = 1000
SHOWN_SAME = 10
DESCRIBED, COMPARED = 32, 512  # items in one step
MOST_URLS = 64
STATES = {"drain": "draining", "disable": "disabled", "enable": "enabled"}
BREAKERS = {"open": "open", "reset": "closed"}

# The actions by path, and what they do, for the API documents.
ENDPOINT = "/upstreams/{upstream}/endpoints/{endpoint}"
ACTIONS = {
    f"{ENDPOINT}/drain": "Let an endpoint finish its requests, and give it no new ones until it is enabled.",
    f"{ENDPOINT}/disable": "Give an endpoint no new requests until it is enabled.",
    f"{ENDPOINT}/enable": "Use an endpoint again that was drained or disabled.",
    f"{ENDPOINT}/breaker/open": "Open the breaker of an endpoint until it is reset.",
    f"{ENDPOINT}/breaker/reset": "Close the breaker of an endpoint.",
    "/upstreams/{upstream}/set/{url}": "Replace the endpoints of an upstream by this URL and further ones.",
    "/upstreams/{upstream}/reset": "Return to the endpoints of the configuration or discovery.",
    "/streams/{id}/cancel": "End an exchange in flight with the error `stopped`.",
    "/generations/{number}/compare": "What a rollback to a saved generation would change.",
    "/generations/{number}/restore": "Bring a saved generation into force, without changing the files.",
    "/certs/renew": "Begin to renew all certificates.",
    "/certs/{name}/renew": "Begin to renew a certificate.",
}


class NotFound(Exception):
    """The target of an action does not exist. The text lists the existing ones."""


class NotPossible(Exception):
    """The action is not possible for this endpoint. The text gives the reason."""


def upstreams(gateway: Gateway) -> Steps[dict[str, object]]:
    """Every upstream of the plan in force, with its endpoints and admission state."""
    plan = gateway.plan
    found: list[dict[str, object]] = []
    for upstream in () if plan is None else plan.upstreams.values():
        found.append((yield from upstream.describe_steps()))
    return {"upstreams": found}


def queues(gateway: Gateway) -> Steps[dict[str, object]]:
    """Every gate with a limit, and its waiting requests in the order in which they will be admitted."""
    gates: list[dict[str, object]] = []
    waiting: list[dict[str, object]] = []
    for gate in tuple(gateway.gates.limited()):
        gates.append(gate.describe())
        waiting += gate.waiters(SHOWN_WAITERS - len(waiting))
        yield
    return {"gates": gates, "waiting": waiting}


def limits(gateway: Gateway, most: int = SHOWN_LIMITS) -> Steps[dict[str, object]]:
    """The counters of rates and budgets, the most used ones first, and the number of those that are left out."""
    now, shared = gateway.ledger.now(), gateway.shared
    source = "local" if shared is None else "shared" if shared.is_shared else "degraded"
    counters = yield from gateway.ledger.counters()
    found = yield from first_steps(counters, most, lambda one: -one.window.used / one.limit)
    described: list[dict[str, object]] = []
    for number, counter in enumerate(found, 1):
        described.append(counter.describe(now, source))
        if not number % DESCRIBED:
            yield
    return {"limits": described, "more": len(counters) - len(found)}


def streams(gateway: Gateway) -> Steps[dict[str, object]]:
    """The number of exchanges in flight, and the oldest SHOWN_STREAMS of them, oldest first."""
    found = tuple(gateway.exchanges)
    oldest = yield from first_steps(found, SHOWN_STREAMS, lambda exchange: exchange.record.started)
    described: list[dict[str, object]] = []
    for number, exchange in enumerate(oldest, 1):
        if exchange in gateway.exchanges:
            described.append(stream(exchange))
        if not number % DESCRIBED:
            yield
    return {"in_flight": len(gateway.exchanges), "streams": described}


def first_steps(items: Iterable[T], most: int, order: Callable[[T], float]) -> Steps[list[T]]:
    """The first `most` items in the order of these numbers; items with equal numbers stay in their order."""
    heap: list[tuple[float, int, T]] = []  # the last one of those found so far is the first
    for number, item in enumerate(items):
        entry = (-order(item), -number, item)
        if len(heap) < most:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
        if not number % COMPARED:
            yield
    return [item for _, _, item in sorted(heap, reverse=True)]


def stream(exchange: Exchange) -> dict[str, object]:
    """One exchange. Its path has at most LONGEST_TEXT characters, and no query, which could contain a key."""
    record = exchange.record
    return {
        "id": record.id,
        "number": number_of(exchange),
        "age_s": round(exchange.age_s(), 3),
        "room": exchange.phase,
        "method": record.method,
        "path": record.path[:LONGEST_TEXT],
        "consumer": record.consumer,
        "route": record.route,
        "upstream": record.upstream,
        "endpoint": record.endpoint,
        "attempts": record.attempts,
        "generation": record.generation,
        "buffered_bytes": exchange.buffered(),
        "sent_bytes": record.bytes_out,
    }


def id_of(exchange: Exchange) -> str:
    """The request id, which may be the client's."""
    return exchange.record.id


def cancel(gateway: Gateway, path: str, consumer: str = "") -> dict[str, object]:
    """Perform `/streams/ID/cancel` for a consumer: end an exchange with the error `stopped`. Returns its last state.

    ID is its number, or its request id if no other exchange has the same. Raises NotFound, NotPossible.
    """
    parts = [unquote(part) for part in path.split("/")]
    if len(parts) != 4 or parts[3] != "cancel":
        raise NotFound("There is no such action.")
    name = number_of if parts[2].startswith(MARK) else id_of
    found = [one for one in gateway.exchanges if name(one) == parts[2]]
    if not found:
        raise NotFound(f"No exchange in flight has the id {parts[2]!r}.")
    if len(found) > 1:
        numbers = ", ".join(number_of(one) for one in found[:SHOWN_SAME])
        raise NotPossible(f"{len(found)} exchanges have this request id; name one by its number: {numbers}.")
    (exchange,) = found
    last = stream(exchange)
    exchange.guard(partial(exchange.fail, ExchangeError("stopped", f"cancelled by {consumer or 'an operator'}")))
    return {"cancelled": last}


def circuit_breaker(gateway: Gateway) -> dict[str, object]:
    """The breakers of all upstreams, combined: open if those of one upstream reject every request."""
    plan = gateway.plan
    breakers = [] if plan is None else [one.circuit_breaker() for one in plan.upstreams.values()]
    return {
        "enabled": any(one["enabled"] for one in breakers),
        "is_open": any(one["is_open"] for one in breakers),
        "consecutive_failures": max((int(str(one["consecutive_failures"])) for one in breakers), default=0),
    }


def act(gateway: Gateway, path: str) -> dict[str, object]:
    """Perform `/upstreams/NAME/endpoints/ADDRESS/drain|disable|enable`, `.../ADDRESS/breaker/open|reset`,
    `/upstreams/NAME/set/URL[/URL...]` or `/upstreams/NAME/reset`, each part percent-encoded. Returns the state of the
    endpoint, or of all endpoints, afterwards. Raises NotFound, NotPossible."""
    parts = [unquote(part) for part in path.split("/")]
    if parts[:2] == ["", "upstreams"] and ((len(parts) > 4 and parts[3] == "set") or parts[3:] == ["reset"]):
        return _override(gateway, _upstream(gateway, parts[2]), parts[4:])
    if len(parts) not in (6, 7) or parts[:2] != ["", "upstreams"] or parts[3] != "endpoints":
        raise NotFound("There is no such action.")
    upstream, address = _upstream(gateway, parts[2]), parts[4]
    if all(one.label != address for one in upstream.endpoints):
        known = ", ".join(one.label for one in upstream.endpoints)
        raise NotFound(f"Upstream {upstream.name} has no endpoint {address!r}; it has: {known or 'none'}.")
    if len(parts) == 6 and parts[5] in STATES:
        upstream.set_state(address, STATES[parts[5]])
    elif len(parts) == 7 and parts[5] == "breaker" and parts[6] in BREAKERS:
        try:
            upstream.set_breaker(address, BREAKERS[parts[6]])
        except ValueError as error:
            raise NotPossible(f"{error}.") from error
    else:
        raise NotFound("There is no such action.")
    gateway.gates.wake()  # requests may wait for the endpoint that was enabled or reset
    endpoints = upstream.describe()["endpoints"]
    assert isinstance(endpoints, list)
    return {"upstream": upstream.name, "endpoint": next(one for one in endpoints if one["address"] == address)}


def _override(gateway: Gateway, upstream: Upstream, urls: list[str]) -> dict[str, object]:
    """Set the endpoints of an upstream; without URLs return to those of its configuration or discovery."""
    plan = gateway.plan
    if plan is None or upstream.name not in plan.config.upstreams:
        raise NotPossible(f"The endpoints of the built-in upstream {upstream.name} cannot be set.")
    if len(urls) > MOST_URLS:
        raise NotPossible(f"At most {MOST_URLS} URLs can be set.")
    if twice := next((url for url in urls if urls.count(url) > 1), ""):
        raise NotPossible(f"{twice} is there twice." if "@" not in twice else "A URL is there twice.")
    try:
        specs = endpoint_specs(map(Address, urls), upstream.spec.balance.kind)
    except ValueError as error:
        raise NotPossible(f"A URL {error}.") from error
    upstream.override_endpoints(specs if urls else None)
    gateway.gates.wake()
    return {"upstream": upstream.name, "overridden": upstream.overridden, "endpoints": upstream.describe()["endpoints"]}


def _upstream(gateway: Gateway, name: str) -> Upstream:
    known = {} if gateway.plan is None else gateway.plan.upstreams
    if name not in known:
        raise NotFound(f"There is no upstream {name!r}; the upstreams are: {', '.join(known) or 'none'}.")
    return known[name]
