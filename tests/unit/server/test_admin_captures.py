"""Captured exchanges over the admin application: begin a capture, list, show, delete, replay; who may, and its refusals."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.proxy.application import Handler, LocalRequest
from relayd.proxy.capture import MAX_BODY_BYTES, MAX_BYTES, MAX_EXCHANGES, MAX_S, Captures
from relayd.proxy.captured import CapturedExchange
from relayd.server.admin_application import AdminApplication
from relayd.server.admin_captures import MAX_BODY
from relayd.server.admin_views import AdminViews, ProcessState
from relayd.server.capture_document import TEXT_BLOCK
from relayd.wire.json_steps import Steps
from tests.aids.turns import turned
from tests.unit.proxy.harness import Harness, Script, Side, get, post, running, until
from tests.unit.server.recording_responder import RecordingResponder

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer"


class Started:
    """A client of `start`."""

    def __init__(self, handler: Handler, responder: RecordingResponder) -> None:
        self.handler, self.responder = handler, responder

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.responder.written.splitlines()]

    async def captured(self, count: int) -> list[dict[str, Any]]:
        """The events of this many exchanges."""
        await until(lambda: sum(one["event"] == "captured" for one in self.events) >= count)
        return [one for one in self.events if one["event"] == "captured"]

    async def ended(self) -> dict[str, Any]:
        await until(lambda: self.responder.ended)
        return self.events[-1]


class Scene:
    """The admin application of a running relayd."""

    def __init__(self, harness: Harness) -> None:
        self.h = harness
        self.views = AdminViews(harness.gateway, harness.telemetry, ProcessState("relayd.yaml"))
        self.captures: Captures = self.views.captures
        self.admin = AdminApplication(self.views, {})

    def begin(
        self, method: str, path: str, document: Any = None, *, write: bool = True, cross: bool = False
    ) -> tuple[Handler, RecordingResponder]:
        responder = RecordingResponder()
        handler = self.admin(LocalRequest(method, path, write, cross), responder)
        body = document if isinstance(document, bytes) else b"" if document is None else json.dumps(document).encode()
        if not responder.ended:
            handler.feed(body[:5], False)
            handler.feed(body[5:], True)
        return handler, responder

    async def ask(self, method: str, path: str, document: Any = None, **options: bool) -> tuple[int, Any]:
        handler, responder = self.begin(method, path, document, **options)
        await until(lambda: responder.ended)
        assert responder.response is not None
        handler.close()
        return responder.response.status, json.loads(responder.written)

    async def refusal(self, method: str, path: str, document: Any = None) -> tuple[int, str]:
        status, page = await self.ask(method, path, document)
        return status, page["error"]["message"]

    def start(self, **asked: Any) -> Started:
        started = Started(*self.begin("POST", "/captures/start", asked))
        assert started.responder.response is not None and started.responder.response.status == 200
        return started

    async def capture(self, *requests: bytes, **asked: Any) -> list[str]:
        """The ids of exchanges that were captured."""
        started = self.start(exchanges=len(requests), **asked)
        for one in requests:
            await self.h.ask(one)
        await started.ended()
        return [one["id"] for one in started.events if one["event"] == "captured"]


async def answering(side: Side) -> None:
    while True:
        await side.message()
        side.write(ANSWER)


@contextlib.asynccontextmanager
async def opened(tmp_path: Path, script: Script = answering) -> AsyncIterator[Scene]:
    async with running(tmp_path, script, listener='trusted_proxies: ["127.0.0.1"]') as harness:  # its request ids are kept
        scene = Scene(harness)
        yield scene
        for one in list(scene.captures.exchanges()):
            scene.captures.delete(one)
        assert scene.captures.describe() == {"is_on": False, "ends_in_s": None, "exchanges": 0, "bytes": 0}
        assert harness.gateway.observer is None


async def test_a_capture_tells_of_each_exchange_and_of_its_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        started = scene.start(exchanges=2, for_s=60)
        assert started.events == [{"event": "capture_started", "for_s": 60, "exchanges": 2}]
        await scene.h.ask(get("/one?a=1"))
        (first,) = await started.captured(1)
        assert first["record"]["path"] == "/one" and first["size_bytes"] > 0 and 3500 < first["expires_in_s"] <= 3600
        assert not started.responder.ended and (await scene.ask("GET", "/captures"))[1]["is_on"] is True
        await scene.h.ask(get("/two"))
        assert await started.ended() == {
            "event": "capture_ended", "reason": "count", "why": "the number of exchanges is reached", "exchanges": 2,
        }
        output = scene.h.log_output.getvalue()
        assert "capture_started" in output and "an operator" in output and "capture_ended" in output


async def test_what_is_kept_is_listed_and_shown_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        one, two = await scene.capture(post(b"question", "X-Request-ID: abc-one"), get("/y", "X-Request-ID: abc-two"))
        for path in ("/captures", "/captures/"):
            status, page = await scene.ask("GET", path)
            assert status == 200 and page["is_on"] is False and page["exchanges"] == 2
            assert [entry["id"] for entry in page["captures"]] == [one, two] and page["bytes"] > 0
        for named in (one, one[:5], f"{one}/"):
            status, page = await scene.ask("GET", f"/captures/{named}")
            assert status == 200 and page["id"] == one and page["request"]["body"]["text"] == "question"
            assert page["response"]["body"]["text"] == "answer" == page["attempts"][0]["response"]["body"]["text"]


async def test_an_id_that_names_none_or_several_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        await scene.capture(get("/x", "X-Request-ID: abc-one"), get("/y", "X-Request-ID: abc-two"))
        none = (404, "No captured exchange has the id nothing; it may have expired.")
        several = (409, "The ids of 2 captured exchanges begin like this.")
        for named, wanted in (("nothing", none), ("abc", several)):
            assert await scene.refusal("GET", f"/captures/{named}") == wanted
            for action in ("replay", "delete"):
                assert await scene.refusal("POST", f"/captures/{action}", {"id": named}) == wanted
        assert (await scene.ask("POST", "/captures/replay", {}))[0] == 404


async def test_one_or_all_are_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        first, *_ = await scene.capture(get("/x"), get("/y"), get("/z"))
        used = scene.captures.describe()["bytes"]
        assert await scene.ask("POST", "/captures/delete", {"id": first}) == (200, {"deleted": 1})
        assert (await scene.ask("GET", f"/captures/{first}"))[0] == 404
        page = (await scene.ask("GET", "/captures"))[1]
        assert page["exchanges"] == 2 and page["bytes"] < used
        assert await scene.ask("POST", "/captures/delete", {"all": True}) == (200, {"deleted": 2})
        assert (await scene.ask("GET", "/captures"))[1]["bytes"] == 0
        assert await scene.ask("POST", "/captures/delete", {"all": True}) == (200, {"deleted": 0})


@pytest.mark.parametrize("asked", [{}, {"all": 1}, {"id": 1}, {"all": False, "id": None}])
async def test_a_deletion_that_names_nothing_deletes_nothing(tmp_path: Path, asked: dict[str, Any]) -> None:
    async with opened(tmp_path) as scene:
        await scene.capture(get("/x"))
        assert await scene.refusal("POST", "/captures/delete", asked) == (400, "Name a captured exchange, or all.")
        assert (await scene.ask("GET", "/captures"))[1]["exchanges"] == 1


@pytest.mark.parametrize(("body", "reason"), [
    (b"{", "The body is not JSON."), (b"\xff", "The body is not JSON."), (b"[" * 60_000, "The body is not JSON."),
    (b"[]", "The body is not an object."), (b'"x"', "The body is not an object."),
])
async def test_a_body_that_is_no_object_is_refused(tmp_path: Path, body: bytes, reason: str) -> None:
    async with opened(tmp_path) as scene:
        for action in ("start", "replay", "delete"):
            assert await scene.refusal("POST", f"/captures/{action}", body) == (400, reason)


async def test_a_large_body_is_refused_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        responder = RecordingResponder()
        handler = scene.admin(LocalRequest("POST", "/captures/delete", True), responder)
        handler.feed(b" " * MAX_BODY, False)
        assert not responder.ended
        handler.feed(b" ", False)
        assert responder.ended and responder.response is not None and responder.response.status == 413
        handler.feed(b'{"all": true}', True)  # the rest of the body changes nothing


@pytest.mark.parametrize(("asked", "reason"), [
    ({"colour": 1, "a": 2}, "Unknown: a, colour."), ({"slow_s": "1s"}, "`slow_s` is not a number of seconds."),
    ({"slow_s": -1}, "`slow_s` is not a number of seconds."), ({"slow_s": True}, "`slow_s` is not a number of seconds."),
    (b'{"slow_s": NaN}', "`slow_s` is not a number of seconds."),
    ({"id": 1}, "`id` is not a text."), ({"route": "all"}, "`route` is not a list of texts."),
    ({"status": [503]}, "`status` is not a list of texts."), ({"model": ["x"] * 101}, "`model` is not a list of texts."),
    ({"exchanges": 0}, f"`exchanges` is not a number from 1 to {MAX_EXCHANGES}."),
    ({"for_s": MAX_S + 1}, f"`for_s` is not a number from 0.1 to {MAX_S:g}."),
    ({"keep_s": "1h"}, f"`keep_s` is not a number from 0.1 to {MAX_S:g}."),
    ({"body_bytes": True}, f"`body_bytes` is not a number from 0 to {MAX_BODY_BYTES:g}."),
    (b'{"bytes": NaN}', f"`bytes` is not a number from 1 to {MAX_BYTES:g}."),
])
async def test_settings_that_cannot_be_used_are_refused_and_nothing_begins(tmp_path: Path, asked: Any, reason: str) -> None:
    async with opened(tmp_path) as scene:
        assert await scene.refusal("POST", "/captures/start", asked) == (400, reason)
        assert scene.captures.running is None


@pytest.mark.parametrize(("asked", "wanted"), [
    ({"route": ["al*"]}, {"/fine", "/bad"}), ({"route": ["other"]}, set()), ({"status": ["5xx"]}, {"/bad"}),
    ({"errors": True}, {"/bad"}), ({"slow_s": 3600}, set()), ({"id": "mine"}, {"/fine"}), ({"upstream": ["web"], "status": ["200"]}, {"/fine"}),
])
async def test_only_what_the_filters_accept_is_kept(tmp_path: Path, asked: dict[str, Any], wanted: set[str]) -> None:
    async def script(side: Side) -> None:
        while True:
            head, _ = await side.message()
            side.write(ANSWER if b"/fine" in head else ANSWER.replace(b"200 OK", b"500 No"))

    async with opened(tmp_path, script) as scene:
        started = scene.start(**asked)
        await scene.h.ask(get("/fine", "X-Request-ID: mine"))
        await scene.h.ask(get("/bad"))
        await scene.h.accounted(2)
        assert {one["record"]["path"] for one in await started.captured(len(wanted))} == wanted
        started.handler.close()


async def test_of_bodies_as_much_is_kept_as_was_asked_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        (identity,) = await scene.capture(post(b"x" * 50_000), body_bytes=1000)
        body = (await scene.ask("GET", f"/captures/{identity}"))[1]["request"]["body"]
        assert (body["size"], body["missing"], body["text"], body["tail_text"]) == (50_000, 49_000, "x" * 500, "x" * 500)


async def test_only_one_capture_is_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        started = scene.start()
        status, reason = await scene.refusal("POST", "/captures/start", {})
        assert status == 409 and reason.startswith("A capture is on already; it ends in ")
        assert not started.responder.ended and scene.captures.running is not None
        started.handler.close()


async def test_a_capture_ends_with_its_client(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        started = scene.start()
        written = started.responder.written
        started.handler.close()
        assert scene.captures.running is None and '"client"' not in started.responder.written.decode()
        await scene.h.ask(get("/after"))
        await scene.h.accounted(1)
        assert started.responder.written == written and not list(scene.captures.exchanges())
        assert "Its client has left" in scene.h.log_output.getvalue()
        started.handler.unhold()


async def test_a_client_that_leaves_after_the_end_ends_no_other_capture(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        first = scene.start(exchanges=1)
        await scene.h.ask(get("/x"))
        await first.ended()
        second = scene.start()
        first.handler.close()
        assert scene.captures.running is not None
        second.handler.close()
        assert scene.captures.running is None


async def test_a_capture_ends_with_its_time_and_when_its_configuration_is_replaced(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        assert (await scene.start(for_s=0.1).ended())["reason"] == "time"
        started = scene.start()
        started.responder.superseded = True
        assert (await started.ended())["reason"] == "stopping"


async def test_a_slow_client_gets_everything_later_and_delays_no_request(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        started = scene.start(exchanges=3)
        started.responder.has_room = False
        for number in range(3):
            await scene.h.ask(get(f"/{number}"))
            if number == 0:
                await started.captured(1)  # the piece that fills the connection
        await until(lambda: scene.captures.running is None)
        assert len(await started.captured(1)) == 1 and not started.responder.ended
        started.handler.unhold()
        assert [one["event"] for one in started.events] == ["capture_started", *["captured"] * 3, "capture_ended"]
        assert started.responder.ended
        started.handler.unhold()
        started.handler.close()


async def test_a_slow_client_that_gets_room_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        started = scene.start()
        started.responder.has_room = False
        await scene.h.ask(get("/0"))
        await started.captured(1)
        await scene.h.ask(get("/1"))
        await until(lambda: len(list(scene.captures.exchanges())) == 2)
        started.responder.has_room = True
        started.handler.unhold()
        assert len(await started.captured(2)) == 2
        started.handler.unhold()  # nothing waits
        await scene.h.ask(get("/2"))
        assert len(await started.captured(3)) == 3
        started.handler.close()


@pytest.mark.parametrize(("method", "path", "options", "wanted"), [
    ("GET", "/captures", {"write": False}, 403), ("GET", "/captures/abc", {"write": False}, 403),
    ("POST", "/captures/start", {"write": False}, 403), ("POST", "/captures/replay", {"write": False}, 403),
    ("POST", "/captures/start", {"cross": True}, 403), ("POST", "/captures/delete", {"cross": True}, 403),
    ("GET", "/captures/start", {}, 405), ("POST", "/captures", {}, 405), ("DELETE", "/captures/abc", {}, 405),
])
async def test_who_may_see_and_change(tmp_path: Path, method: str, path: str, options: dict[str, bool], wanted: int) -> None:
    async with opened(tmp_path) as scene:
        await scene.capture(get("/x", "X-Request-ID: abc"))
        assert (await scene.ask(method, path, {"all": True}, **options))[0] == wanted
        assert len(list(scene.captures.exchanges())) == 1 and scene.captures.running is None


async def test_a_client_that_has_left_gets_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        responder = RecordingResponder()
        handler = scene.admin(LocalRequest("POST", "/captures/start", True), responder)
        handler.close()
        handler.feed(b"", True)
        assert responder.response is None and scene.captures.running is None


async def test_a_page_that_takes_several_turns_is_whole_or_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as scene:
        (identity,) = await scene.capture(post(b"x" * (2 * TEXT_BLOCK)))
        monkeypatch.setattr("relayd.proxy.steps.TURN_S", -1.0)
        handler, responder = scene.begin("GET", f"/captures/{identity}")
        assert not responder.ended
        handler.feed(b"more", True)
        await until(lambda: responder.ended)
        assert json.loads(responder.written)["request"]["body"]["text"] == "x" * (2 * TEXT_BLOCK)
        handler.close()
        handler, responder = scene.begin("GET", f"/captures/{identity}")
        handler.close()
        await turned()
        assert responder.response is None


async def test_a_replay_shows_the_new_exchange_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    count = 0

    async def script(side: Side) -> None:
        nonlocal count
        while True:
            await side.message()
            count += 1
            side.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % count)

    async with opened(tmp_path, script) as scene:
        (identity,) = await scene.capture(post(b"question", path="/a?b=c"))
        before = scene.captures.describe()
        status, page = await scene.ask("POST", "/captures/replay", {"id": identity[:8]})
        assert status == 200 and page["response"]["body"]["text"] == "2" and page["request"]["body"]["text"] == "question"
        assert page["record"]["replay_of"] == identity and page["request"]["target"] == "/a?b=c"
        assert scene.captures.describe() == before


async def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        (identity,) = await scene.capture(post(b"question", "Cookie: id=secret", path="/a?b=c"))
        asked = {"id": identity, "model": "m2", "dry_run": True}
        assert await scene.ask("POST", "/captures/replay", asked) == (200, {
            "id": identity, "upstream": "web", "model": "m2", "method": "POST", "target": "/a?b=c",
            "fields": ["Host: relay.example", "Content-Length: 8"], "body_bytes": 8,
        })
        await scene.h.accounted(1)


@pytest.mark.parametrize(("asked", "wanted"), [
    ({"upstream": "none"}, (409, "There is no upstream none; the upstreams are: web.")),
    ({"upstream": 1}, (400, "`upstream` is not a text.")), ({"model": None}, (400, "`model` is not a text.")),
    ({"id": ["x"]}, (400, "`id` is not a text.")),
])
async def test_a_replay_that_is_not_possible_says_why(tmp_path: Path, asked: dict[str, Any], wanted: tuple[int, str]) -> None:
    async with opened(tmp_path) as scene:
        (identity,) = await scene.capture(get("/x"))
        assert await scene.refusal("POST", "/captures/replay", {"id": identity, **asked}) == wanted
        await scene.h.accounted(1)


async def test_a_client_that_leaves_ends_its_replay(tmp_path: Path) -> None:
    waits, left = asyncio.Event(), asyncio.Event()

    async def script(side: Side) -> None:
        await side.message()
        side.write(ANSWER)
        await side.message()
        waits.set()
        await side.gone()
        left.set()

    async with opened(tmp_path, script) as scene:
        (identity,) = await scene.capture(get("/x"))
        before = scene.captures.describe()
        handler, responder = scene.begin("POST", "/captures/replay", {"id": identity})
        await asyncio.wait_for(waits.wait(), 60)
        handler.close()
        await asyncio.wait_for(left.wait(), 60)
        records = await scene.h.accounted(2)
        assert records[1].code == "client_gone" and responder.response is None
        await until(lambda: scene.captures.describe() == before)


async def test_a_client_that_leaves_while_its_replay_is_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[CapturedExchange] = []

    def endless(captured: CapturedExchange, now_s: float) -> Steps[bytes]:
        written.append(captured)
        while True:
            yield

    async with opened(tmp_path) as scene:
        (identity,) = await scene.capture(get("/x"))
        before = scene.captures.describe()
        monkeypatch.setattr("relayd.server.admin_captures.document_steps", endless)
        handler, responder = scene.begin("POST", "/captures/replay", {"id": identity})
        await until(lambda: written)
        assert scene.captures.describe() != before
        handler.close()
        assert scene.captures.describe() == before and responder.response is None


async def test_a_replay_that_cannot_be_captured_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(plan: object) -> None:
        raise ValueError("a fault")

    async with opened(tmp_path) as scene:
        (identity,) = await scene.capture(get("/x"))
        before = scene.captures.describe()
        scene.captures._masks = None
        monkeypatch.setattr("relayd.proxy.capture.Masks", fails)
        assert await scene.refusal("POST", "/captures/replay", {"id": identity}) == (500, "The replay failed.")
        assert "a fault" in caplog.text and scene.captures.describe() == before


async def test_kept_exchanges_expire(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        began = clock.monotonic()
        await scene.capture(get("/x"), keep_s=0.1)
        await until(lambda: not list(scene.captures.exchanges()))
        assert clock.monotonic() - began >= 0.1 and (await scene.ask("GET", "/captures"))[1]["captures"] == []
