"""Live state in the admin application, and the actions on endpoints."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from relayd import clock
from relayd.config.load import load_text
from relayd.limits.counter import REQUESTS, Rule
from relayd.limits.gate import GateLimits
from relayd.limits.ledger import Reservation
from relayd.limits.ticket import GRANTED
from relayd.limits.window import Span
from relayd.plan.compile import compile_plan
from relayd.protocols.dialect import run_steps
from relayd.proxy.exchange import Exchange
from relayd.server import admin_live
from relayd.telemetry.recent import LONGEST_TEXT
from tests.unit.server.test_admin_views import Views, admin_views

TEXT = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  first: {endpoints: ["http://127.0.0.1:9001", "http://127.0.0.1:9002/v1"], breaker: {failures: 2, open_for: 30s}}
  plain: {endpoints: ["http://127.0.0.1:9003"], breaker: off}
routes: [{name: all, upstream: first}]
"""


def planned(views: Views) -> None:
    views.gateway.plan = compile_plan(load_text(TEXT, "relayd.yaml").config, 7)


def path(upstream: str, address: str, *action: str) -> str:
    return f"/upstreams/{upstream}/endpoints/{quote(address, safe='')}/{'/'.join(action)}"


def address(views: Views, number: int = 0) -> str:
    _, data = views.get("/upstreams")
    result: str = data["upstreams"][0]["endpoints"][number]["address"]
    return result


async def test_upstreams_are_shown_with_the_state_of_each_endpoint() -> None:
    async with admin_views() as views:
        assert views.get("/upstreams") == (200, {"upstreams": []})
        planned(views)
        _, data = views.get("/upstreams")
        assert [one["name"] for one in data["upstreams"]] == ["first", "plain"]
        assert [one["state"] for one in data["upstreams"][0]["endpoints"]] == ["enabled", "enabled"]
        assert data["upstreams"][0]["endpoints"][0]["breaker"] == "closed"


@pytest.mark.parametrize(("action", "state"), [("drain", "draining"), ("disable", "disabled")])
async def test_an_endpoint_is_taken_out_and_brought_back(action: str, state: str) -> None:
    async with admin_views() as views:
        planned(views)
        one = address(views)
        status, data = views.get(path("first", one, action), method="POST", write=True)
        assert (status, data["upstream"], data["endpoint"]["state"]) == (200, "first", state)
        plan = views.gateway.plan
        assert plan is not None
        picked = {plan.upstreams["first"].acquire().endpoint.label for _ in range(6)}  # type: ignore[union-attr]
        assert picked == {address(views, 1)}
        status, data = views.get(path("first", one, "enable"), method="POST", write=True)
        assert (status, data["endpoint"]["state"]) == (200, "enabled")


async def test_a_breaker_is_opened_and_reset_by_hand_and_shown_in_health() -> None:
    async with admin_views() as views:
        planned(views)
        for number in (0, 1):
            status, data = views.get(path("first", address(views, number), "breaker", "open"), method="POST", write=True)
            assert (status, data["endpoint"]["breaker"], data["endpoint"]["forced"]) == (200, "open", True)
        assert views.get("/health")[1]["circuit_breaker"]["is_open"] is True
        assert views.get("/health")[0] == 503
        assert views.get("/live")[0] == 200  # still alive
        status, data = views.get(path("first", address(views), "breaker", "reset"), method="POST", write=True)
        assert data["endpoint"]["breaker"] == "closed"
        assert views.get("/health")[1]["circuit_breaker"]["is_open"] is False


@pytest.mark.parametrize(("target", "status", "text"), [
    ("/upstreams/other/endpoints/a/drain", 404, "first, plain"), (path("first", "nowhere:1", "drain"), 404, "127.0.0.1:9001"),
    (path("first", "127.0.0.1:9001", "explode"), 404, "no such action"), ("/upstreams/first", 404, "no such action"),
    (path("first", "127.0.0.1:9001", "breaker", "half"), 404, "no such action"),
    ("/upstreams/a/b/c/d/e/f/g", 404, "no such action"),
])
async def test_an_unknown_action_lists_the_known_targets(target: str, status: int, text: str) -> None:
    async with admin_views() as views:
        planned(views)
        data = views.get(target, method="POST", write=True)
        assert data[0] == status
        assert text in data[1]["error"]["message"]


