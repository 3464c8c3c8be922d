"""Sessions for the admin application: what is listed, shown, deleted and imported, and by whom."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from relayd.proxy.application import LocalRequest
from relayd.proxy.client_session import key_of
from relayd.proxy.gateway import Gateway
from relayd.server.admin_application import AdminApplication
from relayd.server.admin_sessions import MAX_BODY
from relayd.server.admin_views import AdminViews, ProcessState
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.unit.proxy.fakes import plan_of
from tests.unit.server.recording_responder import RecordingResponder

PLAN = """
listeners: {public: {address: "127.0.0.1:8282"}}
sessions: {size: 100}
routes: [{name: data, upstream: sessions}]
"""
ONE, TWO, OPEN = key_of(b"one"), key_of(b"two"), key_of(b"open")


class Scene:
    def __init__(self) -> None:
        self.telemetry = Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO())
        self.client = StreamClient(force_instance=True)
        self.gateway = Gateway(self.client, self.telemetry)
        self.gateway.plan = plan_of(PLAN)
        self.admin = AdminApplication(AdminViews(self.gateway, self.telemetry, ProcessState("relayd.yaml")), {})
        for consumer, key, document in (("team", ONE, {"a": 1}), ("team", TWO, 2), ("", OPEN, [])):
            self.gateway.space(f"session:{consumer}", 60.0).put(key, document)
        self.gateway.space("session-endpoints:team", 60.0).put(ONE, {"web": "host:1"})
        self.gateway.space("team", 60.0).put("response:x", {})

    async def ask(self, method: str, path: str, document: Any = None, *, write: bool = True, cross: bool = False) -> tuple[int, Any]:
        responder = RecordingResponder()
        handler = self.admin(LocalRequest(method, path, write, cross), responder)
        if not responder.ended:
            handler.feed(b"" if document is None else document if isinstance(document, bytes) else json.dumps(document).encode(), True)
        while not responder.ended:  # larger work takes several turns of the loop
            await asyncio.sleep(0)
        assert responder.response is not None
        handler.close()
        return responder.response.status, json.loads(responder.written)

    async def listed(self) -> set[str]:
        return {one["id"] for one in (await self.ask("GET", "/sessions"))[1]["sessions"]}


@contextlib.contextmanager
def opened() -> Iterator[Scene]:
    made = Scene()
    try:
        yield made
    finally:
        made.client.close()
        made.telemetry.close()


async def test_sessions_are_listed_and_nothing_else() -> None:
    with opened() as scene:
        status, page = await scene.ask("GET", "/sessions")
        assert status == 200 and page["omitted"] == 0
        assert {(one["id"], one["consumer"]) for one in page["sessions"]} == {(ONE, "team"), (TWO, "team"), (OPEN, "")}
        assert all(one["size_bytes"] > 0 and 0 < one["expires_in_s"] <= 60 for one in page["sessions"])


async def test_one_session_is_shown_by_the_beginning_of_its_digest() -> None:
    with opened() as scene:
        for named in (ONE, ONE[:6]):
            status, page = await scene.ask("GET", f"/sessions/{named}")
            assert (status, page["id"], page["document"], page["endpoints"]) == (200, ONE, {"a": 1}, {"web": "host:1"})
        assert (await scene.ask("GET", f"/sessions/{OPEN}"))[1]["endpoints"] == {}
        assert (await scene.ask("GET", f"/sessions/{ONE[:5]}"))[0] == 404 and (await scene.ask("GET", f"/sessions/{'0' * 32}"))[0] == 404
        scene.gateway.space("session:other", 60.0).put(ONE, {})
        assert (await scene.ask("GET", f"/sessions/{ONE}"))[0] == 409


@pytest.mark.parametrize(("asked", "left"), [
    ({"key": ONE}, {TWO, OPEN}), ({"consumer": "team"}, {OPEN}), ({"consumer": ""}, {ONE, TWO}), ({"all": True}, set()),
    ({"consumer": "tea"}, {ONE, TWO, OPEN}),
])
async def test_sessions_are_deleted(asked: dict[str, Any], left: set[str]) -> None:
    with opened() as scene:
        status, page = await scene.ask("POST", "/sessions/forget", asked)
        assert status == 200 and page["forgotten"] == 3 - len(left) and (await scene.listed()) == left
        assert (scene.gateway.space("session-endpoints:team", 60.0).get(ONE) is None) is (ONE not in left)
        assert scene.gateway.space("team", 60.0).get("response:x") == {}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"{}", b'{"all":1}', b"[" * 100_000])
async def test_a_request_that_names_nothing_is_refused(body: bytes) -> None:
    with opened() as scene:
        assert (await scene.ask("POST", "/sessions/forget", body))[0] == 400 and len(await scene.listed()) == 3


async def test_sessions_are_imported_once() -> None:
    with opened() as scene:
        new, large = key_of(b"new"), key_of(b"large")
        asked = {"consumer": "team", "sessions": {new: {"n": 1}, ONE: {"replaced": True}, large: "x" * 200}}
        for dry in (True, False):
            status, page = await scene.ask("POST", "/sessions/import", {**asked, "dry_run": dry})
            assert status == 200 and page["stored"] == 1 and set(page["skipped"]) == {ONE, large}
            assert (new in await scene.listed()) is not dry
        assert (await scene.ask("GET", f"/sessions/{ONE}"))[1]["document"] == {"a": 1}
        assert (await scene.ask("POST", "/sessions/import", asked))[1]["stored"] == 0
        assert (await scene.ask("POST", "/sessions/import", {"sessions": {"short": 1}}))[0] == 400
        assert (await scene.ask("POST", "/sessions/import", {}))[0] == 400
        assert (await scene.ask("POST", "/sessions/import", b"x" * (MAX_BODY + 1)))[0] == 413


@pytest.mark.parametrize(("method", "path", "options", "wanted"), [
    ("GET", "/sessions", {"write": False}, 403), ("GET", f"/sessions/{ONE}", {"write": False}, 403),
    ("POST", "/sessions/forget", {"write": False}, 403), ("POST", "/sessions/forget", {"cross": True}, 403),
    ("GET", "/sessions/forget", {}, 405), ("POST", "/sessions", {}, 405), ("DELETE", f"/sessions/{ONE}", {}, 405),
])
async def test_who_may_see_and_change(method: str, path: str, options: dict[str, bool], wanted: int) -> None:
    with opened() as scene:
        assert (await scene.ask(method, path, {"all": True}, **options))[0] == wanted and len(await scene.listed()) == 3


async def test_a_client_that_has_left_gets_nothing() -> None:
    with opened() as scene:
        responder = RecordingResponder()
        handler = scene.admin(LocalRequest("GET", "/sessions", True), responder)
        handler.close()
        handler.feed(b"", True)
        assert responder.response is None
