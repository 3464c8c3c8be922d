"""Captures: which exchanges are kept, the bounds and the end of a capture, replays, and that traffic goes on unharmed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.proxy import capture as module
from relayd.proxy.capture import ACTIONS, CaptureRefused, Captures, CaptureSettings, RunningCapture
from relayd.proxy.capture_masking import Masks
from relayd.proxy.captured import EXCHANGE_BYTES, CapturedExchange
from relayd.proxy.pipeline import run
from relayd.proxy.replay import prepare
from relayd.server.admin_captures import POSTS
from relayd.telemetry.record_filter import RecordFilter
from tests.aids.turns import turned
from tests.unit.proxy.harness import OK, Harness, Side, get, post, running, saying, status_of, until
from tests.unit.proxy.scripted_endpoints import ScriptedEndpoints, http
from tests.unit.proxy.test_local_response import Scripted, stream_head
from tests.unit.proxy.test_upgrade import AGREED, ASK

ALL = RecordFilter({})
RETRIED = "retries: {attempts: 2, backoff: 1ms, on: [5xx], idempotent: true}"
OTHER = "{name: other, match: {prefix: /other}, upstream: web},"


class Capturing:
    """The captures of a harness, and what the client of a capture is told."""

    def __init__(self, harness: Harness) -> None:
        self.is_ending = self.is_superseded = False
        self.captures = Captures(harness.gateway, lambda: self.is_ending)
        self.kept: list[CapturedExchange] = []
        self.ended: list[str] = []

    def start(self, settings: CaptureSettings | None = None, **chosen: Any) -> RunningCapture:
        return self.captures.start(
            settings or CaptureSettings(chosen.pop("filter", ALL), **chosen), self.kept.append, self.ended.append,
            lambda: self.is_superseded,
        )

    async def next(self, count: int = 1) -> CapturedExchange:
        """The last of this many kept exchanges."""
        await until(lambda: len(self.kept) >= count)
        assert len(self.kept) == count
        return self.kept[-1]

    def paths(self) -> list[str]:
        return [str(one.record["path"]) for one in self.kept]

    @property
    def used_bytes(self) -> object:
        return self.captures.describe()["bytes"]


def body_of(captured: CapturedExchange) -> bytes:
    return bytes(captured.response.body.head)


def is_untouched(harness: Harness) -> bool:
    """True if the gateway calls nothing of a capture."""
    gateway = harness.gateway
    return gateway.observer is None and gateway.begin is run and gateway.account.__qualname__.endswith("counted")


async def captured_one(harness: Harness, capturing: Capturing, request: bytes) -> CapturedExchange:
    """What is kept of one request, after the capture has ended."""
    capturing.start(exchanges=1)
    await harness.ask(request)
    found = await capturing.next()
    await until(lambda: capturing.ended)
    return found


# ---- what is kept


async def test_every_attempt_is_kept_with_what_was_sent_and_answered(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[http(503, b"down"), http(200, b"fine", "X-A: b")])
    async with running(tmp_path, endpoints, upstream=RETRIED) as harness:
        capturing = Capturing(harness)
        capturing.start()
        assert (await harness.ask(post(b"the body", "X-Mine: yes", path="/a/x?b=c")))[1] == b"fine"
        found = await capturing.next()
    assert (found.method, found.target, found.version, found.is_tls) == (b"POST", b"/a/x?b=c", 11, False)
    assert b"X-Mine: yes" in found.fields and bytes(found.body.head) == b"the body"
    first, second = found.attempts
    assert [one.response.status for one in (first, second)] == [503, 200]
    assert [bytes(one.response.body.head) for one in (first, second)] == [b"down", b"fine"]
    assert (first.fault, first.blame, second.fault, second.blame) == ("upstream_refused", "endpoint", "", "good")
    for one in (first, second):
        assert one.method == b"POST" and one.url.endswith(b"/a/x?b=c") and b"X-Mine: yes" in one.fields
        assert bytes(one.body.head) == b"the body" or one.request_is_forwarded
    assert 0 <= first.started_s < first.ended_s <= second.started_s < second.ended_s <= found.response.ended_s
    assert found.response.status == 200 and body_of(found) == b"fine" and b"X-A: b" in found.response.fields
    assert found.record["query"] == "?b=c" and found.id == found.record["id"]
    assert found.size_bytes == capturing.used_bytes


async def test_a_field_that_the_transport_suppresses_is_not_shown_and_an_empty_one_is(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def script(side: Side) -> None:
        heads.append((await side.message())[0])
        side.write(OK)
        await side.gone()

    async with running(tmp_path, script) as harness:
        capturing = Capturing(harness)
        capturing.start()
        await harness.ask(get("/x", "X-Empty:", "X-Full: a"))
        (attempt,) = (await capturing.next()).attempts
    sent = heads[0].split(b"\r\n")
    assert b"X-Empty:" in attempt.fields and b"X-Empty:" in sent
    assert set(attempt.fields) <= set(sent)


async def test_an_attempt_without_a_connection_has_its_fault(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        await side.head()

    async with running(tmp_path, script, upstream="retries: {attempts: 1}") as harness:
        capturing = Capturing(harness)
        capturing.start(filter=RecordFilter({}, failures=True))
        assert status_of((await harness.ask(get()))[0]) == 502
        found = await capturing.next()
    attempt = found.attempts[-1]
    assert attempt.fault == found.record["code"] and attempt.detail and attempt.response.status == 0
    assert attempt.blame == "endpoint" and found.response.status == 502 and body_of(found)


@pytest.mark.parametrize(("chosen", "wanted"), [
    (RecordFilter({"route": ("oth*",)}), ["/other"]), (RecordFilter({"consumer": ("team",)}), []),
    (RecordFilter({}, statuses=("4xx",)), ["/missing"]), (RecordFilter({}, slow_s=3600.0), []),
    (RecordFilter({"upstream": ("web",)}, failures=True), ["/missing"]), (ALL, ["/fine", "/missing", "/other"]),
])
async def test_only_what_the_filter_accepts_is_kept(tmp_path: Path, chosen: RecordFilter, wanted: list[str]) -> None:
    endpoints = ScriptedEndpoints(fine=OK, missing=http(404), other=OK)
    async with running(tmp_path, endpoints, before=OTHER) as harness:
        capturing = Capturing(harness)
        capturing.start(filter=chosen)
        for path in ("/fine", "/missing", "/other"):
            await harness.ask(get(path))
        await harness.accounted(3)
        await until(lambda: len(capturing.kept) >= len(wanted))
        assert capturing.paths() == wanted
        assert capturing.used_bytes == sum(one.size_bytes for one in capturing.kept)


async def test_nothing_is_copied_once_the_route_excludes_an_exchange(tmp_path: Path) -> None:
    async with running(tmp_path, before=OTHER) as harness:
        capturing = Capturing(harness)
        capturing.start(filter=RecordFilter({"route": ("other",)}))
        side = await harness.connect()
        side.write(post(b"x" * 1000)[:-1])
        await until(lambda: harness.endpoint_sides)  # the request is on its way, without its last byte
        await until(lambda: capturing.used_bytes == 0)
        side.write(b"x")
        assert (await side.message())[1] == b"ok"
        await harness.accounted(1)
        assert capturing.used_bytes == 0 and not capturing.kept


async def test_pages_of_the_admin_application_are_never_kept(tmp_path: Path) -> None:
    inside = "{name: inside, match: {prefix: /in/}, upstream: admin, admin_prefix: /in},"
    async with running(tmp_path, before=inside) as harness:
        capturing = Capturing(harness)
        capturing.start()

        def page(responder: Any) -> None:
            responder.head(stream_head())
            responder.end(b"page")

        Scripted(harness, page)
        assert (await harness.ask(get("/in/status")))[1] == b"page"
        await harness.ask(get("/x"))
        await capturing.next()
        assert capturing.paths() == ["/x"]


async def test_an_upgrade_is_kept_without_what_is_said_over_it(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        await side.head()
        side.write(AGREED)
        side.write(b"got " + await side.exactly(6))

    async with running(tmp_path, script, route="upgrade: true") as harness:
        capturing = Capturing(harness)
        capturing.start()
        side = await harness.connect()
        side.write(get("/ws", *ASK))
        assert status_of(await side.head()) == 101
        side.write(b"secret")
        assert await side.exactly(10) == b"got secret"
        assert await side.rest() == b""
        found = await capturing.next()
    (attempt,) = found.attempts
    assert attempt.is_tunnel and attempt.url.endswith(b"/ws") and (attempt.method, attempt.upstream) == (b"GET", "web")
    assert (found.response.status, found.response.reason) == (101, b"Switching Protocols")
    assert any(line.startswith(b"Sec-WebSocket-Accept: ") for line in found.response.fields)
    assert not any(b"secret" in body.head for body in found.bodies())


async def test_the_dialect_of_the_client_is_kept(tmp_path: Path) -> None:
    whole = """
