"""redis: reachable or not and why, memory and its policy, an old version, no Redis."""

from __future__ import annotations

from pathlib import Path

from relayd.cli.diagnosis import FAILURE, FINE, WARNING
from relayd.cli.doctor.checks import redis
from tests.aids.ports import free_port
from tests.functional.harness.redis import Redis, needs_redis
from tests.unit.cli.doctor.cases import context_of, findings, only, written

PASSWORD = "pa55-of-the-test"


@needs_redis()
def test_a_server_that_suits_and_one_that_may_evict_counters(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as server:
        path = written(tmp_path, store={"kind": "redis", "url": server.url})
        found = findings(redis, context_of(path))
        assert {one.level for one in found} == {FINE} and only(found, "accepts writes").subject == f"redis 127.0.0.1:{server.port}"
        assert only(found, "clock agrees") and len(found) == 3
        server.ask("CONFIG", "SET", "maxmemory", "10mb")
        server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        found = findings(redis, context_of(path))
        assert only(found, "allkeys-lru").level == only(found, "less than").level == WARNING


@needs_redis()
def test_a_wrong_password_and_no_server(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    store = {"kind": "redis", "password": {"file": str(tmp_path / "password")}}
    with Redis(tmp_path / "redis", password="another-one") as server:
        (one,) = findings(redis, context_of(written(tmp_path, store={**store, "url": server.url})))
        assert one.level == FAILURE and one.cause.startswith("auth") and PASSWORD not in f"{one}"
    (one,) = findings(redis, context_of(written(tmp_path, store={**store, "url": f"redis://127.0.0.1:{free_port()}"})))
    assert one.level == FAILURE and one.cause.startswith("connect") and one.cure


def test_an_old_version_and_another_kind(tmp_path: Path) -> None:
    (one,) = redis.judge("redis", {"redis_version": "4.0.9"}, 0)
    assert one.level == FAILURE
    (one,) = redis.judge("redis", {"redis_version": "7.2.4", "valkey_version": "8.1.0"}, 0)
    assert one.level == FINE and one.cause == "valkey 8.1.0"
    assert [one.level for one in findings(redis, context_of(written(tmp_path)))] == [FINE]
