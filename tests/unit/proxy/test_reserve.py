"""Rates and budgets decide whether a request is sent, and what the client gets to know."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relayd.errors import ExchangeError
from relayd.limits.counter import Counter
from relayd.limits.prices import Prices, price
from relayd.protocols.dialect import run_steps
from relayd.proxy.rate_fields import what_is_left
from tests.aids.turns import turned
from tests.unit.proxy.harness import Harness, Side, get, post, running, status_of, until
from tests.unit.proxy.scripted_endpoints import ScriptedEndpoints, completion, http, silent

UPSTREAMS = """
upstreams:
  a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/a"], A}
  b: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/b"]}
models: {"*": a}
"""
ANSWER = http(200, completion("four"), "x-ratelimit-limit-requests: 9999", "anthropic-ratelimit-requests-limit: 9999")
MESSAGES = [{"role": "user", "content": "hi"}]


def chat(model: str = "m", max_tokens: int | None = 10, **members: Any) -> bytes:
    body = {"model": model, "messages": MESSAGES, **members}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    return post(json.dumps(body).encode(), "Content-Type: application/json", path="/v1/chat/completions")


def anthropic() -> bytes:
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 10}
    return post(json.dumps(body).encode(), "Content-Type: application/json", path="/v1/messages")


def serving(tmp_path: Path, route: str, a: str = "", endpoints: Any = None, protocol: str = "openai_chat") -> Any:
    whole = UPSTREAMS.replace(", A}", f"{a}}}") + f"routes: [{{name: r, protocol: {protocol}, upstream: a, {route}}}]\n"
    return running(tmp_path, endpoints or ScriptedEndpoints(a=ANSWER, b=ANSWER), whole=whole)


def fields(head: bytes) -> dict[str, str]:
    lines = (line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:] if line)
    return {name.lower(): value for name, _, value in lines}


class Observer(list[str]):
    """What the ledger reports."""

    def exceeded(self, counter: Counter) -> None:
        self.append(counter.rule.scope)

    def warned(self, counter: Counter, share: float) -> None:
        raise AssertionError

    def unpriced(self, counter: Counter, upstream: str, model: str) -> None:
        self.append(f"{model} at {upstream}")


def used(harness: Harness) -> dict[str, int]:
    return {one.rule.measure: one.window.used for one in run_steps(harness.gateway.ledger.counters())}


async def test_a_request_without_room_is_429_and_reaches_no_endpoint(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=ANSWER)
    async with serving(tmp_path, "rates: [{requests: 2, per: 1m}]", endpoints=endpoints) as harness:
        statuses = [status_of((await harness.ask(chat()))[0]) for _ in range(3)]
        assert statuses == [200, 200, 429]
        head, body = await harness.ask(chat())
        assert json.loads(body)["error"]["code"] == "rate_limited"
        assert 1 <= int(fields(head)["retry-after"]) <= 61
        assert len(endpoints.asked) == 2
        records = await harness.accounted(4)
        assert records[-1].code == "rate_limited" and "2 of 2 used" in records[-1].detail


async def test_a_refused_request_uses_nothing_of_any_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, "rates: [{requests: 5, per: 1m}, {tokens: 100, per: 1h}]") as harness:
        for _ in range(10):
            assert status_of((await harness.ask(chat(max_tokens=500)))[0]) == 429
        assert used(harness) == {"requests": 0, "total": 0}
        assert status_of((await harness.ask(chat()))[0]) == 200


async def test_what_can_never_fit_says_so_and_tells_sdks_not_to_repeat_it(tmp_path: Path) -> None:
    async with serving(tmp_path, "rates: [{tokens: 100, per: 1h}]") as harness:
        head, body = await harness.ask(chat(max_tokens=500))
        assert "retry-after" not in fields(head) and fields(head)["x-should-retry"] == "false"
        assert "cannot succeed later" in json.loads(body)["error"]["message"]


async def test_a_request_that_states_no_maximum_fits_an_empty_window(tmp_path: Path) -> None:
    async with serving(tmp_path, "rates: [{tokens: 1000, per: 1h}]") as harness:
        assert status_of((await harness.ask(chat(max_tokens=None)))[0]) == 200
        assert used(harness) == {"total": 5}


async def test_the_fields_that_openai_sdks_read_replace_those_of_the_endpoint(tmp_path: Path) -> None:
    rates = "rates: [{requests: 60, per: 1m}, {requests: 1000, per: 1h}, {tokens: 2000, per: 1h}]"
    async with serving(tmp_path, rates) as harness:
        found = fields((await harness.ask(chat()))[0])
        assert found["x-ratelimit-limit-requests"] == "60" and found["x-ratelimit-remaining-requests"] == "59"
        assert found["x-ratelimit-reset-requests"] in ("1m0s", "1m1s")
        assert found["x-ratelimit-limit-tokens"] == "2000" and 1900 < int(found["x-ratelimit-remaining-tokens"]) < 2000
        assert found["ratelimit-policy"] == '"requests";q=60;w=60, "tokens";q=2000;w=3600'
        assert found["ratelimit"].startswith('"requests";r=59;t=6')
        assert not any(name.startswith("anthropic-ratelimit-") for name in found)


async def test_the_fields_that_anthropic_sdks_read(tmp_path: Path) -> None:
    rates = "rates: [{requests: 60, per: 1m}, {tokens: 500, per: 1h, of: output}]"
    async with serving(tmp_path, rates, protocol="anthropic_messages") as harness:
        found = fields((await harness.ask(anthropic()))[0])
        assert found["anthropic-ratelimit-requests-limit"] == "60"
        assert found["anthropic-ratelimit-requests-remaining"] == "59"
        assert found["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert found["anthropic-ratelimit-output-tokens-limit"] == "500"
        assert not any(name.startswith("x-ratelimit-") for name in found)


async def test_a_refusal_has_the_fields_too_and_a_route_may_keep_those_of_the_endpoint(tmp_path: Path) -> None:
    async with serving(tmp_path, "rates: [{requests: 1, per: 1m}]") as harness:
        await harness.ask(chat())
        found = fields((await harness.ask(chat()))[0])
        assert found["x-ratelimit-remaining-requests"] == "0" and '"requests";r=0' in found["ratelimit"]
    async with serving(tmp_path, "tells_rates: false, rates: [{requests: 9, per: 1m}]") as harness:
        found = fields((await harness.ask(chat()))[0])
        assert found["x-ratelimit-limit-requests"] == "9999" and "ratelimit" not in found


async def test_a_request_without_rates_keeps_the_fields_of_the_endpoint(tmp_path: Path) -> None:
    async with serving(tmp_path, "errors: auto") as harness:
        assert fields((await harness.ask(chat()))[0])["x-ratelimit-limit-requests"] == "9999"


async def test_an_upstream_without_room_is_replaced_by_a_fallback(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=ANSWER, b=ANSWER)
    fallbacks = "fallbacks: [{upstream: b, on: [overloaded]}]"
    async with serving(tmp_path, fallbacks, ", rates: [{requests: 1, per: 1m}]", endpoints) as harness:
        for _ in range(3):
            assert status_of((await harness.ask(chat()))[0]) == 200
        assert endpoints.names() == ["a", "b", "b"]


async def test_an_upstream_without_room_is_429_without_a_fallback(tmp_path: Path) -> None:
    async with serving(tmp_path, "errors: auto", ", rates: [{requests: 1, per: 1m}]") as harness:
        assert status_of((await harness.ask(chat()))[0]) == 200
        head, body = await harness.ask(chat())
        assert (status_of(head), json.loads(body)["error"]["code"]) == (429, "rate_limited")
        assert "x-ratelimit-limit-requests" not in fields(head), "a shared limit is not told as the client's own"


async def test_what_was_reserved_at_a_target_is_given_back_when_another_is_used(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=http(500), b=ANSWER)
    async with serving(tmp_path, "fallbacks: [b]", ", rates: [{requests: 5, per: 1m}]", endpoints) as harness:
        assert status_of((await harness.ask(chat()))[0]) == 200
        assert endpoints.names() == ["a", "b"] and used(harness) == {"requests": 0}


async def test_a_model_selector_counts_only_its_models_and_a_hidden_model_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, 'rates: [{requests: 1, per: 1m, model: "gpt-*"}]') as harness:
        for _ in range(3):
            assert status_of((await harness.ask(chat("other")))[0]) == 200
        assert [status_of((await harness.ask(chat("gpt-a")))[0]) for _ in range(2)] == [200, 429]
        raw = b'{"model":"other","model":"gpt-a","messages":[]}'
        hidden = post(raw, "Content-Type: application/json", path="/v1/chat/completions")
        assert status_of((await harness.ask(hidden))[0]) == 400


async def test_every_value_of_each_has_room_of_its_own(tmp_path: Path) -> None:
    async with serving(tmp_path, "rates: [{requests: 1, per: 1m, each: model}]") as harness:
        statuses = [status_of((await harness.ask(chat(model)))[0]) for model in ("a", "b", "a", "b")]
        assert statuses == [200, 200, 429, 429]


async def test_a_shadow_rate_lets_through_and_is_reported(tmp_path: Path) -> None:
    async with serving(tmp_path, "rates: [{requests: 1, per: 1m, shadow: true}]") as harness:
        seen = harness.gateway.ledger.observer = Observer()
        assert [status_of((await harness.ask(chat()))[0]) for _ in range(2)] == [200, 200]
        assert seen == ["route r"] and used(harness) == {"requests": 2}


async def test_a_budget_that_is_used_up_refuses_early_and_in_the_dialect(tmp_path: Path) -> None:
    budget = "budget: [{amount: 0.000000005, per: month}]"
    async with serving(tmp_path, budget, protocol="anthropic_messages") as harness:
        harness.gateway.plan = replace(harness.plan, prices=Prices("USD", [("*", price(request=5))]))
        assert status_of((await harness.ask(anthropic()))[0]) == 200
        head, body = await harness.ask(anthropic())
        assert status_of(head) == 429 and json.loads(body)["error"]["type"] == "rate_limit_error"
        assert int(fields(head)["retry-after"]) > 0
        records = await harness.accounted(2)
        assert records[-1].code == "budget_exceeded"


async def test_concurrent_requests_do_not_exceed_a_budget_together(tmp_path: Path) -> None:
    async with serving(tmp_path, "budget: [{amount: 0.0000005, per: day}]") as harness:
        harness.gateway.plan = replace(harness.plan, prices=Prices("USD", [("*", price(request=100))]))
        sides = [await harness.connect() for _ in range(20)]
        for side in sides:
            side.write(chat())
        statuses = [status_of((await side.message())[0]) for side in sides]
        assert sorted(statuses) == [200] * 5 + [429] * 15
        await harness.accounted(20)
        assert used(harness) == {"cost": 500}


CHEAP = Prices("USD", [("cheap", price(request=1))])
STRICT = Prices("USD", [("cheap", price(request=1))], refuses_unpriced=True)


async def test_a_model_without_a_price_passes_a_budget_and_is_reported(tmp_path: Path) -> None:
    async with serving(tmp_path, "budget: [{amount: 1, per: day}]") as harness:
        harness.gateway.plan = replace(harness.plan, prices=CHEAP)
        seen = harness.gateway.ledger.observer = Observer()
        for model in ("cheap", "free", "other"):
            assert status_of((await harness.ask(chat(model)))[0]) == 200
        assert seen == ["free at a", "other at a"]


@pytest.mark.parametrize("protocol", ["openai_chat", "anthropic_messages"])
async def test_a_model_without_a_price_can_be_refused(tmp_path: Path, protocol: str) -> None:
    endpoints = ScriptedEndpoints(a=ANSWER)
    async with serving(tmp_path, "budget: [{amount: 1, per: day}]", "", endpoints, protocol) as harness:
        harness.gateway.plan = replace(harness.plan, prices=STRICT)
        head, body = await harness.ask(chat("free") if protocol == "openai_chat" else anthropic())
        assert status_of(head) == 403
        error = json.loads(body)["error"]
        assert error.get("code", error["type"]) == ("unpriced_model" if protocol == "openai_chat" else "permission_error")
        (record,) = await harness.accounted(1)
        assert record.code == "unpriced_model" and not endpoints.asked
        assert used(harness) == {"cost": 0}


async def test_only_a_budget_in_force_that_selects_the_model_needs_a_price(tmp_path: Path) -> None:
    budget = 'budget: [{amount: 1, per: day, model: "paid-*"}, {amount: 1, per: day, shadow: true}]'
    async with serving(tmp_path, budget) as harness:
        harness.gateway.plan = replace(harness.plan, prices=STRICT)
        statuses = [status_of((await harness.ask(chat(model)))[0]) for model in ("free", "paid-free", "cheap")]
        assert statuses == [200, 403, 200]


async def test_a_fallback_without_a_price_is_refused_too(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=http(500), b=ANSWER)
    only_a = Prices("USD", [], {"a": [("cheap", price(request=1))]}, refuses_unpriced=True)
    async with serving(tmp_path, "fallbacks: [b], budget: [{amount: 1, per: day}]", "", endpoints) as harness:
        harness.gateway.plan = replace(harness.plan, prices=only_a)
        assert status_of((await harness.ask(chat("cheap")))[0]) == 403
        assert endpoints.names() == ["a"]


# ---- waiting


WAIT = "rates: [{requests: 1, per: 10m, wait: 1h}]"


async def waiting(harness: Harness, count: int) -> list[Side]:
    """This many requests that wait, in the order of their arrival."""
    sides: list[Side] = []
    for number in range(count):
        side = await harness.connect()
        side.write(chat(f"m{number}"))
        sides.append(side)
        await until(partial(lambda most: sum(one.phase == "queue" for one in harness.gateway.exchanges) > most, number))
    return sides


async def test_requests_wait_for_room_in_their_order(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[silent, ANSWER])
    async with serving(tmp_path, WAIT, endpoints=endpoints) as harness:
        first = await harness.connect()
        first.write(chat("first"))
        await until(lambda: endpoints.asked)
        second, third = await waiting(harness, 2)
        (exchange,) = [one for one in harness.gateway.exchanges if one.phase == "attempt"]
        exchange.fail(ExchangeError("stopped"))
        assert status_of((await second.message())[0]) == 200
        assert [json.loads(body)["model"] for _, _, body in endpoints.asked] == ["first", "m0"]
        assert [one.phase for one in harness.gateway.exchanges] == ["queue"]
        third.reset()
        await harness.accounted(3)
        (counter,) = run_steps(harness.gateway.ledger.counters())
        assert (counter.window.used, counter.window.held, len(counter.window.queue or ())) == (1, 0, 0)


async def test_a_waiting_request_ends_with_its_client_and_the_next_one_moves_up(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[silent, ANSWER])
    async with serving(tmp_path, WAIT, endpoints=endpoints) as harness:
        first = await harness.connect()
        first.write(chat("first"))
        await until(lambda: endpoints.asked)
        second, third = await waiting(harness, 2)
        second.reset()
        await until(lambda: harness.accounts)
        (exchange,) = [one for one in harness.gateway.exchanges if one.phase == "attempt"]
        exchange.fail(ExchangeError("stopped"))
        assert status_of((await third.message())[0]) == 200


async def test_a_request_that_would_wait_too_long_is_refused_on_arrival(tmp_path: Path) -> None:
    async with serving(tmp_path, "rates: [{requests: 1, per: 1h, wait: 10s}]") as harness:
        assert status_of((await harness.ask(chat()))[0]) == 200
        head, _ = await harness.ask(chat())
        assert status_of(head) == 429 and int(fields(head)["retry-after"]) > 3500


async def test_a_request_that_waits_is_sent_when_there_is_room(tmp_path: Path) -> None:
    async with serving(tmp_path, "rates: [{requests: 1, per: 1s, wait: 30s}]") as harness:
        sides = [await harness.connect() for _ in range(2)]
        for side in sides:
            side.write(chat())
        assert [status_of((await side.message())[0]) for side in sides] == [200, 200]
        records = await harness.accounted(2)
        assert max(record.queue_s for record in records) > 0.5


async def test_a_plain_route_has_rates_too(tmp_path: Path) -> None:
    whole = 'upstreams: {a: {endpoints: ["http://127.0.0.1:PORT"]}}\nroutes: [{name: r, upstream: a, rates: [{requests: 1, per: 1m, each: client}]}]\n'
    async with running(tmp_path, whole=whole) as harness:
        assert [status_of((await harness.ask(get()))[0]) for _ in range(2)] == [200, 429]
        assert [one.value for one in run_steps(harness.gateway.ledger.counters())] == ["127.0.0.1"]


@pytest.mark.parametrize("number", [0, 1])
async def test_of_each_kind_the_counter_with_the_smallest_share_left_is_told(tmp_path: Path, number: int) -> None:
    limits = ("{requests: 10, per: 1m}", "{requests: 1000, per: 1h}")[:: 1 if number else -1]
    async with serving(tmp_path, f"rates: [{', '.join(limits)}]") as harness:
        await harness.ask(chat())
        ledger = harness.gateway.ledger
        (found,) = what_is_left(run_steps(ledger.counters()), ledger.now())
        assert found[:2] == (("requests", 10, 60_000), 9)


async def test_a_client_that_asks_before_it_sends_its_body_is_told_to_when_there_is_room(tmp_path: Path) -> None:
    """A phase before the choice of an endpoint waits: nothing is accepted yet (RFC 9110 10.1.1)."""
    whole = f'upstreams: {{a: {{endpoints: ["http://127.0.0.1:PORT"]}}}}\nroutes: [{{name: r, upstream: a, {WAIT}}}]\n'
    endpoints = ScriptedEndpoints(x=[silent, ANSWER])
    async with running(tmp_path, endpoints, whole=whole) as harness:
        first = await harness.connect()
        first.write(get("/x"))
        await until(lambda: endpoints.asked)
        second = await harness.connect()
        second.write(get("/x", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        await until(lambda: any(one.phase == "queue" for one in harness.gateway.exchanges))
        early = asyncio.ensure_future(second.head())
        await turned()
        assert not early.done()
        (exchange,) = [one for one in harness.gateway.exchanges if one.phase == "attempt"]
        exchange.fail(ExchangeError("stopped"))
        assert await asyncio.wait_for(early, 60) == b"HTTP/1.1 100 Continue\r\n\r\n"
        second.write(b"abc")
        assert status_of((await second.message())[0]) == 200
        assert endpoints.asked[-1][2] == b"abc"


async def test_a_client_that_sends_its_body_unasked_loses_nothing_meanwhile(tmp_path: Path) -> None:
    whole = f'upstreams: {{a: {{endpoints: ["http://127.0.0.1:PORT"]}}}}\nroutes: [{{name: r, upstream: a, {WAIT}}}]\n'
    endpoints = ScriptedEndpoints(x=[silent, ANSWER])
    async with running(tmp_path, endpoints, whole=whole) as harness:
        first = await harness.connect()
        first.write(get("/x"))
        await until(lambda: endpoints.asked)
        second = await harness.connect()
        second.write(get("/x", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        await until(lambda: any(one.phase == "queue" for one in harness.gateway.exchanges))
        second.write(b"abc")
        (exchange,) = [one for one in harness.gateway.exchanges if one.phase == "attempt"]
        exchange.fail(ExchangeError("stopped"))
        head, _ = await second.message()
        if status_of(head) == 100:
            head, _ = await second.message()
        assert status_of(head) == 200 and endpoints.asked[-1][2] == b"abc"
