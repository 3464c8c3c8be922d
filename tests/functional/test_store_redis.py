"""The store in a real Redis: two relayd processes share stored responses; Redis stops, comes back, is missing at the start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.dialects.gateway import FRONT_ROUTES, Gateway, gateway
from tests.functional.harness.dialects.gemini_backend import SIGNATURE
from tests.functional.harness.dialects.said import Asked, Call, Reply, Say
from tests.functional.harness.faults import until
from tests.functional.harness.message import Message
from tests.functional.harness.redis import Redis, needs_redis
from tests.functional.harness.relay import ROOT

pytestmark = needs_redis()
SECRET = "redis-pa55-of-the-test"


def brain(asked: Asked) -> Reply:
    return Say(("I heard ", str(len(asked.said))))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path / "redis", password=SECRET)
    with server:
        (tmp_path / "password").write_text(SECRET)
        (tmp_path / "password").chmod(0o600)
        yield server


def store_of(redis: Redis, folder: Path, **further: Any) -> dict[str, Any]:
    password = {"file": str(folder / "password")}
    return {"kind": "redis", "url": redis.url, "prefix": "test", "on_failure": "local", "password": password, "timeout": "5s", **further}


def started(stack: ExitStack, folder: Path, store: dict[str, Any]) -> Gateway:
    change = {"store": store, "routes": FRONT_ROUTES}
    running = stack.enter_context(gateway(folder, change))
    for back in running.backs.values():
        back.brain = brain
    return running


def store_status(running: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = running.relay.status()["store"]
    return found


def works(running: Gateway) -> None:
    """Until Redis is available, and has all changes."""
    until(lambda: not store_status(running)["degraded"] and not store_status(running)["waiting"])


def create(running: Gateway, text: str, **members: Any) -> dict[str, Any]:
    message = running.post("/v1/responses", {"model": "openai_chat", "input": text, **members})
    assert message.status == 200, message.body
    found: dict[str, Any] = json.loads(message.body)
    return found


def error(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(message.body)["error"]
    return found


def test_a_conversation_goes_on_in_another_process_also_after_an_outage(tmp_path: Path, redis: Redis) -> None:
    with ExitStack() as stack:
        one, two = (started(stack, tmp_path / name, store_of(redis, tmp_path)) for name in ("one", "two"))
        works(one)
        works(two)
        first = create(one, "one")
        works(one)
        second = create(two, "two", previous_response_id=first["id"])
        assert [text for _, text in two.backs["openai_chat"].asked[-1].said] == ["one", "I heard 1", "two"]
        assert json.loads(two.send("GET", f"/v1/responses/{first['id']}", None).body) == first
        works(two)
        assert one.send("DELETE", f"/v1/responses/{second['id']}", None).status == 200
        works(one)
        assert two.send("GET", f"/v1/responses/{second['id']}", None).status == 404, "deleted for all"

        redis.kill()
        until(lambda: store_status(one)["degraded"] and store_status(two)["degraded"])
        third = create(one, "three")
        fourth = create(one, "four", previous_response_id=third["id"])
        assert fourth["store"] and one.backs["openai_chat"].asked[-1].said[0][1] == "three"
        assert store_status(one)["waiting"] > 0 and store_status(one)["cause"] in ("connect", "lost")
        until(lambda: b"redis_unreachable" in one.relay.output())
        shown = subprocess.run(
            [sys.executable, "-m", "relayd", "status", "-c", str(one.relay.file)], cwd=ROOT, capture_output=True, text=True, timeout=60,
        ).stdout
        assert "the store redis is degraded" in shown and f"127.0.0.1:{redis.port}" in shown, shown

        redis.start()
        works(one)
        works(two)
        create(two, "five", previous_response_id=fourth["id"])
        assert two.backs["openai_chat"].asked[-1].said[0][1] == "three", "written when Redis came back"
        until(lambda: b"redis_reachable" in one.relay.output())
        for running in (one, two):
            assert SECRET not in running.relay.output().decode() + json.dumps(running.relay.status())


def test_without_redis_relayd_starts_degraded(tmp_path: Path, redis: Redis) -> None:
    redis.kill()
    with ExitStack() as stack:
        running = started(stack, tmp_path / "r", store_of(redis, tmp_path))
        first = create(running, "one")
        create(running, "two", previous_response_id=first["id"])
        assert store_status(running)["degraded"]
        redis.start()
        works(running)
        assert any(key.startswith("test:{s:") for key in redis.keys("*"))
        # A reload to another kind and back.
        running.relay.write({"store": None})
        assert running.relay.admin("/reload", "POST")[0] == 200
        assert store_status(running) == {"kind": "memory", "degraded": False}
        assert running.send("GET", f"/v1/responses/{first['id']}", None).status == 404
        running.relay.write({"store": store_of(redis, tmp_path)})
        assert running.relay.admin("/reload", "POST")[0] == 200
        works(running)
        assert running.send("GET", f"/v1/responses/{first['id']}", None).status == 200


def test_what_was_just_stored_survives_the_end_of_the_process(tmp_path: Path, redis: Redis) -> None:
    with ExitStack() as stack:
        one = started(stack, tmp_path / "one", store_of(redis, tmp_path))
        works(one)
        first = create(one, "one")
        assert one.relay.stop() == 0
        one.relay.start()
        works(one)
        assert json.loads(one.send("GET", f"/v1/responses/{first['id']}", None).body) == first


@pytest.mark.parametrize("on_failure", ["open", "closed"])
def test_open_and_closed(tmp_path: Path, redis: Redis, on_failure: str) -> None:
    with ExitStack() as stack:
        running = started(stack, tmp_path / "r", store_of(redis, tmp_path, on_failure=on_failure))
        works(running)
        first = create(running, "one")
        works(running)
        redis.kill()
        until(lambda: store_status(running)["degraded"])
        answer = running.post("/v1/responses", {"model": "openai_chat", "input": "two", "previous_response_id": first["id"]})
        if on_failure == "open":
            assert answer.status in (400, 404), answer.body
        else:
            assert answer.status == 503 and error(answer)["code"] == "store_unavailable", answer.body
        assert create(running, "three")["store"] is False
        redis.start()
        works(running)
        assert create(running, "four")["store"] is True


def test_a_signature_is_found_by_another_process(tmp_path: Path, redis: Redis) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    with ExitStack() as stack:
        one, two = (started(stack, tmp_path / name, store_of(redis, tmp_path)) for name in ("one", "two"))
        for running in (one, two):
            works(running)
            running.backs["gemini"].brain = lambda asked: Say(("done",)) if asked.results else Say(calls=(Call("c1", "look", "{}"),))
        ask = {"role": "user", "content": "look"}
        answer = json.loads(one.post("/v1/chat/completions", {"model": "gemini", "messages": [ask], "tools": tools}).body)
        call = answer["choices"][0]["message"]
        works(one)
        result = {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "seen"}
        calls = [{key: one_call[key] for key in ("id", "type", "function")} for one_call in call["tool_calls"]]
        history = [ask, {"role": "assistant", "content": None, "tool_calls": calls}, result]
        found = two.post("/v1/chat/completions", {"model": "gemini", "messages": history, "tools": tools})
        assert found.status == 200, found.body
        assert SIGNATURE in json.dumps(two.backs["gemini"].asked[-1].body), "fetched from Redis"