async def test_a_breaker_that_is_off_cannot_be_opened() -> None:
    async with admin_views() as views:
        planned(views)
        status, data = views.get(path("plain", "127.0.0.1:9003", "breaker", "open"), method="POST", write=True)
        assert (status, data["error"]["code"]) == (409, "not_possible")


async def test_actions_need_post_and_write_permission() -> None:
    async with admin_views() as views:
        planned(views)
        target = path("first", address(views), "drain")
        assert views.get(target, method="POST")[0] == 403
        assert views.get(target, write=True)[0] == 405
        assert views.get("/upstreams")[1]["upstreams"][0]["endpoints"][0]["state"] == "enabled"


async def test_queues_are_shown_with_places_in_the_order_of_turns() -> None:
    async with admin_views() as views:
        gates = views.gateway.gates
        gates.apply({"upstream first": GateLimits(1, 5), "route free": GateLimits()})
        gate = gates.get("upstream first")
        for who, priority in (("a", 0), ("b", 0), ("a", 0), ("c", 1)):
            gate.acquire(who, priority, None, lambda ticket: None, lambda ticket, reason, seconds: None)
        status, data = views.get("/queue")
        assert status == 200
        assert [(one["name"], one["in_flight"], one["depth"]) for one in data["gates"]] == [("upstream first", 1, 3)]
        assert [(one["place"], one["consumer"]) for one in data["waiting"]] == [(1, "c"), (2, "b"), (3, "a")]
        assert views.get("/status")[1]["gates"][0]["name"] == "upstream first"


async def test_rates_and_budgets_are_shown_the_most_used_ones_first() -> None:
    async with admin_views() as views:
        ledger = views.gateway.ledger
        rules = [Rule("route r", REQUESTS, limit, Span.sliding(60), model=str(limit)) for limit in (10, 5)]
        ledger.apply([ledger.counter(rule) for rule in rules])
        assert isinstance(ledger.reserve([(one, 2) for one in run_steps(ledger.counters())], ledger.now()), Reservation)
        status, data = views.get("/limits")
        assert (status, data["more"]) == (200, 0)
        assert [(one["limit"], one["used"], one["reserved"], one["left"]) for one in data["limits"]] == [(5, 2, 2, 3), (10, 2, 2, 8)]
        assert views.get("/status")[1]["limits"][0]["scope"] == "route r"


async def test_enabling_an_endpoint_wakes_waiting_requests() -> None:
    async with admin_views() as views:
        planned(views)
        gates, plan = views.gateway.gates, views.gateway.plan
        assert plan is not None
        gates.apply({"upstream first": GateLimits(0, 5)})
        endpoint = plan.upstreams["first"].endpoints[0]
        views.get(path("first", endpoint.label, "disable"), method="POST", write=True)
        waiting = gates.get("upstream first").acquire(
            "a", 0, None, lambda ticket: None, lambda ticket, reason, seconds: None, lambda: endpoint.available
        )
        views.get(path("first", endpoint.label, "enable"), method="POST", write=True)
        assert waiting.state == GRANTED


def under_way(views: Views, number: int, **record: Any) -> None:
    """Add an exchange that began this many seconds ago, with 512 bytes queued for its client."""
    plan = views.gateway.plan
    assert plan is not None
    down: Any = SimpleNamespace(listener="public", peer="127.0.0.1", buffered=lambda: 512)
    head: Any = SimpleNamespace(version=11, has_body=False)
    exchange = Exchange(views.gateway, plan, down, head, clock.monotonic() - number)
    exchange.phase = "transfer"
    for name, value in record.items():
        setattr(exchange.record, name, value)


