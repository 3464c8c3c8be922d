"""What tests of Redis share: a server of relayd on a loop, and its results."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from relayd.stores._redis_server import RedisServer, Script
from relayd.stores._redis_settings import RedisSettings

COUNT = Script("count", "return redis.call('INCRBY', KEYS[1], ARGV[1])")


def settings(port: int, **further: Any) -> RedisSettings:
    return RedisSettings(**{"addresses": (("127.0.0.1", port),), "timeout_s": 5.0, **further})


@contextlib.asynccontextmanager
async def connected(wanted: RedisSettings, *, wait: bool = True) -> AsyncIterator[RedisServer]:
    server = RedisServer(wanted)
    try:
        if wait:
            await until(lambda: server.available, lambda: server.describe())
        yield server
    finally:
        server.close()
        await asyncio.sleep(0)


async def until(holds: Callable[[], Any], what: Callable[[], Any] = lambda: "it") -> None:
    try:
        async with asyncio.timeout(30):
            while not holds():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not in time: {what()}") from None


async def command(server: RedisServer, *words: Any, bulk: bool = False) -> Any:
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    server.command(*words, on_done=result.set_result, bulk=bulk)
    assert not result.done(), "in a later turn"
    return await result


async def call(server: RedisServer, script: Script, keys: list[str], *args: Any) -> Any:
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    server.call(script, keys, args, result.set_result)
    assert not result.done(), "in a later turn"
    return await result
