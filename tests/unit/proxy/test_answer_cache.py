"""The phase that answers from the cache: keys, freshness, and what the client asks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd import clock
from relayd.errors import ExchangeError
from relayd.plan.plan import Plan
from relayd.protocols.dialect import run_steps
from relayd.proxy.answer_cache import CANONICAL_BYTES
from relayd.proxy.cache_use import SPACE, CacheUse, party_of
from relayd.proxy.cached_answer import CachedAnswer, to_json
from relayd.proxy.dry_run import dry_run
from relayd.stores._space import Space
from relayd.stores.memory import Store
from relayd.usage import Usage
from relayd.wire.forwarded import Networks
from tests.unit.config.test_cache import BASE
from tests.unit.proxy.fakes import Client, FakeGateway, head_for, plan_of, run_through_phases

PEER = "192.0.2.7"
STREAM = b"".join(b'data: {"n":%d}\n\n' % number for number in range(200))
ANSWER = CachedAnswer(0.0, "application/json", (3, 2), b"abcde", Usage(5, 4))
BODY = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "x"}]}


def plan_with(cache: str = "{}", more: str = "", top: str = "") -> Plan:
    return plan_of(BASE + f"routes: [{{name: llm, match: {{prefix: /v1/}}, protocol: openai_chat, upstream: provider, cache: {cache}{more}}}]\n{top}")


PLAN = plan_with()


def use_of(plan: Plan, body: dict[str, Any] | bytes, *lines: str, path: str = "/v1/chat/completions", method: str = "POST", peer: str = PEER) -> CacheUse | None:
    """How a request uses the cache."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = head_for(*lines, f"Content-Length: {len(data)}", "Content-Type: application/json", start=f"{method} {path} HTTP/1.1")
    return dry_run(plan, head, data, peer, Networks(()), False).cache_use


def key_of(plan: Plan, body: dict[str, Any] | bytes, *lines: str, **more: Any) -> str:
    use = use_of(plan, body, *lines, **more)
    assert use is not None and use.key and use.result == "miss", use and use.reason
    return use.key


# ---- the key


def test_the_key_changes_with_everything_that_may_change_the_answer() -> None:
    plans = [
        plan_with(), plan_with(more=", request_headers: {set: {X-A: b}}"), plan_with("{shared: true}"),
        plan_of(BASE.replace("provider", "another") + "routes: [{name: llm, match: {prefix: /v1/}, protocol: openai_chat, upstream: another, cache: {}}]\n"),
        plan_of(BASE.replace("/v1\"]}", "/v1\"], dialect: {thinking: drop}}", 1) + "routes: [{name: llm, match: {prefix: /v1/}, protocol: openai_chat, upstream: provider, cache: {}}]\n"),
        plan_of(BASE + "models: {m: {upstream: provider, model: n}}\nroutes: [{name: llm, match: {prefix: /v1/}, protocol: openai_chat, upstream: by_model, cache: {}}]\n"),
    ]
    keys = [key_of(plan, BODY) for plan in plans]
    keys += [
        key_of(PLAN, BODY, peer="192.0.2.8"), key_of(PLAN, BODY, path="/v1/x/chat/completions"), key_of(PLAN, BODY, path="/v1/chat/completions?a=1"),
        key_of(PLAN, BODY, "OpenAI-Beta: x"), key_of(PLAN, BODY | {"stream": True}), key_of(PLAN, BODY | {"user": "u"}), key_of(PLAN, BODY | {"unknown": None}),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)


def test_the_key_is_that_of_the_same_meaning() -> None:
    same = [
        json.dumps(BODY).encode(), json.dumps(dict(reversed(BODY.items())), indent=2).encode(), json.dumps(BODY).replace("x", "\\u0078").encode(),
    ]
    assert len({key_of(PLAN, body) for body in same}) == 1
    assert key_of(PLAN, BODY) == key_of(PLAN, BODY, "X-Other: field", "User-Agent: another/1"), "other fields do not count"


def test_the_fields_of_vary_count() -> None:
    plan = plan_with("{vary: [X-Tenant]}")
    keys = [key_of(plan, BODY), key_of(plan, BODY, "X-Tenant: a"), key_of(plan, BODY, "x-tenant: b"), key_of(plan, BODY, "X-Tenant: a", "X-Tenant: b")]
    assert len(set(keys)) == 4


