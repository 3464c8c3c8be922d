"""The Redis server of the store: connection, user, version, maxmemory with its policy, clock.

Connects as relayd does, writes a key that expires within a minute, and asks for the server's settings and time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from relayd import clock
from relayd.cli.diagnosis import Finding, failure, fine, unknown, warning
from relayd.cli.doctor.examination import Context
from relayd.config.store import MEMORY, STORES
from relayd.schema.plugins import options_of
from relayd.stores._redis_failure import CURES, RedisFailure
from relayd.stores._redis_server import RedisServer
from relayd.stores._redis_settings import RedisSettings

NEEDS_CONFIGURATION = True
WAIT_S = 6.0
OLDEST = (5, 0)
MOST_DIFFERENCE_S = 5.0


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    section = context.config.store
    settings: RedisSettings | None = getattr(options_of(section, STORES, section.kind or MEMORY), "settings", None)
    if settings is None:
        yield fine("redis", "is not configured")
        return
    subject = f"redis {settings.label}"
    try:
        server = RedisServer(settings)
    except ImportError as error:
        yield failure(subject, f"needs the Python package {error.name}", "apt install python3-redis")
        return
    try:
        if not await _connected(server):
            cause = server.cause
            yield failure(subject, f"{cause.cause}: {cause.text}", CURES[cause.cause])
            return
        yield fine(subject, "is reachable, and accepts writes")
        for finding in await _examine(server, subject, int(section.size)):
            yield finding
    finally:
        server.close()


async def _connected(server: RedisServer) -> bool:
    """Wait until the first attempt has succeeded or failed."""
    end_s = clock.monotonic() + WAIT_S
    while server.is_new and clock.monotonic() < end_s:
        await asyncio.sleep(0.02)
    return server.available


async def _ask(server: RedisServer, *words: str) -> Any:
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    server.command(*words, on_done=result.set_result, bulk=True)
    return await result


async def _examine(server: RedisServer, subject: str, size_bytes: int) -> list[Finding]:
    found: list[Finding] = []
    info = await _ask(server, "INFO")
    if isinstance(info, RedisFailure):
        return [unknown(subject, f"its version and memory are not known: {info.text}", CURES[info.cause])]
    lines = (line.partition(":") for line in bytes(info).decode("utf-8", "replace").splitlines())
    values = {key: value.strip() for key, _, value in lines}
    found += judge(subject, values, size_bytes)
    before_s = clock.wall()
    time = await _ask(server, "TIME")
    if isinstance(time, list) and len(time) == 2:
        difference_s = abs(int(time[0]) + int(time[1]) / 1e6 - (before_s + clock.wall()) / 2)
        if difference_s > MOST_DIFFERENCE_S:
            cause = f"its clock differs by {difference_s:.0f} s"
            found.append(warning(subject, cause, "synchronise the clocks of both hosts"))
        else:
            found.append(fine(subject, "its clock agrees"))
    return found


def judge(subject: str, values: dict[str, str], size_bytes: int) -> list[Finding]:
    """The version, and whether the policy and the bound of memory suit, by the fields of INFO."""
    found: list[Finding] = []
    name = "valkey" if "valkey_version" in values else "redis"
    version = values.get(f"{name}_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        found.append(failure(subject, f"{name} {version} is too old", "use Redis 5 or newer, or Valkey"))
    else:
        found.append(fine(subject, f"{name} {version or 'of an unknown version'}"))
    policy, most = values.get("maxmemory_policy", ""), values.get("maxmemory", "0")
    limit = int(most) if most.isdigit() else 0
    if policy.startswith("allkeys-") and limit:
        cause = f"maxmemory-policy is {policy}: it may evict counters of limits, which then forget"
        found.append(warning(subject, cause, "use noeviction, and a Redis for relayd alone"))
    if 0 < limit < size_bytes:
        cause = f"maxmemory {limit} is less than `store: size` {size_bytes}"
        found.append(warning(subject, cause, "raise maxmemory, or lower `store: size`"))
    return found
