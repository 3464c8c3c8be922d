"""Breakers of several instances before one real Redis: what one opens or closes the others follow, and one probes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relayd.config.load import load_text
from relayd.daemon.shared_breakers import HOLD_S, LEAST_IDLE_S, TICK_S, SharedBreakers
from relayd.daemon.timers import Timers
from relayd.plan.compile import compile_plan
from relayd.stores._redis_server import RedisServer
from relayd.upstream.breaker import Breaker
from relayd.upstream.event import UpstreamEvent
from relayd.upstream.upstream import Upstream
from tests.functional.harness.redis import Redis, needs_redis
from tests.unit.stores.redis_aids import command, settings, until

pytestmark = needs_redis()
TEXT = """
listeners: {{p: {{address: "127.0.0.1:1"}}}}
upstreams: {{u: {{endpoints: ["http://127.0.0.1:2", "http://127.0.0.1:3"], breaker: {{failures: 1, open_for: {open_for}}}}}}}
routes: [{{name: all, upstream: u}}]
"""


class Instance:
    """One relayd: its upstream, and the service that shares the breakers of it."""

    def __init__(self, redis: Redis, prefix: str, open_for: str) -> None:
        self.server = RedisServer(settings(redis.port, prefix=prefix, timeout_s=1.0))
        self.service = SharedBreakers(lambda: self.server)
        plan = compile_plan(load_text(TEXT.format(open_for=open_for), "relayd.yaml").config, 1, None)
        self.upstream: Upstream = plan.upstreams["u"]
        self.events: list[UpstreamEvent] = []
        self.upstream.on_change = self.events.append
        self.timers = Timers(asyncio.get_running_loop())
        self.service.commit(plan)
        self.service.start(self.timers)

    @property
    def breaker(self) -> Breaker:
        """That of the first endpoint."""
        found = self.upstream.endpoints[0].breaker
        assert found is not None
        return found

    @property
    def state(self) -> str:
        """As requests see it: an open time that is over has ended."""
        self.upstream.has_capacity()
        return self.breaker.state

    def fail(self, permit: int = 0) -> None:
        """An attempt at the first endpoint fails."""
        now_s = asyncio.get_running_loop().time()
        if self.breaker.failed(now_s, permit):
            self.upstream.notify(self.upstream.endpoints[0], "breaker_opened", "connect", now_s)

    def probe(self, succeeds: bool) -> None:
        """An attempt with a permit of the half-open breaker ends."""
        now_s, permit = asyncio.get_running_loop().time(), self.breaker.acquire_permit()
        assert permit
        if not succeeds:
            self.fail(permit)
        elif self.breaker.succeeded(now_s, permit):
            self.upstream.notify(self.upstream.endpoints[0], "breaker_closed", "a probe succeeded", now_s)

    def close(self) -> None:
        self.timers.close()
        self.service.close()
        self.server.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def instances(redis: Redis, prefix: str, count: int = 3, open_for: str = "1s") -> AsyncIterator[list[Instance]]:
    found = [Instance(redis, prefix, open_for) for _ in range(count)]
    try:
        await until(lambda: all(one.server.available for one in found))
        yield found
    finally:
        for one in found:
            one.close()
        await asyncio.sleep(0)


async def test_an_opening_is_known_to_the_others_within_a_second(shared: Redis) -> None:
    async with instances(shared, "opening", open_for="60s") as (one, *others):
        began_s = asyncio.get_running_loop().time()
        one.fail()
        await until(lambda: all(other.state == "open" for other in others))
        assert 2 * TICK_S < 1 and asyncio.get_running_loop().time() - began_s < 20  # a busy machine
        for other in others:
            assert [event.why for event in other.events] == ["it failed for another instance"]
            assert abs(other.breaker.until_s - one.breaker.until_s) < 5
            assert other.upstream.endpoints[1].breaker is not None
            assert other.upstream.endpoints[1].breaker.state == "closed" and other.upstream.has_capacity()
        late = Instance(shared, "opening", "60s")
        await until(lambda: late.state == "open")
        late.close()


async def test_one_instance_probes_and_all_close_when_it_succeeds(shared: Redis) -> None:
    async with instances(shared, "closing") as found:
        found[0].fail()
        await until(lambda: all(one.state == "open" for one in found))
        seen = []

        def half_open() -> list[Instance]:
            seen.append(sum(one.state == "half_open" for one in found))
            return [one for one in found if one.state == "half_open"]

        await until(half_open)
        prober, = half_open()
        permit = prober.breaker.acquire_permit()
        for _ in range(20):  # longer than a tick of each, and the probe goes on
            await asyncio.sleep(TICK_S / 5)
            half_open()
        assert max(seen) == 1
        prober.breaker.release_permit(permit)
        prober.probe(succeeds=True)
        await until(lambda: all(one.state == "closed" for one in found))


async def test_a_failed_probe_opens_it_for_all_again(shared: Redis) -> None:
    async with instances(shared, "again") as found:
        found[0].fail()
        await until(lambda: any(one.state == "half_open" for one in found))
        prober = next(one for one in found if one.state == "half_open")
        prober.probe(succeeds=False)
        before = await command(prober.server, "HGETALL", prober.server.key("breakers"))

        async def reported() -> bool:
            return bool(await command(prober.server, "HGETALL", prober.server.key("breakers")) != before)

        async with asyncio.timeout(30):
            while not await reported():
                await asyncio.sleep(0.02)
        assert all(one.state == "open" for one in found)


async def test_an_instance_without_requests_lets_another_one_probe(shared: Redis) -> None:
    async with instances(shared, "idle", count=2) as found:
        found[0].fail()
        await until(lambda: any(one.state == "half_open" for one in found))
        idle = next(one for one in found if one.state == "half_open")
        (busy,) = [one for one in found if one is not idle]
        await until(lambda: busy.state == "half_open")
        assert idle.state == "open" and idle.breaker.openings <= 1, "it has not failed again"
        busy.probe(succeeds=True)
        await until(lambda: idle.state == "closed")


async def test_a_single_instance_keeps_its_half_open_breaker(shared: Redis) -> None:
    async with instances(shared, "single", count=1) as (one,):
        one.fail()
        await until(lambda: one.state == "half_open")
        states, first = set[str](), one.server.calls

        def has_reported_often() -> bool:  # for longer than an unused grant of one of several instances lasts
            states.add(one.state)
            return one.server.calls - first > LEAST_IDLE_S / TICK_S + 3

        await until(has_reported_often)
        assert states == {"half_open"}


async def test_the_grant_of_a_killed_instance_ends(shared: Redis) -> None:
    async with instances(shared, "killed", count=2) as found:
        found[0].fail()
        await until(lambda: any(one.state == "half_open" for one in found))
        killed = next(one for one in found if one.state == "half_open")
        killed.breaker.acquire_permit()
        killed.close()
        (other,) = [one for one in found if one is not killed]
        await until(lambda: other.state == "half_open")


async def test_without_redis_an_open_time_ends_by_itself(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as redis:
        async with instances(redis, "gone", count=2, open_for="2s") as found:
            found[0].fail()
            await until(lambda: found[1].state == "open")
            redis.kill(signal.SIGKILL)
            await until(lambda: all(one.state == "half_open" for one in found))
            found[0].probe(succeeds=True)
            assert (found[0].state, found[1].state) == ("closed", "half_open")
            found[1].probe(succeeds=False)
            assert (found[0].state, found[1].state) == ("closed", "open")
            redis.start()
            # Both report when Redis is back, in either order; then they agree.
            await until(lambda: [one.state for one in found].count("closed") != 1)


async def test_a_breaker_that_an_operator_opened_concerns_one_instance(shared: Redis) -> None:
    async with instances(shared, "forced", count=2) as (one, other):
        label = one.upstream.endpoints[0].label
        one.upstream.set_breaker(label, "open")
        other.fail()
        await until(lambda: other.state == "half_open")
        other.probe(succeeds=True)
        for _ in range(10):
            await asyncio.sleep(HOLD_S / 5)
            assert one.breaker.forced and other.state == "closed"
        one.upstream.set_breaker(label, "closed")
        await until(lambda: one.state == "closed")
