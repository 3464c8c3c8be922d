"""What is held about consumers is listed and deleted; in a real Redis no faster than it is written."""

from __future__ import annotations

import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from relayd.limits.counter import Rule
from relayd.limits.ledger import Reservation
from relayd.limits.window import Span
from relayd.proxy.gateway import Gateway
from relayd.server import admin_state
from relayd.stores import _redis_writes
from relayd.stores._redis_store import RedisStore
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.functional.harness.redis import Redis, needs_redis
from tests.unit.stores.redis_aids import settings, until

ENTRIES = 1000
RULE = Rule("consumer ann", "requests", 5, Span("total"))


class Spend:
    """The spend that was written. `error` is raised instead of an answer."""

    def __init__(self) -> None:
        self.saved = {"ann": 3, "bob": 1}
        self.error: sqlite3.Error | None = None

    async def rows(self) -> dict[str, int]:
        if self.error is not None:
            raise self.error
        return self.saved

    async def forget(self, consumer: str) -> int:
        return self.saved.pop(consumer, 0)

    def describe(self) -> dict[str, str]:
        return {"file": "/s/ledger.sqlite", "fault": "", "cure": ""}


def gateway_with(spend: Spend | None) -> Gateway:
    gateway = Gateway(StreamClient(force_instance=True), Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO()))
    gateway.saved_spend = spend
    for space, key in (("ann", "response"), ("ann", "other"), ("session:ann", "one"), ("session-endpoints:ann", "one"), ("bob", "response"), ("annex", "x")):
        gateway.space(space, 60.0).put(key, {})
    counter = gateway.ledger.counter(RULE)
    gateway.ledger.apply([counter])
    reserved = gateway.ledger.reserve([(counter, 2)], gateway.ledger.now())
    assert isinstance(reserved, Reservation)
    reserved.settle([2])
    return gateway


async def ask(gateway: Gateway, path: str) -> tuple[int, Any]:
    status, _, text = (await admin_state.act(gateway, path)).page()
    return status, json.loads(text)


async def counts(gateway: Gateway) -> dict[str, dict[str, int]]:
    """The number of entries by consumer and kind."""
    found: dict[str, dict[str, int]] = {}
    for one in (await ask(gateway, "/state/show"))[1]["state"]:
        found.setdefault(one["consumer"], {})[one["kind"]] = one["entries"]
    return found


ANN = {"stored": 2, "session": 1, "session_endpoint": 1, "window": 1, "spend": 3}
OTHERS = {"annex": {"stored": 1}, "bob": {"stored": 1, "spend": 1}}


async def test_a_consumer_is_shown_and_forgotten_and_others_stay() -> None:
    gateway = gateway_with(Spend())
    assert await counts(gateway) == {"ann": ANN, **OTHERS}
    assert await ask(gateway, "/state/dry/ann") == (200, {"consumer": "ann", "cached": 0, **ANN})
    assert await counts(gateway) == {"ann": ANN, **OTHERS}
    assert await ask(gateway, "/state/forget/a%6En") == (200, {"consumer": "ann", "cached": 0, **ANN})
    assert await counts(gateway) == OTHERS


async def test_many_entries_are_deleted_in_turns() -> None:
    gateway = gateway_with(None)
    for number in range(3 * admin_state.DELETED_AT_ONCE):
        gateway.space("ann", 60.0).put(str(number), number)
    assert (await ask(gateway, "/state/forget/ann"))[1]["stored"] == 3 * admin_state.DELETED_AT_ONCE + 2
    assert set(await counts(gateway)) == {"annex", "bob"}


async def test_spend_that_cannot_be_read_is_an_error() -> None:
    spend = Spend()
    spend.error = sqlite3.OperationalError("database is locked")
    status, page = await ask(gateway_with(spend), "/state/forget/ann")
    assert status == 503 and "database is locked" in page["error"]["message"]


@pytest.mark.parametrize("path", ["/state/", "/state/show/ann", "/state/forget/", "/state/dry", "/state/other/ann"])
async def test_other_paths_are_no_action(path: str) -> None:
    gateway = gateway_with(Spend())
    assert (await ask(gateway, path))[0] == 404
    assert await counts(gateway) == {"ann": ANN, **OTHERS}



@needs_redis()
async def test_more_entries_are_deleted_than_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_state, "MOST_UNWRITTEN", 100)
    with Redis(tmp_path / "redis") as redis:
        gateway = Gateway(
            StreamClient(force_instance=True), Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO())
        )
        gateway.store = store = RedisStore(settings(redis.port), 10_000, 64 * 1024 * 1024, 3600.0)
        await until(lambda: store.server.available)
        for number in range(ENTRIES):
            store.space("ann").put(str(number), number)
        await until(lambda: store.describe()["waiting"] == 0)
        monkeypatch.setattr(_redis_writes, "WAITING_CHANGES", 300)
        assert (await admin_state.forget(gateway, "ann", dry_run=False))["stored"] == ENTRIES
        await until(lambda: store.describe()["waiting"] == 0)
        assert await admin_state.show(gateway) == [] and store.faults == 0
        redis.kill()
        await until(lambda: not store.server.available)
        status, page = await ask(gateway, "/state/forget/ann")
        assert status == 503 and "cannot be reached" in page["error"]["message"]
        store.close()