upstreams: {up: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/v1"]}}
routes: [{name: all, protocol: openai_chat, upstream: up}]
"""
    async with running(tmp_path, saying(http(400, {"error": {"message": "no"}})), whole=whole) as harness:
        capturing = Capturing(harness)
        capturing.start()
        asked = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
        await harness.ask(post(asked, "Content-Type: application/json", path="/v1/chat/completions"))
        found = await capturing.next()
    assert found.dialect == "openai_chat" and found.record["model"] == "m"
    assert found.attempts[0].fault and b"no" in found.attempts[0].response.body.head


# ---- bounds and ends


async def test_a_capture_ends_with_its_number_of_exchanges_and_the_gateway_is_as_before(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        capturing = Capturing(harness)
        assert is_untouched(harness)
        running_one = capturing.start(exchanges=2)
        assert not is_untouched(harness) and capturing.captures.describe()["is_on"]
        for number in range(4):
            await harness.ask(get(f"/{number}"))
        await until(lambda: capturing.ended)
        assert capturing.ended == ["count"] and capturing.paths() == ["/0", "/1"] and running_one.recorded == 2
        assert is_untouched(harness)
        found = capturing.captures.describe()
        assert (found["is_on"], found["ends_in_s"], found["exchanges"]) == (False, None, 2)
        assert list(capturing.captures.exchanges()) == capturing.kept


async def test_a_capture_ends_when_its_memory_is_full_and_the_next_is_refused(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"q" * 50_000
    async with running(tmp_path, saying(answer)) as harness:
        capturing = Capturing(harness)
        capturing.start(bytes=100_000)
        for _ in range(5):
            assert len((await harness.ask(get()))[1]) == 50_000
        await until(lambda: capturing.ended)
        assert capturing.ended == ["size"] and 0 < len(capturing.kept) < 5
        with pytest.raises(CaptureRefused, match="relayd capture delete, or raise --size"):
            capturing.start(bytes=100_000)
        for one in list(capturing.captures.exchanges()):
            capturing.captures.delete(one)
            capturing.captures.delete(one)  # the second time, nothing is left to delete
        assert capturing.used_bytes == 0
        capturing.start(bytes=100_000)


async def test_a_capture_ends_with_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_S", 0.001)
    async with running(tmp_path) as harness:
        capturing = Capturing(harness)
        capturing.start(for_s=0.01)
        await until(lambda: capturing.ended)
        assert capturing.ended == ["time"] and is_untouched(harness)
        assert not harness.accounts


@pytest.mark.parametrize("name", ["is_ending", "is_superseded"])
async def test_a_capture_ends_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(module, "CHECK_S", 0.001)
    async with running(tmp_path) as harness:
        capturing = Capturing(harness)
        capturing.start()
        assert not capturing.ended
        setattr(capturing, name, True)
        await until(lambda: capturing.ended)
        assert capturing.ended == ["stopping"] and is_untouched(harness)


async def test_there_is_one_capture_at_a_time_and_none_while_relayd_stops(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        capturing = Capturing(harness)
        capturing.start(for_s=100.0)
        with pytest.raises(CaptureRefused, match=r"A capture is on already; it ends in \d+ s at the latest\."):
            capturing.start()
        capturing.captures.stop("client")
        capturing.captures.stop("client")
        assert capturing.ended == ["client"]
        capturing.is_ending = True
        with pytest.raises(CaptureRefused, match="relayd is stopping"):
            capturing.start()


async def test_exchanges_in_flight_are_not_kept_and_complete_as_usual(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        await side.message()
        side.write(OK[:-2] + b"o")
        sides.append(side)
        await side.gone()

    sides: list[Side] = []
    async with running(tmp_path, script) as harness:
        capturing = Capturing(harness)
        capturing.start()
        side = await harness.connect()
        side.write(get())
        await side.head()
        assert await side.exactly(1) == b"o" and capturing.used_bytes
        capturing.captures.stop("client")
        assert capturing.ended == ["client"] and capturing.used_bytes == 0 and is_untouched(harness)
        sides[0].write(b"k")
        assert await side.exactly(1) == b"k"
        (record,) = await harness.accounted(1)
        assert record.code == "" and not capturing.kept and capturing.used_bytes == 0


async def test_what_is_kept_is_deleted_after_its_time(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        capturing = Capturing(harness)
        capturing.start(exchanges=1)
        await harness.ask(get("/stays"))
        await until(lambda: capturing.ended)
        capturing.start(keep_s=0.001)
        await harness.ask(get("/goes"))
        await until(lambda: len(capturing.kept) == 2 and capturing.captures.describe()["exchanges"] == 1)
        (left,) = capturing.captures.exchanges()
        assert left.record["path"] == "/stays" and capturing.used_bytes == left.size_bytes
        assert capturing.kept[1].is_dropped and left.expires_s > clock.monotonic()


async def test_an_exchange_is_found_by_the_beginning_of_its_id_and_a_second_one_with_it_gets_a_number(tmp_path: Path) -> None:
    async with running(tmp_path, listener='trusted_proxies: ["127.0.0.1"]') as harness:
        capturing = Capturing(harness)
        capturing.start()
        for name in ("theirs-1", "theirs-1", "theirs-2"):
            await harness.ask(get("/x", f"X-Request-ID: {name}"))
        await capturing.next(3)
        first, second, third = capturing.kept
        assert [one.id for one in capturing.kept] == ["theirs-1", "theirs-1~2", "theirs-2"]
        find = capturing.captures.find
        assert find("theirs-1") == [first] and find("theirs-1~") == [second] and find("theirs-2") == [third]
        assert find("theirs") == [first, second, third] and find("") == find("nothing") == []


async def test_an_id_that_is_the_path_of_an_action_gets_a_number_so_that_it_can_be_shown(tmp_path: Path) -> None:
    assert {path.removeprefix("/captures/") for path in POSTS} == set(ACTIONS)
    async with running(tmp_path, listener='trusted_proxies: ["127.0.0.1"]') as harness:
        capturing = Capturing(harness)
        capturing.start()
        for name in ACTIONS:
            await harness.ask(get("/x", f"X-Request-ID: {name}"))
        await capturing.next(len(ACTIONS))
        assert [one.id for one in capturing.kept] == [f"{name}~2" for name in ACTIONS]


async def test_a_fault_of_the_capture_does_not_affect_the_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: CapturedExchange) -> None:
        raise ValueError("broken")

    async with running(tmp_path) as harness:
        capturing = Capturing(harness)
        capturing.start()
        with monkeypatch.context() as patched, caplog.at_level(logging.ERROR, "relayd.capture"):
            patched.setattr(CapturedExchange, "count_heads", broken)
            assert (await harness.ask(get("/first")))[1] == b"ok"
            (record,) = await harness.accounted(1)
        assert record.id in caplog.text and not capturing.kept and capturing.used_bytes == 0
        assert (await harness.ask(get("/second")))[1] == b"ok"
        await capturing.next()
        assert capturing.paths() == ["/second"]


async def test_an_exchange_that_cannot_be_masked_is_not_kept_and_the_capture_ends_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("broken")

    async with running(tmp_path) as harness:
        capturing = Capturing(harness)
        running_one = capturing.start(exchanges=1)
        with caplog.at_level(logging.ERROR, "relayd.capture"):
            monkeypatch.setattr(Masks, "target", broken)
            assert (await harness.ask(get()))[1] == b"ok"
            await until(lambda: capturing.ended)
        assert capturing.ended == ["count"] and not capturing.kept and running_one.recorded == 0
        assert capturing.used_bytes == 0 and "broken" in caplog.text and is_untouched(harness)


# ---- replays


async def replayed_by(harness: Harness, capturing: Capturing, of: CapturedExchange) -> CapturedExchange | None:
    found: list[CapturedExchange | None] = []
    capturing.captures.replay(prepare(harness.plan, of, "", ""), of, found.append)
    await until(lambda: found)
    (copy,) = found
    return copy


@pytest.mark.parametrize("is_on", [False, True], ids=["no capture", "a capture is on"])
async def test_a_replay_is_captured_for_itself_and_kept_by_nobody(tmp_path: Path, is_on: bool) -> None:
    endpoints = ScriptedEndpoints(a=[http(200, b"first"), http(200, b"second")], b=OK)
    async with running(tmp_path, endpoints) as harness:
        capturing = Capturing(harness)
        first = await captured_one(harness, capturing, post(b"the body", path="/a/x?b=c"))
        if is_on:
            capturing.start(filter=RecordFilter({"route": ("none",)}))
        copy = await replayed_by(harness, capturing, first)
        assert copy is not None and body_of(first) == b"first" and body_of(copy) == b"second"
        assert copy.record["replay_of"] == first.id and copy.id == copy.record["id"] != first.id
        assert bytes(copy.body.head) == b"the body" == endpoints.asked[1][2]
        assert bytes(copy.attempts[0].body.head) == b"the body"
        assert list(capturing.captures.exchanges()) == [first] and is_untouched(harness) is not is_on
        copy.drop()
        assert capturing.used_bytes == first.size_bytes


async def test_the_end_of_a_capture_does_not_end_a_replay(tmp_path: Path) -> None:
    async def second(side: Side) -> None:
        sides.append(side)
        await side.gone()

    sides: list[Side] = []
    endpoints = ScriptedEndpoints(a=[http(200, b"first", "Connection: close"), second])
    async with running(tmp_path, endpoints) as harness:
        capturing = Capturing(harness)
        first = await captured_one(harness, capturing, get("/a"))
        capturing.start()
        found: list[CapturedExchange | None] = []
        capturing.captures.replay(prepare(harness.plan, first, "", ""), first, found.append)
        await until(lambda: sides)
        capturing.captures.stop("client")
        assert capturing.ended == ["count", "client"] and not is_untouched(harness)
        sides[0].write(OK)
        await until(lambda: found)
        assert found[0] is not None and body_of(found[0]) == b"ok"
        assert is_untouched(harness) and len(capturing.kept) == 1


async def test_requests_during_a_replay_are_not_captured_if_no_capture_is_on(tmp_path: Path) -> None:
    async def second(side: Side) -> None:
        sides.append(side)
        await side.gone()

    sides: list[Side] = []
    endpoints = ScriptedEndpoints(a=[http(200, b"first", "Connection: close"), second], b=OK)
    async with running(tmp_path, endpoints) as harness:
        capturing = Capturing(harness)
        first = await captured_one(harness, capturing, get("/a"))
        found: list[CapturedExchange | None] = []
        capturing.captures.replay(prepare(harness.plan, first, "", ""), first, found.append)
        await until(lambda: sides)
        used_bytes = capturing.used_bytes
        assert (await harness.ask(get("/b")))[1] == b"ok"
        await turned()
        assert capturing.used_bytes == used_bytes and len(capturing.kept) == 1
        sides[0].write(OK)
        await until(lambda: found)


@pytest.mark.parametrize("where", ["end", "mask"])
async def test_a_replay_whose_copy_fails_is_reported_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("broken")

    async with running(tmp_path) as harness:
        capturing = Capturing(harness)
        first = await captured_one(harness, capturing, get("/a"))
        owner: Callable[..., Any] = CapturedExchange if where == "end" else Masks
        monkeypatch.setattr(owner, "count_heads" if where == "end" else "target", broken)
        assert await replayed_by(harness, capturing, first) is None
        assert capturing.used_bytes == first.size_bytes > EXCHANGE_BYTES and is_untouched(harness)