async def test_exchanges_with_the_same_request_id_are_told_apart_by_their_numbers() -> None:
    async with admin_views() as views:
        planned(views)
        under_way(views, 3, id="same", path="/one")
        under_way(views, 9, id="same", path="/two")
        rows = {one["path"]: one for one in views.get("/streams")[1]["streams"]}
        numbers = {one["number"] for one in rows.values()}
        with pytest.raises(admin_live.NotPossible, match="2 exchanges have this request id") as fault:
            admin_live.cancel(views.gateway, "/streams/same/cancel")
        assert len(numbers) == 2 and all(number in str(fault.value) for number in numbers)
        with pytest.raises(admin_live.NotFound):
            admin_live.cancel(views.gateway, "/streams/@1/cancel")
        views.gateway.exchanges.clear()


async def test_streams_are_shown_the_oldest_first_and_without_the_query() -> None:
    async with admin_views() as views:
        planned(views)
        under_way(views, 3, id="x3", consumer="team", route="llm", path="/v1", query="key=sk-1", bytes_out=99)
        under_way(views, 9, id="x9")
        status, data = views.get("/streams")
        assert (status, data["in_flight"], [one["id"] for one in data["streams"]]) == (200, 2, ["x9", "x3"])
        assert "sk-1" not in json.dumps(data)
        young = data["streams"][1]
        assert (young["consumer"], young["route"], young["room"], young["buffered_bytes"], young["sent_bytes"]) == (
            "team", "llm", "transfer", 512, 99)
        assert young["age_s"] == pytest.approx(3, abs=1)


async def test_a_long_path_is_cut_so_that_the_status_stays_small() -> None:
    async with admin_views() as views:
        planned(views)
        under_way(views, 1, path="/" + "p" * 16_000)
        (shown,) = views.get("/streams")[1]["streams"]
        assert shown["path"] == "/" + "p" * (LONGEST_TEXT - 1)


async def test_of_very_many_streams_the_oldest_are_shown_and_all_counted() -> None:
    async with admin_views() as views:
        planned(views)
        for number in range(admin_live.SHOWN_STREAMS + 50):
            under_way(views, number)
        data = views.get("/streams")[1]
        assert data["in_flight"] == admin_live.SHOWN_STREAMS + 50
        assert len(data["streams"]) == admin_live.SHOWN_STREAMS
        assert data["streams"][0]["age_s"] > data["streams"][-1]["age_s"]


async def test_endpoints_are_set_and_reset() -> None:
    async with admin_views() as views:
        planned(views)
        urls = "/".join(quote(url, safe="") for url in ("http://10.0.0.1:8001/v1", "unix:/run/app.sock"))
        assert views.get(f"/upstreams/first/set/{urls}", method="POST")[0] == 403, "it needs write access"
        status, data = views.get(f"/upstreams/first/set/{urls}", method="POST", write=True)
        assert status == 200 and data["overridden"]
        assert [one["address"] for one in data["endpoints"]] == ["10.0.0.1:8001", "unix:/run/app.sock"]
        status, data = views.get("/upstreams/first/reset", method="POST", write=True)
        assert status == 200 and not data["overridden"] and len(data["endpoints"]) == 2


@pytest.mark.parametrize(("target", "status", "text"), [
    ("nowhere/set/http%3A%2F%2Fa", 404, "no upstream 'nowhere'"), ("first/set", 404, "no such action"),
    ("first/set/ftp%3A%2F%2Fa", 409, "must begin with http"), ("first/set/http%3A%2F%2Fu%3Asecret%40a", 409, "user information"),
    ("first/set/http%3A%2F%2Fa/http%3A%2F%2Fa", 409, "twice"), ("first/set/" + "/".join(f"http%3A%2F%2Fa%3A{n}" for n in range(1, 67)), 409, "At most 64"),
    ("first/reset/more", 404, "no such action"),
])
async def test_endpoints_that_cannot_be_set_are_refused(target: str, status: int, text: str) -> None:
    async with admin_views() as views:
        planned(views)
        found, data = views.get(f"/upstreams/{target}", method="POST", write=True)
        assert found == status and text in data["error"]["message"] and "secret" not in data["error"]["message"]
