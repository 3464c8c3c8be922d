"""Reading the keys of another program's Redis, with a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd import registry
from tests.functional.harness.redis import Redis, needs_redis

pytestmark = needs_redis()


def test_values_are_read_and_other_types_are_named(tmp_path: Path) -> None:
    scan = registry.load("relayd.stores._redis", "scan").scan
    with Redis(tmp_path / "redis", password="secret") as server:
        for number in range(450):
            server.ask("SET", f"session:{number}", f"{number}")
        server.ask("HSET", "session:hash", "a", "1")
        server.ask("SET", "other", "1")
        found = {key: (kind, value) for key, kind, value in scan(server.url, "secret", "session:*", 30.0)}
        assert len(found) == 451 and found[b"session:7"] == ("string", b"7") and found[b"session:hash"] == ("hash", None)
        assert len(server.keys()) == 452
        with pytest.raises(OSError, match="Redis: "):
            list(scan(server.url, "wrong", "*", 30.0))
    with pytest.raises(OSError, match="URL"):
        list(scan("nonsense", None, "*", 30.0))
