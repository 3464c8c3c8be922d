"""Live state for the admin application: upstreams, queues and streams as plain data, and the actions on endpoints.

1. Reading changes nothing and waits for nothing.
2. An action names the upstream and the endpoint's address as shown on the page. It is in force when its response is
   sent, and stays in force over reloads until it is undone.
"""

from __future__ import annotations

from urllib.parse import unquote

from relayd.proxy.exchange import Exchange
from relayd.proxy.gateway import Gateway
from relayd.upstream.upstream import Upstream

SHOWN_STREAMS = 1000
SHOWN_WAITERS = 1000
STATES = {"drain": "draining", "disable": "disabled", "enable": "enabled"}
BREAKERS = {"open": "open", "reset": "closed"}


class NotFound(Exception):
    """The target of an action does not exist. The text lists the existing ones."""


class NotPossible(Exception):
    """The action is not possible for this endpoint. The text gives the reason."""


def upstreams(gateway: Gateway) -> dict[str, object]:
    """Every upstream of the plan in force, with its endpoints and admission state."""
    plan = gateway.plan
    return {"upstreams": [] if plan is None else [one.describe() for one in plan.upstreams.values()]}


def queues(gateway: Gateway) -> dict[str, object]:
    """Every gate with a limit, and its waiting requests in the order in which they will be admitted."""
    gates: list[dict[str, object]] = []
    waiting: list[dict[str, object]] = []
    for gate in gateway.gates.limited():
        gates.append(gate.describe())
        waiting += gate.waiters(SHOWN_WAITERS - len(waiting))
    return {"gates": gates, "waiting": waiting}


def streams(gateway: Gateway) -> dict[str, object]:
    """The number of exchanges in flight, and the oldest SHOWN_STREAMS of them, oldest first."""
    oldest = sorted(gateway.exchanges, key=lambda exchange: exchange.record.started)[:SHOWN_STREAMS]
    return {"in_flight": len(gateway.exchanges), "streams": [stream(exchange) for exchange in oldest]}


def stream(exchange: Exchange) -> dict[str, object]:
    """One exchange. Its path has no query, which could contain a key."""
    record = exchange.record
    return {
        "id": record.id,
        "age_s": round(exchange.age_s(), 3),
        "room": exchange.phase,
        "method": record.method,
        "path": record.path,
        "consumer": record.consumer,
        "route": record.route,
        "upstream": record.upstream,
        "endpoint": record.endpoint,
        "attempts": record.attempts,
        "generation": record.generation,
        "buffered_bytes": exchange.buffered(),
        "sent_bytes": record.bytes_out,
    }


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
    """Perform `/upstreams/NAME/endpoints/ADDRESS/drain|disable|enable` or `.../ADDRESS/breaker/open|reset`, each part
    percent-encoded. Returns the state of the endpoint afterwards. Raises NotFound, NotPossible."""
    parts = [unquote(part) for part in path.split("/")]
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


def _upstream(gateway: Gateway, name: str) -> Upstream:
    known = {} if gateway.plan is None else gateway.plan.upstreams
    if name not in known:
        raise NotFound(f"There is no upstream {name!r}; the upstreams are: {', '.join(known) or 'none'}.")
    return known[name]
