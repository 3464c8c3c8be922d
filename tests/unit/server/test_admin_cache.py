"""The caches of routes are listed and purged."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from relayd.proxy.cache_use import SPACE
from relayd.proxy.gateway import Gateway
from relayd.server import admin_cache, admin_state
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.unit.config.test_cache import BASE
from tests.unit.proxy.fakes import plan_of

ENTRIES = (("llm", "ann/a"), ("llm", "ann/b"), ("llm", "ci/bob/c"), ("llm-2", "ann/d"), ("gone", "/e"))


@pytest.fixture
def gateway() -> Gateway:
    found = Gateway(StreamClient(force_instance=True), Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO()))
    found.plan = plan_of(BASE + "routes: [{name: llm, upstream: provider, cache: {size: 1MiB}}, {name: new, upstream: provider, cache: {}}]\n")
    for route, key in ENTRIES:
        found.space(SPACE + route, 60.0).put(key, {})
    found.space("ann", 60.0).put("x", {})
    return found


async def ask(gateway: Gateway, path: str) -> tuple[int, Any]:
    status, _, text = (await admin_cache.act(gateway, path)).page()
    return status, json.loads(text)


async def counts(gateway: Gateway) -> dict[tuple[str, str], tuple[int, int | None]]:
    status, page = await ask(gateway, "/cache/show")
    assert status == 200
    return {(one["route"], one["consumer"]): (one["entries"], one["size"]) for one in page["caches"]}


ALL = {("gone", ""): (1, None), ("llm", "ann"): (2, 1 << 20), ("llm", "ci/bob"): (1, 1 << 20), ("llm-2", "ann"): (1, None), ("new", ""): (0, 64 << 20)}


async def test_routes_and_consumers_are_shown(gateway: Gateway) -> None:
    assert await counts(gateway) == ALL


async def test_one_route_is_purged_and_others_stay(gateway: Gateway) -> None:
    status, page = await ask(gateway, "/cache/dry/llm")
    assert (status, page["entries"]) == (200, 3) and await counts(gateway) == ALL
    assert (await ask(gateway, "/cache/purge/llm"))[1]["entries"] == 3
    assert await counts(gateway) == {key: value for key, value in ALL.items() if key[0] != "llm"} | {("llm", ""): (0, 1 << 20)}
    assert gateway.space("ann", 60.0).get("x") == {}


async def test_one_consumer_of_a_route_is_purged(gateway: Gateway) -> None:
    assert (await ask(gateway, "/cache/purge/llm/ci%2Fbob"))[1]["entries"] == 1
    assert ("llm", "ci/bob") not in await counts(gateway) and ("llm", "ann") in await counts(gateway)


async def test_forgetting_a_consumer_deletes_its_answers_in_all_routes(gateway: Gateway) -> None:
    found = await admin_state.forget(gateway, "ann", dry_run=False)
    assert (found["cached"], found["stored"]) == (3, 1)
    assert set(await counts(gateway)) == {("gone", ""), ("llm", "ci/bob"), ("new", "")}
    held = [one for one in await admin_state.show(gateway) if one["kind"] == "cached"]
    assert [(one["consumer"], one["entries"]) for one in held] == [("", 1), ("ci/bob", 1)]


@pytest.mark.parametrize("path", ["/cache/", "/cache/show/x", "/cache/purge", "/cache/purge/", "/cache/purge/a/b/c", "/cache/other/llm"])
async def test_other_paths_are_no_actions(gateway: Gateway, path: str) -> None:
    assert (await ask(gateway, path))[0] == 404


async def test_a_server_that_cannot_be_asked_is_an_error(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(gateway.store), "must_fetch", True)
    monkeypatch.setattr(gateway, "is_store_degraded", lambda: True)
    assert (await ask(gateway, "/cache/show"))[0] == 503
