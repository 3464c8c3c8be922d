"""The Redis store for the contract of all stores: it runs on a loop of its own thread, and each call waits for Redis."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from relayd.stores._redis_store import RedisStore
from relayd.wire.json_steps import Steps
from relayd.wire.waiting import Waiting
from tests.unit.stores.redis_aids import settings

WAIT_S = 30.0


class Loop:
    """A loop in a thread, ended with `close`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, call: Callable[[], Any]) -> Any:
        async def work() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(WAIT_S)

    def until(self, holds: Callable[[], Any]) -> None:
        async def work() -> None:
            async with asyncio.timeout(WAIT_S):
                while not holds():
                    await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(work(), self.loop).result(WAIT_S * 2)

    def steps(self, make: Callable[[], Steps[Any]]) -> Steps[Any]:
        """Run steps on the loop; a pause that waits for the store is not seen here."""
        steps = self.run(make)
        while True:
            ended, value = self.run(lambda: advance(steps))
            if ended:
                return value
            if isinstance(value, Waiting):
                self.until(lambda value=value: value.is_done)  # type: ignore[misc]
            else:
                yield

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT_S)
        self.loop.close()


def advance(steps: Steps[Any]) -> tuple[bool, Any]:
    try:
        return False, next(steps)
    except StopIteration as end:
        return True, end.value


def run(steps: Steps[Any]) -> Any:
    while True:
        ended, value = advance(steps)
        if ended:
            return value


class ContractStore:
    """The store as the contract uses it."""

    def __init__(
        self, port: int, prefix: str, max_entries: int, max_bytes: int, ttl_s: float, now: Callable[[], float]
    ) -> None:
        began_s = now()
        self.loop = Loop()
        wanted = settings(port, prefix=prefix)
        self.real: RedisStore = self.loop.run(
            lambda: RedisStore(wanted, max_entries, max_bytes, ttl_s, ahead_ms=lambda: round((now() - began_s) * 1000))
        )
        self.loop.until(lambda: self.real.server.available)

    def settle(self) -> None:
        self.loop.until(lambda: not self.real._writes.waiting and not self.real.server.waiting)

    def space(self, name: str, ttl_s: float | None = None, most_bytes: int = 0) -> ContractSpace:
        return ContractSpace(self, self.loop.run(lambda: self.real.space(name, ttl_s, most_bytes)))

    def sweep(self) -> None:
        self.loop.run(self.real.sweep)
        self.settle()

    def list_steps(self, prefix: str, most: int) -> Steps[Any]:
        self.settle()
        return self.loop.steps(lambda: self.real.list_steps(prefix, most))

    def count_steps(self, prefix: str) -> Steps[Any]:
        self.settle()
        return self.loop.steps(lambda: self.real.count_steps(prefix))

    @property
    def entries(self) -> int:
        return int(run(self.count_steps("")))

    @property
    def size_bytes(self) -> int:
        return int(sum(one.size_bytes for one in run(self.list_steps("", 10_000))))

    @property
    def faults(self) -> int:
        self.settle()
        return self.real.faults

    def close(self) -> None:
        self.loop.run(self.real.close)
        self.loop.run(lambda: None)
        self.loop.close()


class ContractSpace:
    """A space whose changes are in Redis when a call returns, and which reads from Redis."""

    def __init__(self, store: ContractStore, real: Any) -> None:
        self._store, self._real = store, real

    def get(self, key: str) -> Any:
        return run(self.get_steps(key))

    def get_steps(self, key: str) -> Steps[Any]:
        return self._store.loop.steps(lambda: self._real.get_steps(key))

    def text_steps(self, key: str) -> Steps[Any]:
        return self._store.loop.steps(lambda: self._real.text_steps(key))

    def put(self, key: str, value: Any) -> None:
        self._store.loop.run(lambda: self._real.put(key, value))
        self._store.settle()

    def put_steps(self, key: str, value: Any) -> Steps[Any]:
        return self._store.loop.steps(lambda: self._real.put_steps(key, value))

    def swap_steps(self, key: str, expected: str | None, text: str | None) -> Steps[Any]:
        return self._store.loop.steps(lambda: self._real.swap_steps(key, expected, text))

    def delete(self, key: str) -> bool:
        there = run(self._store.loop.steps(lambda: self._real.text_steps(key))) is not None
        self._store.loop.run(lambda: self._real.delete(key))
        self._store.settle()
        return there

    def lost(self, key: str) -> str:
        return str(self._store.loop.run(lambda: self._real.lost(key)))
