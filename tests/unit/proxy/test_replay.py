"""Replay: what is sent again, to which upstream and as which model, and what cannot be sent again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relayd.plan.plan import Plan
from relayd.proxy.capture import Captures, CaptureSettings
from relayd.proxy.captured import Allowance, CapturedAttempt, CapturedExchange
from relayd.proxy.replay import Replay, ReplayRefused, prepare
from relayd.server.capture_document import document_steps
from relayd.telemetry.record_filter import RecordFilter
from relayd.wire.http1 import parse_head
from relayd.wire.json_steps import Steps
from tests.unit.proxy.fakes import plan_of
from tests.unit.proxy.harness import Harness, Side, get, post, running, soon, until

PLAN = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  web: {endpoints: ["http://origin.example:9001"], limits: {requests: 7}}
  idle: {endpoints: ["http://idle.example:9001"], protocol: openai_chat}
  second: {endpoints: ["http://second.example:9001"], protocol: openai_chat, limits: {requests: 3}}
  first: {endpoints: ["http://first.example:9001"], protocol: openai_chat}
consumers: {team: {bearer: {file: "/keys/team"}}}
routes:
- {name: chat, match: {prefix: /v1/}, upstream: first, fallbacks: [{upstream: second, on: [any]}], allow: [team],
   rates: [{requests: 1, per: 1h}], cache: {ttl: 1h, when: always}}
- {name: fixed, match: {prefix: /fixed}, respond: {status: 418}}
- {name: all, upstream: web, upgrade: true}
"""


@pytest.fixture(name="plan")
def _plan(tmp_path: Path) -> Plan:
    key = tmp_path / "team"
    key.write_text("team-key-abcdefghij\n")
    key.chmod(0o600)
    return plan_of(PLAN.replace("/keys/team", str(key)))


def captured(route: str = "all", upstream: str = "web", body: bytes = b"", body_bytes: int = 1 << 20, **record: Any) -> CapturedExchange:
    made = CapturedExchange(Allowance(1 << 30), body_bytes, 0.0)
    made.record = {"route": route, "upstream": upstream, "peer": "192.0.2.7", **record}
    made.method, made.target, made.fields = b"GET", b"/a?b=c", [b"Host: relay.example", b"X-Mine: yes"]
    made.body.add(body, 0.0)
    made.body.finish()
    made.body.cut_edges()
    return made


def refusal(plan: Plan, one: CapturedExchange, upstream: str = "") -> str:
    with pytest.raises(ReplayRefused) as refused:
        prepare(plan, one, upstream, "")
    return str(refused.value)


def lines(replayed: Replay) -> list[bytes]:
    return list(replayed.head.lines)


def test_the_request_is_that_of_the_client(plan: Plan) -> None:
    one = captured(body=b"the body")
    one.method = b"PUT"
    made = prepare(plan, one, "", "")
    assert (made.head.method, made.head.target, made.body, made.peer) == (b"PUT", b"/a?b=c", b"the body", "192.0.2.7")
    assert lines(made) == [b"Host: relay.example", b"X-Mine: yes", b"Content-Length: 8"]
    assert made.target.upstream is plan.upstreams["web"] and made.target.model is None


def test_masked_fields_and_parameters_and_framing_are_not_sent(plan: Plan) -> None:
    one = captured()
    one.target = b"/a?key=***&b=c&token=***"
    one.fields += [b"Authorization: ***", b"cookie: ***", b"***", b"Transfer-Encoding: chunked", b"Connection: X-Mine",
                   b"Content-Length: 8", b"Expect: 100-continue", b"Upgrade: echo"]
    made = prepare(plan, one, "", "")
    assert lines(made) == [b"Host: relay.example", b"X-Mine: yes"] and made.body is None
    assert made.head.target == b"/a?b=c"
    one.target = b"/a?key=***"
    assert prepare(plan, one, "", "").head.target == b"/a"


def test_a_request_of_http_1_0_needs_no_host(plan: Plan) -> None:
    one = captured()
    one.version, one.fields = 10, [b"X-Mine: yes"]
    made = prepare(plan, one, "", "")
    assert made.head.version == 10 and lines(made) == [b"X-Mine: yes"]


@pytest.mark.parametrize(("route", "upstream", "reason"), [
    ("gone", "", "The request cannot be routed: route gone is not in the configuration any more."),
    ("", "", "The request cannot be routed: it had no route."),
    ("fixed", "web", "Route fixed has no upstream."),
    ("all", "none", "There is no upstream none; the upstreams are: web, idle, second, first."),
])
def test_what_cannot_be_routed_is_refused(plan: Plan, route: str, upstream: str, reason: str) -> None:
    assert refusal(plan, captured(route), upstream) == reason


