"""Rates and budgets that several relayd processes count together in a real Redis server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.faults import until
from tests.functional.harness.redis import Cluster, Redis, Sentinels, needs_redis
from tests.functional.harness.relay import Relay
from tests.functional.test_budgets import REQUEST, Endpoint, ask

pytestmark = needs_redis()

REQUESTS, BUDGET = 300, 150


def store(redis: Redis, **more: Any) -> dict[str, Any]:
    return {"kind": "redis", "url": redis.url, **more}


def settings(folder: Path, url: str, store: Mapping[str, Any], route: Mapping[str, Any]) -> dict[str, Any]:
    prices = folder / "prices.yaml"
    prices.write_text('currency: USD\n"*": {request: 1}\n')
    return {
        "store": dict(store), "prices": str(prices),
        "upstreams": {"up": {"endpoints": [url], "protocol": "openai_chat"}},
        "routes": [{"name": "llm", "match": {"prefix": "/v1/"}, "upstream": "up", **route}],
    }


def limits(relay: Relay) -> list[dict[str, Any]]:
    """All counters."""
    found: list[dict[str, Any]] = json.loads(relay.admin("/limits")[1])["limits"]
    return found


def limit(relay: Relay) -> dict[str, Any]:
    """The only counter."""
    (found,) = limits(relay)
    return found


def is_shared(relay: Relay) -> bool:
    return {one["source"] for one in limits(relay)} == {"shared"}


def holds_nothing(relay: Relay) -> bool:
    return str(limit(relay)["reserved"]) == "0"


@contextlib.asynccontextmanager
async def serving(endpoint: Endpoint) -> Any:
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0, backlog=2000)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


async def test_requests_at_the_same_time_at_three_processes_spend_exactly_the_budget(tmp_path: Path) -> None:
    endpoint = Endpoint()
    async with serving(endpoint) as url:
        with Redis(tmp_path / "redis") as redis, contextlib.ExitStack() as stack:
            change = settings(tmp_path, url, store(redis, timeout="10s", on_failure="closed"), {"budget": [{"amount": BUDGET, "per": "total"}]})
            relays = [stack.enter_context(Relay(tmp_path / f"r{number}", url, change, nofile=8192)) for number in range(3)]
            for relay in relays:
                await asyncio.to_thread(until, partial(is_shared, relay))
            asking = [asyncio.create_task(ask(relays[number % 3])) for number in range(REQUESTS)]
            await asyncio.to_thread(until, lambda: endpoint.asked >= BUDGET)
            endpoint.go.set()
            statuses = await asyncio.gather(*asking)
            assert (statuses.count(200), statuses.count(429), endpoint.asked) == (BUDGET, REQUESTS - BUDGET, BUDGET)
            for relay in relays:
                await asyncio.to_thread(until, partial(holds_nothing, relay))
                found = limit(relay)
                assert (found["used"], found["left"], found["source"]) == (str(BUDGET), "0", "shared")


class Load:
    """Clients that send one request after the other; the statuses, and the longest time of a request."""

    def __init__(self, relay: Relay, clients: int = 6) -> None:
        self.relay, self.statuses, self.longest_s = relay, Counter[int](), 0.0
        self._ends = asyncio.Event()
        self._clients = [asyncio.create_task(self._client()) for _ in range(clients)]

    async def _client(self) -> None:
        while not self._ends.is_set():
            begun_s = time.monotonic()
            self.statuses[await ask(self.relay)] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - begun_s)

    async def more(self, count: int = 30) -> None:
        """Wait for this many further answers."""
        end = self.statuses.total() + count
        while self.statuses.total() < end:
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        self._ends.set()
        await asyncio.gather(*self._clients)


def full(redis: Redis) -> None:
    redis.ask("CONFIG", "SET", "maxmemory", 1)


def restart(redis: Redis) -> None:
    redis.kill()
    redis.start()


FAULTS: dict[str, tuple[Callable[[Redis], Any], Callable[[Redis], Any]]] = {
    "killed": (Redis.kill, Redis.start),
    "restarted": (restart, lambda redis: None),
    "stopped": (Redis.pause, Redis.resume),
    "read_only": (
        lambda redis: (redis.ask("CONFIG", "SET", "min-replicas-to-write", 1)),
        lambda redis: redis.ask("CONFIG", "SET", "min-replicas-to-write", 0),
    ),
    "full": (full, lambda redis: redis.ask("CONFIG", "SET", "maxmemory", 0)),
    "without_scripts": (lambda redis: redis.ask("SCRIPT", "FLUSH"), lambda redis: redis.ask("SCRIPT", "FLUSH")),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_happens_to_redis_under_load_every_request_is_counted_once(tmp_path: Path, fault: str) -> None:
    breaks, mends = FAULTS[fault]
    endpoint = Endpoint()
    endpoint.go.set()
    async with serving(endpoint) as url:
        with Redis(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as redis:
            change = settings(tmp_path, url, store(redis), {"rates": [{"requests": 1000000, "per": "1d"}]})
            with Relay(tmp_path / "r", url, change) as relay:
                await asyncio.to_thread(until, lambda: is_shared(relay))
                load = Load(relay)
                await load.more()
                await asyncio.to_thread(breaks, redis)
                await load.more()
                await asyncio.to_thread(mends, redis)
                await load.more()
                await load.end()
                assert set(load.statuses) == {200}
                assert load.longest_s < 10
                await asyncio.to_thread(until, lambda: is_shared(relay) and limit(relay)["reserved"] == 0)
                await asyncio.to_thread(until, lambda: limit(relay)["used"] == load.statuses.total())
                if fault not in ("without_scripts", "restarted"):
                    assert b"limits_degraded" in relay.output()
            window = dict(pairs(redis.ask("HGETALL", redis.keys("*:window:*")[0])))
            assert (window[b"used"], window[b"held"]) == (b"%d" % load.statuses.total(), b"0")
            assert redis.ask("HGETALL", next(iter(redis.keys("*:instances")), "none")) == [], "it has left"


def pairs(fields: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    yield from zip(fields[::2], fields[1::2], strict=True)


@pytest.mark.parametrize(("policy", "status"), [("closed", 503), ("open", 200), ("local", 429)])
async def test_without_redis_a_limit_follows_its_policy(tmp_path: Path, policy: str, status: int) -> None:
    endpoint = Endpoint()
    endpoint.go.set()
    async with serving(endpoint) as url:
        with Redis(tmp_path / "redis") as redis:
            route = {"rates": [{"requests": 1, "per": "1d", "on_failure": policy}]}
            with Relay(tmp_path / "r", url, settings(tmp_path, url, store(redis, on_failure="local"), route)) as relay:
                await asyncio.to_thread(until, lambda: is_shared(relay))
                assert await ask(relay) == 200
                assert await ask(relay) == 429
                redis.kill()
                await asyncio.to_thread(until, lambda: limit(relay)["source"] == "degraded")
                reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
                writer.write(REQUEST)
                answer = await reader.read()
                writer.close()
                assert int(answer.split(b" ", 2)[1]) == status
                if status == 503:
                    assert b"limits_unavailable" in answer and b"Retry-After: 1\r\n" in answer


async def test_requests_that_redis_decides_too_late_spend_no_more_than_the_budget(tmp_path: Path) -> None:
    """Redis stands still under load and executes after the deadline what it was asked; the requests are decided by
    `local` and are still in progress when Redis is back."""
    endpoint = Endpoint()
    async with serving(endpoint) as url:
        with Redis(tmp_path / "redis") as redis:
            change = settings(tmp_path, url, store(redis, on_failure="local"), {"budget": [{"amount": BUDGET, "per": "total"}]})
            with Relay(tmp_path / "r", url, change, nofile=8192) as relay:
                await asyncio.to_thread(until, partial(is_shared, relay))
                asking = [asyncio.create_task(ask(relay)) for _ in range(BUDGET // 3)]
                await asyncio.to_thread(until, lambda: endpoint.asked == BUDGET // 3)
                redis.pause()
                asking += [asyncio.create_task(ask(relay)) for _ in range(BUDGET // 3)]
                await asyncio.to_thread(until, lambda: endpoint.asked == BUDGET // 3 * 2)
                redis.resume()
                held = str(BUDGET // 3 * 2)  # what Redis has decided too late is cancelled
                await asyncio.to_thread(until, lambda: is_shared(relay) and limit(relay)["reserved"] == held)
                asking += [asyncio.create_task(ask(relay)) for _ in range(REQUESTS - len(asking))]
                done = asyncio.ensure_future(asyncio.wait(asking))
                await asyncio.to_thread(until, lambda: sum(task.done() for task in asking) >= REQUESTS - BUDGET)
                endpoint.go.set()
                await done
                statuses = Counter(task.result() for task in asking)
                assert statuses[200] == endpoint.asked <= BUDGET and set(statuses) == {200, 429}
                await asyncio.to_thread(until, lambda: is_shared(relay) and holds_nothing(relay))
                await asyncio.to_thread(until, lambda: limit(relay)["used"] == str(statuses[200]))


async def test_a_client_that_leaves_while_redis_decides_uses_nothing(tmp_path: Path) -> None:
    endpoint = Endpoint()
    endpoint.go.set()
    async with serving(endpoint) as url:
        with Redis(tmp_path / "redis") as redis:
            change = settings(tmp_path, url, store(redis, timeout="10s"), {"rates": [{"requests": 5, "per": "1d"}]})
            with Relay(tmp_path / "r", url, change) as relay:
                await asyncio.to_thread(until, lambda: is_shared(relay))
                redis.pause()
                _, writer = await asyncio.open_connection("127.0.0.1", relay.port)
                writer.write(REQUEST)
                await asyncio.to_thread(until, lambda: relay.exchanges() == 1)
                writer.close()
                await asyncio.to_thread(until, lambda: relay.exchanges() == 0)
                redis.resume()
                assert await ask(relay) == 200
                await asyncio.to_thread(until, lambda: (limit(relay)["used"], limit(relay)["reserved"]) == (1, 0))
                assert endpoint.asked == 1


async def test_a_reload_that_changes_the_store_counts_what_is_in_progress_in_the_new_one(tmp_path: Path) -> None:
    endpoint = Endpoint()
    endpoint.go.set()
    async with serving(endpoint) as url:
        with Redis(tmp_path / "redis") as redis:
            change = settings(tmp_path, url, {"kind": "memory"}, {"rates": [{"requests": 5, "per": "1d"}]})
            with Relay(tmp_path / "r", url, change) as relay:
                assert await ask(relay) == 200
                assert limit(relay)["source"] == "local"
                relay.write({"store": store(redis)})
                relay.hup()
                await asyncio.to_thread(until, partial(is_shared, relay))
                await asyncio.to_thread(until, lambda: limit(relay)["used"] == 0)
                endpoint.go.clear()
                asking = asyncio.create_task(ask(relay))
                await asyncio.to_thread(until, lambda: endpoint.asked == 2)
                relay.write({"store": store(redis, timeout="3s")})
                relay.hup()
                await asyncio.to_thread(until, lambda: relay.status()["generation"] == 3 and is_shared(relay))
                endpoint.go.set()
                assert await asking == 200
                await asyncio.to_thread(until, lambda: (limit(relay)["used"], limit(relay)["reserved"]) == (1, 0))


async def test_a_request_waits_for_room_that_another_process_uses(tmp_path: Path) -> None:
    endpoint = Endpoint()
    endpoint.go.set()
    async with serving(endpoint) as url:
        with Redis(tmp_path / "redis") as redis, contextlib.ExitStack() as stack:
            change = settings(tmp_path, url, store(redis, timeout="5s"), {"rates": [{"requests": 2, "per": "1s", "wait": "30s"}]})
            relays = [stack.enter_context(Relay(tmp_path / f"r{number}", url, change)) for number in range(2)]
            for relay in relays:
                await asyncio.to_thread(until, partial(is_shared, relay))
            begun_s = time.monotonic()
            assert await asyncio.gather(*[ask(relays[number % 2]) for number in range(4)]) == [200] * 4
            assert time.monotonic() - begun_s > 0.9, "two in each second"


async def test_after_a_failover_of_sentinel_exactly_the_budget_is_spent_if_the_replica_had_everything(tmp_path: Path) -> None:
    endpoint = Endpoint()
    endpoint.go.set()
    async with serving(endpoint) as url:
        with Sentinels(tmp_path / "redis") as sentinels, contextlib.ExitStack() as stack:
            where = {
                "kind": "redis", "url": "redis://unused/0", "on_failure": "closed", "timeout": "2s",
                "sentinel": {"master": sentinels.MASTER, "addresses": [f"{host}:{port}" for host, port in sentinels.addresses]},
            }
            change = settings(tmp_path, url, where, {"budget": [{"amount": 30, "per": "total"}]})
            relays = [stack.enter_context(Relay(tmp_path / f"r{number}", url, change)) for number in range(2)]
            for relay in relays:
                await asyncio.to_thread(until, partial(is_shared, relay))
            answered = [await ask(relays[number % 2]) for number in range(10)]
            endpoint.go.clear()
            asking = [asyncio.create_task(ask(relays[number % 2])) for number in range(4)]
            await asyncio.to_thread(until, lambda: endpoint.asked == 14)
            old = sentinels.master()
            replica = next(one for one in sentinels.servers if one is not old)
            await asyncio.to_thread(until, lambda: amounts(replica) == (14 * 10**9, 4 * 10**9))
            await asyncio.to_thread(old.kill)
            await asyncio.to_thread(until, lambda: sentinels.master() is replica and all(is_shared(relay) for relay in relays))
            endpoint.go.set()
            answered += await asyncio.gather(*asking)
            loads = [Load(relay, 3) for relay in relays]
            while not all(load.statuses[429] for load in loads):
                await asyncio.sleep(0.02)
            for load in loads:
                await load.end()
            assert answered == [200] * 14
            assert sum(load.statuses[200] for load in loads) == 16
            for relay in relays:
                await asyncio.to_thread(until, partial(holds_nothing, relay))


async def test_a_failover_under_load_to_a_replica_that_lags_spends_exactly_the_budget(tmp_path: Path) -> None:
    endpoint = Endpoint()
    endpoint.go.set()
    async with serving(endpoint) as url:
        with Sentinels(tmp_path / "redis") as sentinels, contextlib.ExitStack() as stack:
            where = {
                "kind": "redis", "url": "redis://unused/0", "on_failure": "closed", "timeout": "2s",
                "sentinel": {"master": sentinels.MASTER, "addresses": [f"{host}:{port}" for host, port in sentinels.addresses]},
            }
            change = settings(tmp_path, url, where, {"budget": [{"amount": BUDGET, "per": "total"}]})
            relays = [stack.enter_context(Relay(tmp_path / f"r{number}", url, change)) for number in range(3)]
            for relay in relays:
                await asyncio.to_thread(until, partial(is_shared, relay))
            loads = [Load(relay) for relay in relays]
            await asyncio.to_thread(until, lambda: endpoint.asked >= BUDGET // 5)
            old = sentinels.master()
            replica = await asyncio.to_thread(sentinels.cut_replica)
            had = amounts(replica)[0]
            await asyncio.to_thread(until, lambda: amounts(old)[0] >= had + BUDGET // 5 * 10**9)
            await asyncio.to_thread(old.kill)
            await asyncio.to_thread(until, lambda: sentinels.master() is replica and all(is_shared(relay) for relay in relays))
            for load in loads:
                await load.end()
            endings = [Load(relay, 1) for relay in relays]
            await asyncio.to_thread(until, lambda: all(load.statuses[429] for load in endings))
            await asyncio.to_thread(until, lambda: amounts(replica) == (BUDGET * 10**9, 0))
            for load in endings:
                await load.end()
            statuses = sum((load.statuses for load in loads + endings), Counter[int]())
            assert statuses[200] == endpoint.asked == BUDGET
            assert set(statuses) <= {200, 429, 503} and statuses[429]


def amounts(redis: Redis) -> tuple[int, int]:
    """What is used of the only counter, and the part of it that is held, in a server."""
    keys = redis.keys("*:window:*")
    used, held = redis.ask("HMGET", keys[0], "used", "held") if keys else (0, 0)
    return int(used), int(held)


async def test_the_counters_of_a_cluster_are_on_one_node(tmp_path: Path) -> None:
    endpoint = Endpoint()
    endpoint.go.set()
    async with serving(endpoint) as url:
        with Cluster(tmp_path / "redis") as cluster:
            where = {"kind": "redis", "url": cluster.nodes[1].url, "cluster": True}
            route = {"budget": [{"amount": 2, "per": "month"}], "rates": [{"requests": 5, "per": "1m"}]}
            with Relay(tmp_path / "r", url, settings(tmp_path, url, where, route)) as relay:
                await asyncio.to_thread(until, lambda: is_shared(relay))
                assert [await ask(relay) for _ in range(3)] == [200, 200, 429]
            assert sorted(len(node.keys("*:window:*")) for node in cluster.nodes) == [0, 0, 2]


