"""The OpenAPI document describes what is served: every page, action and front, and nothing else."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from relayd.protocols.dialect import run_steps
from relayd.proxy.application import LocalRequest
from relayd.proxy.gateway import Gateway
from relayd.server.admin_application import AdminApplication
from relayd.server.admin_live import ACTIONS
from relayd.server.admin_views import AdminViews, ProcessState, ReloadResult
from relayd.server.openapi import document, fronts
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.unit.proxy.fakes import UPSTREAM, plan_of
from tests.unit.server.recording_responder import RecordingResponder

CHAT = "upstreams: {web: {protocol: openai_chat, endpoints: [\"http://origin.example:9001\"]}}"
PLAN = UPSTREAM.replace('upstreams: {web: {endpoints: ["http://origin.example:9001"]}}', CHAT)


async def reload() -> ReloadResult:
    """Reload, and return the result."""
    return ReloadResult(True, 1)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[AdminViews]:
    """The views of a process without a plan."""
    telemetry, client = Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO()), StreamClient(force_instance=True)
    views = AdminViews(Gateway(client, telemetry), telemetry, ProcessState("relayd.yaml", phase="serving"))
    yield views
    client.close()
    telemetry.close()


def made(views: AdminViews, routes: str = "[{name: all, upstream: web}]") -> dict[str, Any]:
    return run_steps(document(views, {"/reload": reload}, plan_of(f"{PLAN}routes: {routes}\n")))


def asked(application: AdminApplication, method: str, path: str) -> dict[str, int]:
    responder = RecordingResponder()
    application(LocalRequest(method, path, True), responder).feed(b"", True)
    status = 0 if responder.response is None else responder.response.status
    return {"status": status, "unknown": b"There is no such action" in responder.written}


async def test_every_page_and_action_of_the_application_is_described() -> None:
    async with running() as views:
        data, application = made(views), AdminApplication(views, {"/reload": reload})
        for path, item in data["paths"].items():
            (method,) = set(item) - {"servers"}
            concrete = re.sub(r"\{\w+\}", quote("a b", safe=""), path)
            if "servers" not in item and path != "/reload":
                found = asked(application, method.upper(), concrete)
                documented = {int(status) for status in item[method]["responses"]}
                assert found["status"] in documented | {0} and not found["unknown"], path
            assert item[method]["summary"], path
        described = set(data["paths"])
        assert set(views.pages) | set(ACTIONS) | {"/events", "/records", "/reload"} <= described
        names = [item[method]["operationId"] for item in data["paths"].values() for method in item if method != "servers"]
        assert len(names) == len(set(names))


async def test_a_page_is_described_by_the_members_that_it_has() -> None:
    async with running() as views:
        (content,) = made(views)["paths"]["/ping"]["get"]["responses"]["200"]["content"].values()
        assert content["schema"] == {"type": "object", "required": ["ping"], "properties": {"ping": {"type": "string"}}}
        assert set(made(views)["paths"]["/health"]["get"]["responses"]) == {"200", "503"}


@pytest.mark.parametrize(("match", "paths"), [
    ("{prefix: /v1/}", ["/v1/chat/completions"]), ("{prefix: /}", ["/v1/chat/completions"]), ("{}", ["/v1/chat/completions"]),
    ("{prefix: /ai/}", ["/ai/chat/completions"]), ("{prefix: /v1/chat/}", ["/v1/chat/completions"]),
    ("{path: /x/chat/completions}", ["/x/chat/completions"]), ("{path: /other}", []),
    ('{regex: "/v1/chat/[a-z]+"}', ["/v1/chat/completions"]), ('{regex: "/nothing"}', []),
])
async def test_a_front_is_described_where_its_route_serves_it(match: str, paths: list[str]) -> None:
    async with running() as views:
        data = made(views, f"[{{name: chat, match: {match}, protocol: openai_chat, upstream: web}}]")
        assert [path for path, item in data["paths"].items() if "servers" in item] == paths
        if paths:
            body = data["paths"][paths[0]]["post"]["requestBody"]["content"]["application/json"]
            assert body["schema"] == {"$ref": "#/components/schemas/openai_chat"}


def test_the_members_of_a_front_are_those_that_its_reader_reads() -> None:
    chat = fronts()["openai_chat"]["schema"]
    assert chat["required"] == ["messages", "model"] and chat["properties"]["stop"] == {"type": ["string", "array"]}
    assert fronts()["anthropic_messages"]["schema"]["required"] == ["max_tokens", "messages", "model"]
    assert set(fronts()) >= {"openai_chat", "openai_responses", "anthropic_messages", "simple_chat", "dialogflow"}