def test_a_request_that_no_upstream_got_needs_the_name_of_one(plan: Plan) -> None:
    one = captured(upstream="")
    assert "was not sent to any upstream" in refusal(plan, one)
    assert prepare(plan, one, "web", "").target.upstream.name == "web"


def _masked_body(one: CapturedExchange) -> None:
    one.body.is_masked = True


def _tunnel(one: CapturedExchange) -> None:
    attempt = CapturedAttempt("web", "origin", 0.0, one.new_body(), one.new_body())
    attempt.is_tunnel = True
    one.attempts.append(attempt)


def _masked_path(one: CapturedExchange) -> None:
    one.target = b"/bot***/send"


def _masked_host(one: CapturedExchange) -> None:
    one.fields = [b"Host: ***"]


@pytest.mark.parametrize(("change", "reason"), [
    (_masked_body, "A key was masked in its body, or its content coding hides if it has one."), (_tunnel, "It was an Upgrade, of which only the heads were kept."),
    (_masked_path, "Its path contained a key, which was masked."),
    (_masked_host, "Its head is not complete without what was masked: host count."),
])
def test_what_is_not_complete_is_refused(plan: Plan, change: Callable[[CapturedExchange], None], reason: str) -> None:
    one = captured()
    change(one)
    assert refusal(plan, one) == reason


def test_a_body_that_was_cut_is_refused_with_what_is_missing(plan: Plan) -> None:
    reason = refusal(plan, captured(body=b"x" * 20_000, body_bytes=2000))
    assert reason == "18000 of the 20000 bytes of its body were not kept; capture it with a larger --body."


def test_the_model_at_the_upstream_is_that_of_the_capture_unless_another_is_named(plan: Plan) -> None:
    one = captured("chat", "second", model_there="real-model")
    assert prepare(plan, one, "", "").target.model == "real-model"
    assert prepare(plan, one, "second", "").target.model == "real-model"
    assert prepare(plan, one, "second", "other").target.model == "other"
    assert prepare(plan, one, "first", "").target.model is None  # where that name may mean nothing


@pytest.mark.parametrize("name", ["web", "idle", "second", "first"])
def test_each_upstream_keeps_its_dialect_and_its_gate(plan: Plan, name: str) -> None:
    target = prepare(plan, captured("chat", "first"), name, "").target
    assert target.upstream is plan.upstreams[name] and target.on == frozenset()
    assert (None if target.dialect is None else target.dialect.name) == (None if name == "web" else "openai_chat")
    assert (target.gate is not None) is (name in ("web", "second"))


def test_its_route_has_one_target_and_neither_keys_limits_nor_a_cache(plan: Plan) -> None:
    made = prepare(plan, captured("chat", "first"), "second", "")
    (route,) = made.plan.routes
    other = parse_head(b"GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n")
    assert made.plan.table.match(other) is route and route.name == "chat"
    assert route.allow is None and route.limit_set is None and route.cache is None and route.targets == (made.target,)
    resilience = route.resilience
    assert resilience is not None and resilience.fallbacks == () and resilience.split == ((100.0, made.target),)
    assert plan.routes[0].allow is not None and len(plan.routes) == 3  # the plan in force is as before


