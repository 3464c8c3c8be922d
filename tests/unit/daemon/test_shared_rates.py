"""Rates of several instances before one real Redis: one limit for all, reports of failures, reloads of the store."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.config.load import load_text
from relayd.daemon import shared_rates
from relayd.daemon.shared_rates import RatesServer, SharedRates
from relayd.daemon.timers import Timers
from relayd.limits.counter import REQUESTS, Rule
from relayd.limits.ledger import Exceeded
from relayd.limits.shared_calls import Failed
from relayd.limits.shared_reservation import Decision, SharedReservation, Unavailable
from relayd.limits.shared_scripts import SYNC
from relayd.limits.window import Span
from relayd.plan.compile import compile_plan
from relayd.proxy.gateway import Gateway
from relayd.stores.memory import Store as MemoryStore
from relayd.stores.redis import Store as RedisStore
from relayd.telemetry.names import METRICS
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.functional.harness.redis import Redis, needs_redis
from tests.unit.stores.redis_aids import connected, settings, until

pytestmark = needs_redis()
LIMIT = 5
RATE = Rule("consumer team", REQUESTS, LIMIT, Span.sliding(3600))
TEXT = "listeners: {{p: {{address: '127.0.0.1:1'}}}}\nroutes: [{{name: all, respond: 204}}]\nstore: {store}"
(GAUGE,) = (one for one in METRICS if one.name == "relayd.limits.shared")


class Instance:
    """One relayd: a gateway with one rate, and the service that counts it in the store."""

    def __init__(self) -> None:
        self.log = io.StringIO()
        telemetry = Telemetry.build(TelemetrySettings(access_format="off"), self.log)
        self.metrics = telemetry.metrics
        self.gateway = Gateway(StreamClient(force_instance=True), telemetry)
        self.counter = self.gateway.ledger.counter(RATE)
        self.gateway.ledger.apply([self.counter])
        self.service = SharedRates(self.gateway)
        self.timers = Timers(asyncio.get_running_loop())
        self.stores: list[RedisStore] = []

    def reload(self, store: str) -> None:
        """Bring a configuration with this `store:` into force, on the store that is open."""
        self.service.commit(compile_plan(load_text(TEXT.format(store=store), "relayd.yaml").config, 1, None))

    def share(self, redis: Redis, prefix: str, on_failure: str = "local") -> None:
        """Open a store in Redis, and bring its configuration into force."""
        self.stores.append(RedisStore(settings(redis.port, prefix=prefix), 10, 1 << 20, 60.0))
        self.gateway.store = self.stores[-1]
        self.reload(f"{{kind: redis, on_failure: {on_failure}}}")

    @property
    def is_shared(self) -> bool:
        return self.gateway.shared is not None and self.gateway.shared.is_shared

    async def request(self) -> Decision:
        """The decision about one request."""
        assert self.gateway.shared is not None
        found: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        decision = self.gateway.shared.reserve([(self.counter, 1)], found.set_result)
        return await found if decision is None else decision

    def gauge(self) -> list[float]:
        self.service.gauges()
        return [value for _, value in self.metrics.gauges(GAUGE)]

    def logged(self) -> list[str]:
        """The log events about sharing, in their order."""
        lines = self.log.getvalue().splitlines()
        return [name for line in lines for name in ("limits_shared", "limits_degraded") if name in line]

    def close(self) -> None:
        self.timers.close()
        for store in self.stores:
            store.close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def instances(count: int) -> AsyncIterator[list[Instance]]:
    found = [Instance() for _ in range(count)]
    try:
        yield found
    finally:
        for one in found:
            one.close()
        await asyncio.sleep(0)


async def test_all_instances_together_have_one_limit(redis: Redis) -> None:
    async with instances(2) as (one, other):
        for each in (one, other):
            each.share(redis, "together")
        await until(lambda: one.is_shared and other.is_shared)
        decisions = [await each.request() for each in (one, other, one, other, one, other, one)]
        assert [type(decision) for decision in decisions] == [SharedReservation] * LIMIT + [Exceeded] * 2
        assert one.gauge() == other.gauge() == [1] and one.logged() == ["limits_shared"]


async def test_a_refund_reaches_the_others(redis: Redis) -> None:
    async with instances(2) as (one, other):
        for each in (one, other):
            each.share(redis, "refund")
        await until(lambda: one.is_shared and other.is_shared)
        reservations = [await one.request() for _ in range(LIMIT)]
        assert isinstance(await other.request(), Exceeded)
        assert isinstance(reservations[0], SharedReservation)
        reservations[0].refund()
        await until(lambda: one.gateway.shared is not None and one.gateway.shared.is_settled)
        assert isinstance(await other.request(), SharedReservation)


async def test_status_follows_the_uses_of_other_instances(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_rates, "SYNC_S", 0.02)
    async with instances(2) as (one, other):
        other.service.start(other.timers)  # before it shares, and goes on when it does
        await asyncio.sleep(0.05)
        for each in (one, other):
            each.share(redis, "status")
        await until(lambda: one.is_shared and other.is_shared)
        for _ in range(3):
            await one.request()
        await until(lambda: other.counter.window.used == 3)


@pytest.mark.parametrize(("on_failure", "decision"), [("closed", Unavailable), ("open", SharedReservation)])
async def test_without_redis_on_failure_decides_and_the_log_says_so(
    on_failure: str, decision: type[Any], tmp_path: Path
) -> None:
    with Redis(tmp_path / "redis") as redis:
        async with instances(1) as (one,):
            one.share(redis, "failing", on_failure)
            await until(lambda: one.is_shared)
            for _ in range(LIMIT):
                await one.request()
            assert isinstance(await one.request(), Exceeded)
            redis.kill()
            await until(lambda: "limits_degraded" in one.logged())
            assert isinstance(await one.request(), decision) and one.gauge() == [0]
            event = next(line for line in one.log.getvalue().splitlines() if "limits_degraded" in line)
            assert f"on_failure={on_failure}" in event and ("connect" in event or "lost" in event)
            one.reload("{kind: redis, on_failure: local}")  # the reload applies during the failure
            assert isinstance(await one.request(), Exceeded)
            redis.start()
            await until(lambda: one.is_shared)
            assert one.logged() == ["limits_shared", "limits_degraded", "limits_shared"] and one.gauge() == [1]


async def test_a_reload_to_another_prefix_counts_there_from_then_on(redis: Redis) -> None:
    async with instances(2) as (one, other):
        one.share(redis, "before")
        other.share(redis, "after")
        await until(lambda: one.is_shared and other.is_shared)
        found = [await one.request() for _ in range(LIMIT)]
        assert isinstance(await one.request(), Exceeded)
        for each in found:
            assert isinstance(each, SharedReservation)
            each.refund()
        shared = one.gateway.shared
        one.share(redis, "after")
        assert one.gateway.shared is shared, "what was not sent yet goes to the new one"
        await until(lambda: one.is_shared)
        one.stores[0].close()  # the end of the old connections is no failure
        await asyncio.sleep(0)
        assert one.is_shared and one.logged() == ["limits_shared"]
        decisions = [await instance.request() for instance in (one, other, one, other, one, other)]
        assert [type(decision) for decision in decisions] == [SharedReservation] * LIMIT + [Exceeded]


async def test_a_reload_without_redis_shares_nothing(redis: Redis) -> None:
    async with instances(1) as (one,):
        one.share(redis, "off")
        await until(lambda: one.is_shared)
        one.gateway.store = MemoryStore(max_entries=10, max_bytes=1 << 20, ttl_s=60.0)
        one.reload("{kind: memory}")
        assert one.gateway.shared is None
        one.stores[0].close()
        await asyncio.sleep(0)
        assert one.logged() == ["limits_shared"]
        one.share(redis, "off")  # and back
        await until(lambda: one.is_shared)


async def test_only_a_call_that_was_sent_may_have_been_executed(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as redis:
        async with connected(settings(redis.port, prefix="unknown")) as server:
            rates = RatesServer(server)
            keys = [rates.key("rates", "instances"), rates.key("rates", "open", "me")]
            answers: list[Any] = []
            redis.pause()
            rates.call(SYNC, keys, ["", "me", 1], answers.append)
            await asyncio.sleep(0)  # it goes out at the end of the turn
            redis.kill()
            await until(lambda: answers)
            assert answers.pop() == Failed(unknown=True) and not rates.available
            rates.call(SYNC, keys, ["", "me", 2], answers.append)
            assert not answers, "in a later turn"
            await until(lambda: answers)
            assert answers.pop() == Failed(unknown=False)
