"""The pages of the admin application, without a socket."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relayd.config.load import load_text
from relayd.plan.compile import compile_plan
from relayd.proxy.application import LocalRequest
from relayd.proxy.gateway import Gateway
from relayd.server.admin_application import AdminApplication
from relayd.server.admin_views import JSON, AdminViews, ProcessState, Refusal, ReloadResult
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.unit.server.recording_responder import RecordingResponder

KEY = "sk-never-shown"
TEXT = f"""
listeners: {{public: {{address: "127.0.0.1:8282"}}}}
upstreams:
  first:
    endpoints: ["https://user:{KEY}@api.example.org/v1"]
    auth: {{bearer: {{env: RELAYD_TEST_KEY}}}}
    timeouts: {{total: 300s}}
    tls: {{verify: false}}
  second: {{endpoints: ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]}}
routes: [{{name: all, upstream: first}}]
"""
CLEAN = TEXT.replace(f"user:{KEY}@", "")


class Views:
    """Views over a gateway with nothing in flight."""

    def __init__(self, client: StreamClient) -> None:
        self.telemetry = Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO())
        self.gateway = Gateway(client, self.telemetry)
        self.state = ProcessState("/etc/relayd.yaml", phase="serving")
        self.views = AdminViews(self.gateway, self.telemetry, self.state)

    def plan(self) -> None:
        self.gateway.plan = compile_plan(load_text(CLEAN, "relayd.yaml").config, 7)

    def get(self, path: str, *, write: bool = False, method: str = "GET") -> tuple[int, Any]:
        data = RecordingResponder()
        handler = AdminApplication(self.views, {"/reload": self.reload})(LocalRequest(method, path, write), data)
        handler.feed(b"", True)
        while not data.ended:  # the rest of a large page
            self.gateway.client.work._run()
        assert data.response is not None
        body = data.written
        return data.response.status, json.loads(body) if data.response.get(b"content-type") == JSON else body

    async def reload(self) -> ReloadResult:
        return ReloadResult(True, 1)


@asynccontextmanager
async def admin_views() -> AsyncIterator[Views]:
    client = StreamClient(force_instance=True)
    views = Views(client)
    yield views
    client.close()
    views.telemetry.close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RELAYD_TEST_KEY", KEY)
    yield


async def test_health_has_the_keys_that_the_first_seed_promises() -> None:
    async with admin_views() as views:
        views.state.lag_s = lambda: 0.0125
        status, data = views.get("/health")
        assert status == 200
        assert data["status"] == "healthy"
        assert data["circuit_breaker"] == {"enabled": False, "is_open": False, "consecutive_failures": 0}
        assert data["loop_lag_ms"] == 12.5


async def test_api_health_has_exactly_the_shape_of_the_second_seed() -> None:
    async with admin_views() as views:
        views.plan()
        assert views.get("/api/health") == (
            200,
            {"status": "healthy", "target_url": "https://api.example.org/v1", "timeout": 300, "ssl_verify": False},
        )


async def test_health_answers_before_there_is_a_plan() -> None:
    async with admin_views() as views:
        for path in ("/health", "/api/health", "/ping", "/api/ping", "/status"):
            assert views.get(path)[0] == 200


@pytest.mark.parametrize(("phase", "draining", "wanted"), [
    ("starting", False, (503, "starting")), ("serving", False, (200, "ready")), ("serving", True, (503, "draining")),
])
async def test_ready_only_while_serving(phase: str, draining: bool, wanted: tuple[int, str]) -> None:
    async with admin_views() as views:
        views.state.phase, views.gateway.draining = phase, draining
        status, data = views.get("/ready")
        assert (status, data["status"]) == wanted


async def test_status_names_listeners_upstreams_endpoints_and_a_refusal_but_no_key() -> None:
    async with admin_views() as views:
        views.plan()
        views.state.refusal = Refusal(1.0, ("relayd.yaml:3:1: error: no",))
        status, data = views.get("/status")
        assert status == 200
        assert data["generation"] == 7
        assert data["listeners"] == [{"name": "public", "address": "127.0.0.1:8282", "tls": False}]
        assert [len(one["endpoints"]) for one in data["upstreams"]] == [1, 2]
        assert data["refused"]["findings"] == ["relayd.yaml:3:1: error: no"]
        assert data["exchanges"] == []
        assert KEY not in json.dumps(data)


async def test_metrics_are_in_the_format_of_prometheus() -> None:
    async with admin_views() as views:
        status, body = views.get("/metrics")
        assert status == 200
        assert b"# TYPE relayd_config_generation gauge" in body


@pytest.mark.parametrize(("method", "path", "wanted"), [
    ("GET", "/nothing", 404), ("POST", "/status", 405), ("DELETE", "/health", 405), ("HEAD", "/health", 200),
    ("GET", "/health/", 200), ("GET", "/", 404), ("GET", "", 404),
])
async def test_other_methods_and_paths(method: str, path: str, wanted: int) -> None:
    async with admin_views() as views:
        assert views.get(path, method=method)[0] == wanted


def test_a_refused_reload_is_422_with_every_finding() -> None:
    status, _, body = ReloadResult(False, 3, findings=("one", "two")).page()
    assert status == 422
    assert json.loads(body)["findings"] == ["one", "two"]
    assert ReloadResult(True, 4).page()[0] == 200