def completion(text: str) -> bytes:
    body = json.dumps({
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


class Endpoint:
    """Keeps what it got."""

    def __init__(self, *answers: bytes) -> None:
        self.got: list[tuple[bytes, bytes]] = []
        self.answers = answers

    async def __call__(self, side: Side) -> None:
        while True:
            self.got.append(await side.message())
            side.write(self.answers[min(len(self.got), len(self.answers)) - 1])


def whole(steps: Steps[bytes]) -> bytes:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bytes(end.value)


async def capture(h: Harness, captures: Captures, request: bytes) -> CapturedExchange:
    """Send a request, and capture its exchange."""
    kept: list[CapturedExchange] = []
    captures.start(CaptureSettings(RecordFilter({}), exchanges=1), kept.append, lambda reason: None)
    await h.ask(request)
    await until(lambda: kept and captures.running is None)
    return kept[0]


async def replay(h: Harness, captures: Captures, one: CapturedExchange, upstream: str = "", model: str = "") -> dict[str, Any]:
    """The document of a replay, which is dropped."""
    done: asyncio.Future[CapturedExchange | None] = asyncio.get_running_loop().create_future()
    captures.replay(prepare(h.plan, one, upstream, model), one, done.set_result)
    found: CapturedExchange | None = await soon(done)
    assert found is not None
    document: dict[str, Any] = json.loads(whole(document_steps(found, 0.0)))
    found.drop()
    return document


def fields_of(head: bytes) -> dict[bytes, bytes]:
    return {name.lower(): value for name, _, value in (line.partition(b": ") for line in head.split(b"\r\n")[1:-2])}


async def test_the_endpoint_gets_the_same_request_again_without_the_secrets_of_the_client(tmp_path: Path) -> None:
    endpoint = Endpoint(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none", b"HTTP/1.1 202 No\r\nContent-Length: 3\r\n\r\ntwo")
    async with running(tmp_path, endpoint) as h:
        captures = Captures(h.gateway, bool)
        one = await capture(h, captures, post(b"the body", "X-Mine: yes", "Cookie: id=secret", path="/a?b=c"))
        before = captures.describe()
        document = await replay(h, captures, one)
        first, again = endpoint.got
        assert again[1] == first[1] == b"the body" and again[0].split(b"\r\n")[0] == first[0].split(b"\r\n")[0]
        fields = fields_of(first[0])
        assert fields.pop(b"cookie") == b"id=secret"
        assert {name: value for name, value in fields_of(again[0]).items() if name != b"x-request-id"} == {
            name: value for name, value in fields.items() if name != b"x-request-id"}
        assert document["response"]["status"] == 202 and document["response"]["body"]["text"] == "two"
        assert document["attempts"][0]["response"]["body"]["text"] == "two"
        record = document["record"]
        assert (record["listener"], record["route"], record["consumer"]) == ("replay", "all", "")
        assert record["replay_of"] == one.id != record["id"]
        assert captures.describe() == before and h.gateway.observer is None
        await h.accounted(2)


@pytest.mark.parametrize("lines", [(), ("Content-Length: 0",)])
async def test_an_empty_body_has_the_same_framing_again(tmp_path: Path, lines: tuple[str, ...]) -> None:
    endpoint = Endpoint(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with running(tmp_path, endpoint) as h:
        captures = Captures(h.gateway, bool)
        await replay(h, captures, await capture(h, captures, get("/a", *lines, method="POST")))
        first, again = (fields_of(head) for head, _ in endpoint.got)
        assert again.get(b"content-length") == first.get(b"content-length")


async def test_a_request_of_http_1_0_is_sent_again_as_it_was(tmp_path: Path) -> None:
    endpoint = Endpoint(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nend\r\n0\r\n\r\n")
    async with running(tmp_path, endpoint) as h:
        captures = Captures(h.gateway, bool)
        document = await replay(h, captures, await capture(h, captures, b"GET /a HTTP/1.0\r\nX-Mine: yes\r\n\r\n"))
        first, again = (fields_of(head) for head, _ in endpoint.got)
        assert {**again, b"x-request-id": b""} == {**first, b"x-request-id": b""}
        assert document["request"]["version"] == "HTTP/1.0" and document["response"]["body"]["text"] == "end"


CHAT = """
upstreams:
  web: {endpoints: ["http://127.0.0.1:PORT"], protocol: openai_chat}
  other: {endpoints: ["http://127.0.0.1:PORT/other"], protocol: openai_chat}
routes: [{name: all, upstream: web, rates: [{requests: 1, per: 1h}], cache: {ttl: 1h, when: always}}]
"""


async def test_a_replay_counts_in_no_limit_and_asks_the_endpoint_and_not_the_cache(tmp_path: Path) -> None:
    endpoint = Endpoint(completion("fine"), completion("other"))
    chat = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
    async with running(tmp_path, endpoint, whole=CHAT) as h:
        captures = Captures(h.gateway, bool)
        request = post(chat, "Content-Type: application/json", path="/v1/chat/completions")
        one = await capture(h, captures, request)
        for model in ("", "renamed"):
            document = await replay(h, captures, one, "other", model)
            assert "other" in document["response"]["body"]["text"] and document["record"]["tokens_input"] == 3
        assert [head.split()[1] for head, _ in endpoint.got] == [b"/chat/completions", *[b"/other/chat/completions"] * 2]
        assert [json.loads(body)["model"] for _, body in endpoint.got] == ["m", "m", "renamed"]


async def test_a_replay_whose_endpoint_is_away_is_a_captured_failure(tmp_path: Path) -> None:
    async with running(tmp_path, Endpoint(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as h:
        captures = Captures(h.gateway, bool)
        one = await capture(h, captures, get("/a", "Connection: close"))
        h.server.close()
        for side in h.endpoint_sides:
            side.reset()
        document = await replay(h, captures, one)
        assert document["response"]["status"] == 502 and document["record"]["code"] == document["attempts"][-1]["code"] == "connect_failed"
