"""Sessions of two instances in one real Redis: shared, with no change lost, and kept while Redis is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.functional.harness.faults import until
from tests.functional.harness.redis import Redis, needs_redis
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream
from tests.functional.test_session_commands import sessions
from tests.functional.test_sessions import Browser, config, naming

pytestmark = needs_redis()


class Pair:
    """Two instances, one Redis, two endpoints."""

    def __init__(self, folder: Path, redis: Redis, urls: list[str]) -> None:
        self.redis = redis
        store = {"kind": "redis", "url": redis.url, "timeout": "5s", "path": None}
        self.relays = []
        for name in ("a", "b"):
            change = config(folder / name, urls)
            change["store"] = {key: value for key, value in store.items() if value is not None}
            self.relays.append(Relay(folder / name, "", change))


@pytest.fixture
def pair(folder: Path) -> Iterator[Pair]:
    with Redis(folder / "redis") as redis, Upstream() as one, Upstream() as two:
        one.script, two.script = naming("one"), naming("two")
        made = Pair(folder, redis, [one.url, two.url])
        with made.relays[0], made.relays[1]:
            yield made


def test_instances_share_sessions_and_lose_no_change(pair: Pair) -> None:
    first, second = (Browser(relay) for relay in pair.relays)
    assert first.ask("PUT", document={})[0] == 201
    session = first.session_id
    until(lambda: second.ask("GET", X_Session_ID=session)[0] == 200)  # connected
    with ThreadPoolExecutor(8) as pool:
        tries = [
            pool.submit(Browser(pair.relays[number % 2]).ask, "PATCH", "/api/session", {f"w{number}": number}, X_Session_ID=session)
            for number in range(24)
        ]
    assert {one.result()[0] for one in tries} == {200}
    wanted = {f"w{number}": number for number in range(24)}
    assert second.ask("GET", X_Session_ID=session)[2] == first.ask("GET")[2] == wanted
    tag = first.ask("GET")[1]["ETag"]
    assert second.ask("PATCH", document={"n": 1}, X_Session_ID=session, If_Match=tag)[0] == 200
    assert first.ask("PATCH", document={"n": 2}, If_Match=tag)[0] == 412

    answering = first.ask("GET", "/x")[2]
    until(lambda: bool(pair.redis.keys("*session-endpoints*")))
    assert {second.ask("GET", "/x", X_Session_ID=session)[2] for _ in range(4)} == {answering}
    assert session not in str(pair.redis.keys())

    listed = json.loads(sessions(pair.relays[1], "list", "--json").stdout)["sessions"]
    assert len(listed) == 1 and listed[0]["consumer"] == "team" and 7100 < listed[0]["expires_in_s"] <= 7200
    assert sessions(pair.relays[1], "forget", "--all").stdout == "1 deleted\n"
    until(lambda: first.ask("GET")[0] == 404)


def test_sessions_go_on_while_redis_is_away(pair: Pair) -> None:
    browser = Browser(pair.relays[0])
    browser.ask("PUT", document={"a": 1})
    pair.redis.kill()
    until(lambda: browser.ask("PATCH", document={"b": 2})[0] == 200)
    assert browser.ask("GET")[2] == {"a": 1, "b": 2}
    listed = sessions(pair.relays[0], "list")
    assert listed.returncode != 0 and not listed.stdout and "store" in listed.stderr, "not only what this instance knows"
    other = Browser(pair.relays[1])
    until(lambda: other.ask("GET", X_Session_ID=browser.session_id)[0] == 503)  # neither known there nor replaced
    assert other.ask("GET", "/x", X_Session_ID=browser.session_id)[0] == 200 and not other.session_id
    pair.redis.start()
    until(lambda: other.ask("GET", X_Session_ID=browser.session_id)[2] == {"a": 1, "b": 2})