def test_a_large_body_counts_byte_for_byte() -> None:
    large = BODY | {"user": "u" * CANONICAL_BYTES}
    text = json.dumps(large).encode()
    assert key_of(PLAN, text) == key_of(PLAN, text) != key_of(PLAN, json.dumps(large, indent=1).encode())
    very_large = json.dumps(BODY | {"user": "u" * 400_000}).encode()
    assert key_of(PLAN, very_large) != key_of(PLAN, very_large.replace(b"uuu", b"uuv", 1))


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
MEMBERS = st.fixed_dictionaries({}, optional={
    "seed": NUMBERS, "max_tokens": NUMBERS, "stop": st.lists(st.text(max_size=3), max_size=2), "user": st.text(max_size=4), "stream": st.booleans(),
    "messages": st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": st.text(max_size=4)}), min_size=1, max_size=3),
})  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(MEMBERS, MEMBERS)
def test_different_requests_have_different_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = BODY | one, BODY | other
    assert (key_of(PLAN, first) == key_of(PLAN, second)) is (json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True))


# ---- what uses it


@pytest.mark.parametrize(("body", "lines", "reason"), [
    (BODY, ("Cache-Control: no-store",), "no_store"), (BODY | {"temperature": 1}, (), "not_deterministic"), (BODY | {"n": 3}, (), "samples"),
    (b'{"model": "m", "temperature": 0, "temperature": 1, "messages": []}', (), "unclear"), (b"[]", (), "unclear"), (b"no", (), "unclear"),
    (b'{"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "a", "content": "b"}]}', (), "unclear"),
    (BODY, ("Authorization: Bearer k",), "client_key"), (BODY, ("Cookie: a=b",), "client_key"),
], ids=str)  # fmt: skip
def test_why_a_request_is_not_looked_up(body: Any, lines: tuple[str, ...], reason: str) -> None:
    use = use_of(PLAN, body, *lines)
    assert use is not None and (use.result, use.reason, use.key) == ("bypass", reason, "")


def test_a_key_in_the_query_is_a_clients_key() -> None:
    use = use_of(PLAN, BODY, path="/v1/chat/completions?api_key=k")
    assert use is not None and use.reason == "client_key"


def test_a_key_that_relayd_replaces_is_none_of_the_clients() -> None:
    plan = plan_of(BASE.replace("/v1\"]}", "/v1\"], auth: {header: {name: X-Up, value: {env: PATH}}}}", 1)
                   + "routes: [{name: llm, match: {prefix: /v1/}, protocol: openai_chat, upstream: provider, cache: {}}]\n")  # fmt: skip
    assert key_of(plan, BODY, "Authorization: Bearer k") == key_of(plan, BODY, "Authorization: Bearer other")


@pytest.mark.parametrize(("when", "members", "line", "used"), [
    ("deterministic", {}, "", True), ("deterministic", {"temperature": 1}, "", False), ("deterministic", {"temperature": 1}, "max-age=5", True),
    ("asked", {}, "", False), ("asked", {}, "max-age=5", True), ("asked", {}, "max-age=0", False), ("always", {"temperature": 1}, "", True),
    ("always", {"n": 2}, "", False),
])  # fmt: skip
def test_when(when: str, members: dict[str, Any], line: str, used: bool) -> None:
    use = use_of(plan_with(f"{{when: {when}}}"), BODY | members, *([f"Cache-Control: {line}"] if line else []))
    assert use is not None and (use.result == "miss") is used


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models"), ("POST", "/v1/embeddings"), ("GET", "/v1/chat/completions")])
def test_other_requests_have_nothing_to_do_with_it(method: str, path: str) -> None:
    assert use_of(PLAN, BODY, method=method, path=path) is None


# ---- hits


def ask(gateway: FakeGateway, *lines: str, plan: Plan = PLAN, client: Client | None = None) -> Client:
    data = json.dumps(BODY).encode()
    head = head_for(*lines, f"Content-Length: {len(data)}", "Content-Type: application/json", start="POST /v1/chat/completions HTTP/1.1")
    return run_through_phases(plan, head, client, gateway, data)[0]


def gateway_with(answer: CachedAnswer, age_s: float = 0.0, plan: Plan = PLAN) -> FakeGateway:
    gateway = FakeGateway()
    use = use_of(plan, BODY)
    assert use is not None and party_of(use.entry_key) == f"@{PEER}"
    value = to_json(answer) | {"at": clock.wall() - age_s}
    run_steps(gateway.space(SPACE + "llm", 60.0).put_steps(use.entry_key, value))
    return gateway


def test_a_plain_answer_has_its_length_age_and_status() -> None:
    gateway = gateway_with(ANSWER, age_s=90.0)
    client = ask(gateway)
    assert client.status == 200 and client.body == b"abcde" and client.ended == ["keep"]
    head = client.head.lower()
    assert b"content-length: 5\r\n" in head and b"content-type: application/json\r\n" in head and b"age: 90\r\n" in head
    assert b"cache-status: relayd; hit; ttl=35" in head
    (record,) = gateway.accounts
    assert record.more is not None and (record.more["cache"], record.more["saved_input"], record.more["saved_output"]) == ("hit", 5, 4)
    assert (record.attempts, record.usage, record.cost_nano, record.upstream, record.ended_by) == (0, None, None, "", "relayd")


