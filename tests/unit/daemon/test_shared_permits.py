"""Gates of several instances before one real Redis: together never more than the limit, and no permit stays unused."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relayd.config.load import load_text
from relayd.daemon.shared_permits import SharedPermits
from relayd.daemon.timers import Timers
from relayd.limits.gate import GateLimits
from relayd.limits.gates import Gates
from relayd.limits.ticket import GRANTED, Ticket
from relayd.plan.compile import compile_plan
from relayd.stores._redis_server import RedisServer
from tests.functional.harness.redis import Redis, needs_redis
from tests.unit.stores.redis_aids import command, settings, until

pytestmark = needs_redis()
NAME = "upstream u"
TEXT = "listeners: {p: {address: '127.0.0.1:1'}}\nupstreams: {u: {endpoints: ['http://127.0.0.1:2']}}\nroutes: [{name: all, upstream: u}]"


class Instance:
    """One relayd: a gate, and the service that shares it."""

    def __init__(self, redis: Redis, prefix: str, requests: int) -> None:
        self.server: RedisServer | None = RedisServer(settings(redis.port, prefix=prefix))
        self.gates = Gates()
        self.gates.apply({NAME: GateLimits(requests, 1000, 0.0, shared=True)})
        self.gate = self.gates.get(NAME)
        self.service = SharedPermits(lambda: self.server, self.gates)
        self.plan = compile_plan(load_text(TEXT, "relayd.yaml").config, 1, None)
        self.timers = Timers(asyncio.get_running_loop())
        self.service.commit(self.plan)
        self.tickets: list[Ticket] = []

    def start(self) -> None:
        self.service.start(self.timers)

    def acquire(self) -> Ticket:
        self.tickets.append(self.gate.acquire("", 0, None, lambda ticket: None, lambda ticket, why, after_s: None))
        return self.tickets[-1]

    def release(self) -> None:
        """End one of the requests in flight."""
        found = next((one for one in self.tickets if one.state == GRANTED), None)
        if found is not None:
            self.tickets.remove(found)
            self.gate.release(found)

    def close(self) -> None:
        self.timers.close()
        self.service.close()
        if self.server is not None:
            self.server.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def instances(redis: Redis, prefix: str, requests: int, count: int) -> AsyncIterator[list[Instance]]:
    found = [Instance(redis, prefix, requests) for _ in range(count)]
    try:
        await until(lambda: all(one.gate.share is not None for one in found))
        yield found
    finally:
        for one in found:
            one.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("requests", [1, 2, 5, 16])
async def test_no_order_of_requests_and_reports_exceeds_the_limit(shared: Redis, requests: int) -> None:
    chance = random.Random(requests)
    async with instances(shared, f"order{requests}", requests, 3) as found:
        most = 0
        for _ in range(1500):
            one = chance.choice(found)
            action = chance.random()
            if action < 0.4 and len(one.tickets) < 2 * requests:
                one.acquire()
            elif action < 0.7:
                one.release()
            elif action < 0.9:
                one.service.tick()
            else:
                await asyncio.sleep(0.0005)
            in_flight = sum(each.gate.in_flight for each in found)
            most = max(most, in_flight)
            assert in_flight <= requests
            assert sum(each.gate.share or 0 for each in found) <= requests
        assert most == requests


async def test_what_one_instance_does_not_need_another_one_gets(shared: Redis) -> None:
    async with instances(shared, "moves", 8, 2) as (one, other):
        one.start()
        other.start()
        await until(lambda: (one.gate.share, other.gate.share) == (4, 4))
        for _ in range(12):
            one.acquire()
        await until(lambda: one.gate.in_flight == 8)
        waiting = other.acquire()
        assert waiting.state != GRANTED
        await until(lambda: one.gate.share == 7)
        one.release()
        await until(lambda: waiting.state == GRANTED)
        for _ in range(8):
            other.acquire()

        def end() -> bool:
            one.release()
            return other.gate.in_flight == 8

        await until(end)


@pytest.mark.parametrize("requests", [1, 3])
async def test_instances_that_always_need_more_all_get_their_turn(shared: Redis, requests: int) -> None:
    async with instances(shared, f"turns{requests}", requests, 2) as found:
        served = [0, 0]
        for one in found:
            one.start()
            for _ in range(4):
                one.acquire()

        def serve() -> bool:
            for place, one in enumerate(found):
                if one.gate.in_flight:
                    served[place] += 1
                    one.release()
                    one.acquire()
            return min(served) > 3

        await until(serve)


async def test_the_permits_of_a_dead_instance_are_free_after_its_life(shared: Redis) -> None:
    async with instances(shared, "dead", 4, 2) as (one, other):
        one.start()
        other.start()
        for _ in range(4):
            one.acquire()
        await until(lambda: one.gate.in_flight >= 2)
        one.close()  # its requests do not end
        for _ in range(4):
            other.acquire()
        await until(lambda: other.gate.in_flight == 4)


async def test_without_redis_each_instance_keeps_its_share(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as redis:
        async with instances(redis, "gone", 6, 2) as found:
            for one in found:
                one.start()
            await until(lambda: all(one.gate.share == 3 for one in found))
            redis.kill(signal.SIGKILL)
            for one in found:
                for _ in range(5):
                    one.acquire()
            await until(lambda: not any(one.server.available for one in found if one.server))
            assert [one.gate.in_flight for one in found] == [3, 3]
            redis.start()
            found[0].release()
            await until(lambda: all(one.server.available for one in found if one.server))
            for _ in range(20):  # several reports: what Redis has lost is not given to another one
                await asyncio.sleep(0.05)
                assert sum(one.gate.in_flight for one in found) <= 6
            assert min(one.gate.in_flight for one in found) > 0


async def test_without_a_shared_store_an_instance_has_all(shared: Redis) -> None:
    async with instances(shared, "off", 4, 2) as (one, _):
        await until(lambda: one.gate.share is not None)
        server, one.server = one.server, None
        one.service.commit(one.plan)
        assert one.gate.share is None and server is not None
        server.close()


async def test_an_instance_in_redis_has_a_time_to_live(shared: Redis) -> None:
    async with instances(shared, "ttl", 4, 1) as (one,):
        assert one.server is not None
        assert 0 < await command(one.server, "PTTL", one.server.key("permits")) <= 60000
