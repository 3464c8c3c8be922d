"""Reads the values of a Redis of another program, for `relayd sessions import`. Loaded through the registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis

BATCH = 200


def scan(url: str, password: str | None, pattern: str, timeout_s: float) -> Iterator[tuple[bytes, str, bytes | None]]:
    """The key, type and value of each key that matches the pattern; the value is None unless the type is `string`.

    Nothing is changed in that Redis. Raises OSError.
    """
    options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    if password is not None:
        options["password"] = password
    try:
        client: Any = redis.Redis.from_url(url, **options)
    except ValueError as fault:
        raise OSError(f"the URL of Redis: {fault}") from None
    try:
        batch: list[bytes] = []
        for key in client.scan_iter(match=pattern, count=BATCH):
            batch.append(key)
            if len(batch) == BATCH:
                yield from _values(client, batch)
                batch = []
        yield from _values(client, batch)
    except (redis.RedisError, OSError) as fault:
        raise OSError(f"Redis: {fault}") from None
    finally:
        client.close()


def _values(client: Any, keys: list[bytes]) -> Iterator[tuple[bytes, str, bytes | None]]:
    if not keys:
        return
    asked = client.pipeline(transaction=False)
    for key in keys:
        asked.type(key)
    types = [kind.decode() for kind in asked.execute()]
    for key, kind in zip(keys, types, strict=True):
        if kind == "string":
            asked.get(key)
    values = iter(asked.execute())
    for key, kind in zip(keys, types, strict=True):
        if kind != "none":  # it has expired meanwhile
            yield key, kind, next(values) if kind == "string" else None
