"""Replay: sends a captured request again to one upstream, and captures what comes back.

1. The request goes through the phases of every request, with a plan of its own in which its route matches everything,
   allows everybody, and has one target. So it is translated, gets the upstream's key, waits in the upstream's queue and
   is logged and priced like any other request; but it belongs to no consumer, and counts in nobody's limits.
2. What was masked is not sent: the client's keys and cookies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from relayd import clock
from relayd.access.consumers import Consumers
from relayd.dataclass import dataclass
from relayd.errors import ExchangeError
from relayd.plan.plan import Plan, PlannedRoute, Resilience, Target
from relayd.proxy.captured import CapturedExchange
from relayd.proxy.downstream import NullDownstream
from relayd.proxy.exchange import Exchange
from relayd.proxy.ports import GatewayPort
from relayd.routing.matchers import Matcher
from relayd.routing.table import Table
from relayd.wire.forwarded import Networks
from relayd.wire.headers import name_of
from relayd.wire.http1 import RequestHead, parse_head
from relayd.wire.redact import MASK

OnReplayed = Callable[[CapturedExchange | None], None]
LISTENER = "replay"
_FRAMING = (b"content-length", b"transfer-encoding", b"expect", b"connection", b"upgrade")


class ReplayRefused(Exception):
    """A request cannot be sent again; the text gives the reason."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A request that can be sent again: to `target`, with a plan of its own. `peer` is the address of its client."""

    plan: Plan
    target: Target
    head: RequestHead
    body: bytes | None
    peer: str


def prepare(plan: Plan, captured: CapturedExchange, upstream: str, model: str) -> Replay:
    """What a replay would send with this plan. Empty names are those of the captured exchange. Raises ReplayRefused."""
    record = captured.record
    route = next((one for one in plan.routes if one.name == record["route"]), None)
    if route is None:
        why = f"route {record['route']} is not in the configuration any more" if record["route"] else "it had no route"
        raise ReplayRefused(f"The request cannot be routed: {why}.")
    name = upstream or str(record["upstream"])
    if not name:
        raise ReplayRefused("The request was not sent to any upstream; name one.")
    if route.action != "proxy":
        raise ReplayRefused(f"Route {route.name} has no upstream.")
    if name not in plan.upstreams:
        raise ReplayRefused(f"There is no upstream {name}; the upstreams are: {', '.join(plan.upstreams)}.")
    body = captured.body
    if body.is_masked:
        raise ReplayRefused("A key was masked in its body, or its content coding hides if it has one.")
    if body.missing:
        raise ReplayRefused(
            f"{body.missing} of the {body.size} bytes of its body were not kept; capture it with a larger --body."
        )
    if any(attempt.is_tunnel for attempt in captured.attempts):
        raise ReplayRefused("It was an Upgrade, of which only the heads were kept.")
    if not model and name == record["upstream"]:
        model = str(record.get("model_there", ""))
    target = replace(_known_target(plan, name), model=model or None)
    data = bytes(body.head)
    return Replay(_plan_for(plan, route, target), target, _head_of(captured, len(data)), data if data else None,
                  str(record["peer"]))


def _known_target(plan: Plan, name: str) -> Target:
    """A target at this upstream, with the gate and the limits of the upstream."""
    upstream = plan.upstreams[name]
    known = next((one for one in _targets(plan) if one.upstream is upstream), None)
    if known is None:
        return Target(upstream, dialect=plan.dialects.get(upstream.spec.protocol))
    return replace(known, on=frozenset())


def _targets(plan: Plan) -> Iterator[Target]:
    for route in plan.routes:
        yield from route.targets
        if route.resilience is not None:
            yield from (one for _, one in route.resilience.split)
            yield from route.resilience.fallbacks
    for found in plan.model_targets.values():
        yield from found


def _plan_for(plan: Plan, route: PlannedRoute, target: Target) -> Plan:
    resilience = None if route.resilience is None else _only(route.resilience, target)
    alone = replace(
        route, allow=None, cors=None, upgrade=False, finish=False, limit_set=None, uses_session=False, cache=None,
        resilience=resilience, targets=(target,),
    )
    return replace(
        plan, table=Table([(Matcher(), alone)]), routes=(alone,), consumers=Consumers(), https_redirects={},
    )


def _only(resilience: Resilience, target: Target) -> Resilience:
    return replace(
        resilience, by_model=False, split=((100.0, target),), fallbacks=(), mirror=None, mirror_share=0.0, gate=None,
        needs_body=True, counts_models=False,
    )


def _head_of(captured: CapturedExchange, length: int) -> RequestHead:
    """The captured head without what was masked. Raises ReplayRefused."""
    path, mark, query = captured.target.partition(b"?")
    if MASK.encode() in path:
        raise ReplayRefused("Its path contained a key, which was masked.")
    parameters = [one for one in query.split(b"&") if MASK.encode() not in one]
    target = path + (mark + b"&".join(parameters) if parameters else b"")
    lines = [line for line in captured.fields if name_of(line) not in _FRAMING and MASK.encode() not in line]
    if length:
        lines.append(b"Content-Length: %d" % length)
    start = captured.method + b" " + target + (b" HTTP/1.0" if captured.version == 10 else b" HTTP/1.1")
    try:
        return parse_head(b"\r\n".join([start, *lines, b"", b""]))
    except ExchangeError as fault:
        raise ReplayRefused(f"Its head is not complete without what was masked: {fault.detail}.") from fault


def exchange_of(gateway: GatewayPort, replayed: Replay) -> Exchange:
    """The exchange of a replay, which is not begun yet."""
    down = NullDownstream(LISTENER, replayed.peer, Networks(()), False)
    return Exchange(gateway, replayed.plan, down, replayed.head, clock.monotonic(), replayed.body)