@pytest.mark.parametrize("line", ["max-age=80", "no-cache", "min-fresh=3590", "max-age=0"])
def test_an_answer_that_the_client_does_not_accept_is_not_sent(line: str) -> None:
    client = ask(gateway_with(ANSWER, age_s=90.0), f"Cache-Control: {line}")
    assert b"abcde" not in client.sent
    refused = ask(gateway_with(ANSWER, age_s=90.0), f"Cache-Control: {line}, only-if-cached")
    assert refused.status == 504 and b"not_cached" in refused.body


def test_an_expired_answer_is_deleted() -> None:
    plan = plan_with("{ttl: 60s}")
    gateway = gateway_with(ANSWER, age_s=61.0, plan=plan)
    assert ask(gateway, "Cache-Control: only-if-cached", plan=plan).status == 504
    assert gateway.store.entries == 0


def test_a_time_in_the_future_counts_as_now() -> None:
    assert b"age: 0\r\n" in ask(gateway_with(ANSWER, age_s=-500.0)).head.lower(), "clocks of machines differ"


def test_an_answer_from_far_in_the_future_has_expired_because_the_clock_was_set_back() -> None:
    gateway = gateway_with(ANSWER, age_s=-3601.0)
    assert ask(gateway, "Cache-Control: only-if-cached").status == 504 and gateway.store.entries == 0


def test_a_value_that_somebody_else_wrote_is_no_hit() -> None:
    gateway = FakeGateway()
    use = use_of(PLAN, BODY)
    assert use is not None
    gateway.space(SPACE + "llm", 60.0).put(use.entry_key, {"version": 1, "at": "x"})
    assert ask(gateway, "Cache-Control: only-if-cached").status == 504


def test_a_store_that_refuses_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Space, key: str) -> Any:
        yield
        raise ExchangeError("store_unavailable")

    gateway = gateway_with(ANSWER)
    monkeypatch.setattr(Space, "get_steps", refused)
    client = ask(gateway, "Cache-Control: only-if-cached")
    assert client.status == 504 and b"not_cached" in client.body


def test_a_hit_without_memory_for_its_replay_goes_to_the_endpoint() -> None:
    gateway = gateway_with(CachedAnswer(0.0, "application/json", (), b"x" * 200_000))
    release = gateway.buffers.retain(gateway.buffers.limit)
    assert ask(gateway, "Cache-Control: only-if-cached").status == 504
    assert gateway.accounts[0].more is not None and gateway.accounts[0].more["cache_reason"] == "memory"
    release()
    assert ask(gateway, "Cache-Control: only-if-cached").status == 200


# ---- replays


def test_a_slow_client_holds_a_stream_and_gets_all_of_it() -> None:
    sizes = tuple(len(piece) + 2 for piece in STREAM.split(b"\n\n")[:-1])
    gateway, client = gateway_with(CachedAnswer(0.0, "text/event-stream", sizes, STREAM)), Client()
    client.room = False
    ask(gateway, client=client)
    held = client.sent
    assert held.count(b"data: ") == 1 and not gateway.timers and client.exchange.local is not None
    for number in range(2, 6):
        client.exchange.on_drained()
        assert client.sent.count(b"data: ") == number
    client.room = True
    client.exchange.on_drained()
    turns = 0
    while gateway.timers and not client.exchange.is_over:
        _, step = gateway.timers.pop(0)
        step()
        turns += 1
    assert client.exchange.is_over and client.sent.count(b"data: ") == 200 and client.sent.endswith(b"0\r\n\r\n")
    assert turns > 2, "one turn sends a bounded number of pieces"
    assert b"text/event-stream" in client.head and b"Transfer-Encoding: chunked" in client.head and client.ended == ["keep"]


def test_a_replay_releases_what_it_holds_when_its_client_leaves() -> None:
    answer = CachedAnswer(0.0, "text/event-stream", (10,) * 4000, b"x" * 500_000)
    gateway, client = FakeGateway(), Client()
    gateway.store = Store(10, 8 << 20, 60.0)
    use = use_of(PLAN, BODY)
    assert use is not None
    run_steps(gateway.space(SPACE + "llm", 60.0).put_steps(use.entry_key, to_json(answer) | {"at": clock.wall()}))
    ask(gateway, client=client)
    assert gateway.buffers.used > 0
    client.exchange.client_gone()
    assert gateway.buffers.used == 0 and not gateway.timers and client.exchange.local is None
    assert gateway.accounts[0].code == "client_gone"
