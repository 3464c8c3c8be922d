"""What a client is told of its rates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relayd.limits.counter import COST, INPUT, REQUESTS, TOTAL, Counter, Rule
from relayd.limits.ledger import Ledger, Reservation
from relayd.limits.window import Span
from relayd.plan.plan import PlannedRoute
from relayd.proxy.charge import Charge
from relayd.proxy.rate_fields import add_rate_fields, rate_lines, what_is_left
from relayd.wire.response import ResponseHead
from tests.unit.proxy.fakes import plan_of

ROUTES = {route.name: route for route in plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {a: {protocol: openai_chat, endpoints: ["http://origin.example:9001"]}, plain: {endpoints: ["http://origin.example:9001"]}}
routes:
  - {name: openai, match: {prefix: /o/}, protocol: openai_chat, upstream: a, rates: [{requests: 1, per: 1m}]}
  - {name: anthropic, match: {prefix: /a/}, protocol: anthropic_messages, upstream: a, rates: [{requests: 1, per: 1m}]}
  - {name: plain, match: {prefix: /p/}, upstream: plain, tells_rates: true, rates: [{requests: 1, per: 1m}]}
""").routes}
MINUTE = Span.sliding(60)


def counters(ledger: Ledger, *rules: tuple[Rule, int]) -> list[Counter]:
    """A counter of each rule, of which that much is used."""
    found = [(ledger.counter(rule), used) for rule, used in rules]
    assert isinstance(ledger.reserve(found, ledger.now()), Reservation)
    return [counter for counter, _ in found]


def names(lines: list[bytes]) -> list[str]:
    return [line.partition(":")[0].lower() for line in b"".join(lines).decode().splitlines()]


def told(route: PlannedRoute, *rules: tuple[Rule, int]) -> list[bytes]:
    """The lines of a response of which the endpoint sent some of its own."""
    ledger, charge, head = Ledger(), Charge("m", None), ResponseHead(200, b"OK")
    demands = [(ledger.counter(rule), used) for rule, used in rules]
    charge.own = found if isinstance(found := ledger.reserve(demands, ledger.now()), Reservation) else None
    head.keep = [b"X-RateLimit-Limit-Requests: 9999\r\n", b"Content-Type: text/plain\r\n"]
    add_rate_fields(charge, route, ledger, head)
    return head.keep


def test_of_each_kind_the_limit_is_told_of_which_the_smallest_share_is_left() -> None:
    ledger = Ledger()
    found = what_is_left(counters(
        ledger, (Rule("consumer a", REQUESTS, 10, MINUTE), 2), (Rule("group g", REQUESTS, 1000, Span.sliding(3600)), 900),
        (Rule("consumer a", TOTAL, 50, Span("day")), 20), (Rule("route r", INPUT, 50, MINUTE), 10),
    ), ledger.now())
    assert [(allowance, remaining) for allowance, remaining, _ in found] == [
        (("requests", 1000, 3_600_000), 100), (("tokens", 50, 0), 30), (("input", 50, 60_000), 40),
    ]
    assert 3_600_000 <= found[0][2] <= 3_660_000


def test_money_and_shadow_limits_are_not_told() -> None:
    ledger = Ledger()
    hidden = [Rule("consumer a", COST, 10, MINUTE), Rule("consumer a", REQUESTS, 10, MINUTE, counts_only=True)]
    assert what_is_left(counters(ledger, *[(rule, 1) for rule in hidden]), ledger.now()) == []


@pytest.mark.parametrize("route, prefix", [("openai", "x-ratelimit-"), ("anthropic", "anthropic-ratelimit-"), ("plain", "ratelimit")])
def test_a_route_tells_them_in_the_fields_of_its_dialect_in_place_of_those_of_the_endpoint(route: str, prefix: str) -> None:
    lines = told(ROUTES[route], (Rule("consumer a", REQUESTS, 10, MINUTE), 1))
    found = names(lines)
    assert found[:3] == ["content-type", "ratelimit-policy", "ratelimit"] and b"9999" not in b"".join(lines)
    assert all(name.startswith(prefix) for name in found[3:]) and bool(found[3:]) == (route != "plain")


def test_the_fields_of_the_endpoint_stay_where_relayd_has_none() -> None:
    silent = replace(ROUTES["openai"], tells_rates=False)
    assert names(told(silent, (Rule("consumer a", REQUESTS, 10, MINUTE), 1))) == ["x-ratelimit-limit-requests", "content-type"]
    assert names(told(ROUTES["openai"], (Rule("consumer a", COST, 10, MINUTE), 1))) == ["x-ratelimit-limit-requests", "content-type"]
    assert names(told(ROUTES["openai"], (Rule("consumer a", REQUESTS, 1, MINUTE), 2))) == ["x-ratelimit-limit-requests", "content-type"]
    assert rate_lines(None, Ledger(), []) == b""
