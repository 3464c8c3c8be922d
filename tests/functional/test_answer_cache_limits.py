"""The answer cache of a route: what it costs, what it never bypasses, who shares it, and how it lives on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.dialects.fronts import FULL
from tests.functional.harness.dialects.gateway import THERE, Gateway
from tests.functional.harness.dialects.said import Say
from tests.functional.harness.faults import metric, until
from tests.functional.harness.message import Message, answer
from tests.functional.harness.redis import Redis, needs_redis
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream
from tests.functional.test_answer_cache import CHAT, KEYS, ask, body_of, caching, first, prompt, stored, use_of

BACK = "openai_chat"
PRICES = f'currency: EUR\n"{THERE[BACK]}": {{input: 1000000, output: 1000000}}\n'  # 1 EUR for a token


def code_of(message: Message) -> str:
    return str(json.loads(message.body)["error"]["code"])


def command(relay: Relay, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "relayd", *words, "--socket", relay.admin_path, "--timeout", "50s"], cwd=relay.folder,
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- rates, budgets, models


def test_a_hit_costs_one_request_and_neither_tokens_nor_money(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(PRICES)
    change = {"prices": str(tmp_path / "prices.yaml")}
    limits = {"rates": [{"requests": 4, "per": "1h"}, {"tokens": 100, "per": "1h"}], "budget": [{"amount": 100, "per": "total"}], "tells_cost": True}
    with caching(tmp_path / "relay", route=limits, change=change) as running:
        running.backs[BACK].brain = lambda asked: Say(("ok",), usage=(11, 7, 0))
        body = body_of(CHAT, BACK, max_tokens=20)
        assert first(running, CHAT, BACK, body).get("x-relayd-cost") == b"18 EUR"
        for left in (b"2", b"1", b"0"):
            hit = ask(running, CHAT, BACK, body)
            assert use_of(hit)[0] == "hit" and hit.get("x-relayd-cost") == b"0 EUR"
            assert hit.get("x-ratelimit-remaining-requests") == left
        refused = ask(running, CHAT, BACK, body)
        assert (refused.status, code_of(refused)) == (429, "rate_limited")
        found = running.relay.record(cache="hit")
        assert (found["saved_input"], found["saved_output"], found["saved_cost"]) == (11, 7, "18 EUR")
        assert (found["upstream"], found["attempts"], found["outcome"], found["status"]) == ("", 0, "complete", 200)
        assert "cost" not in found and "tokens_input" not in found and 0 <= found["cache_age_s"] < 3600
        # The first answer has used 18 tokens and 18 EUR, the hits none.
        assert metric(running.relay, "relayd_limits_used") == pytest.approx(4 / 4 + 18 / 100 + 18 / 100)
        assert metric(running.relay, "relayd_proxy_cache_total", result="hit") == 3
        assert metric(running.relay, "relayd_proxy_cache_saved_tokens_total", direction="input") == 33
        assert metric(running.relay, "relayd_proxy_tokens_total", direction="input") == 11


def test_a_consumer_without_tokens_or_money_gets_no_hit(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(PRICES)
    for number, limits in enumerate(({"rates": [{"tokens": 60, "per": "1h"}]}, {"budget": [{"amount": 60, "per": "total"}]})):
        with caching(tmp_path / f"relay{number}", route=limits, change={"prices": str(tmp_path / "prices.yaml")}) as running:
            running.backs[BACK].brain = lambda asked: Say(("ok",), usage=(40, 25, 0))
            body = body_of(CHAT, BACK, max_tokens=1)
            first(running, CHAT, BACK, body)
            refused = ask(running, CHAT, BACK, body)
            assert refused.status == 429 and refused.get("cache-status") is None


def test_permissions_are_checked_before_the_cache_and_taken_back_at_once(tmp_path: Path) -> None:
    with caching(tmp_path, {"shared": True}) as running:
        body = body_of(CHAT, BACK)
        first(running, CHAT, BACK, body)
        assert use_of(ask(running, CHAT, BACK, body, key=KEYS["bob"]))[0] == "hit", "shared on purpose"
        consumers = running.relay.config["consumers"]
        running.relay.write({"consumers": {"bob": consumers["bob"] | {"models": ["other-*"]}}})
        running.relay.hup()
        until(lambda: ask(running, CHAT, BACK, body, key=KEYS["bob"]).status == 403, what="a refused model")
        assert use_of(ask(running, CHAT, BACK, body))[0] == "hit"


def test_a_revoked_key_gets_no_hit(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with caching(tmp_path / "relay", environment={"STATE_DIRECTORY": str(state)}, change={"groups": {"team": {}}},
                 route={"allow": ["ann", "team"]}) as running:  # fmt: skip
        def keys(*words: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "relayd", "keys", *words, "--state", str(state), "-c", str(running.relay.file)],
                capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        secret = keys("create", "eve", "--group", "team")
        body = body_of(CHAT, BACK)
        first(running, CHAT, BACK, body, key=secret)
        assert use_of(ask(running, CHAT, BACK, body, key=secret))[0] == "hit"
        keys("revoke", "eve")
        assert ask(running, CHAT, BACK, body, key=secret).status == 401


def test_a_clients_own_key_is_not_bypassed(tmp_path: Path) -> None:
    """Without consumers and without a key of relayd's, the endpoint decides which key is valid."""
    whole = json.dumps({
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    }).encode()  # fmt: skip

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(whole, b"Content-Type: application/json", b"Set-Cookie: id=1", b"X-Request-ID: up", b"x-ratelimit-limit-requests: 9"))

    change = {
        "upstreams": {"up": {"protocol": "openai_chat"}},
        "routes": [{"name": "llm", "match": {"prefix": "/v1/"}, "protocol": "openai_chat", "upstream": "up", "cache": {"ttl": "1h", "size": "64MiB", "shared": False}}],
    }
    with Upstream() as up, Relay(tmp_path, up.url + "/v1", change) as relay:
        up.script = script
        running = Gateway(relay, {})
        body = body_of(CHAT, "m")
        for line in (f"Authorization: Bearer {KEYS['ann']}".encode(), b"x-api-key: k", b"Cookie: a=b"):
            assert use_of(ask(running, CHAT, "m", body, line, key="")) == ("bypass", "client_key"), line
        there = first(running, CHAT, "m", body, key="")
        assert there.get("set-cookie") == b"id=1"
        hit = ask(running, CHAT, "m", body, key="")
        assert use_of(hit)[0] == "hit" and hit.body == there.body
        assert hit.get("set-cookie") is hit.get("x-ratelimit-limit-requests") is None and hit.get("x-request-id") != b"up"
        assert use_of(ask(running, CHAT, "m", body, f"Authorization: Bearer {KEYS['ann']}".encode(), key=""))[0] == "bypass"


# ---- where answers live


def test_a_restart_keeps_answers_in_sqlite_and_commands_delete_them(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with caching(tmp_path / "relay", environment={"STATE_DIRECTORY": str(state)}, change={"store": {"kind": "sqlite"}}) as running:
        bodies = [body_of(front, BACK, stream) for front in FULL for stream in (True, False)]
        there = [first(running, front, BACK, body) for front, body in zip([one for one in FULL for _ in (0, 1)], bodies, strict=True)]
        assert running.relay.stop() == 0
        running.relay.start()
        for front, body, message in zip([one for one in FULL for _ in (0, 1)], bodies, there, strict=True):
            hit = ask(running, front, BACK, body)
            assert use_of(hit)[0] == "hit" and hit.body == message.body
        held = json.loads(command(running.relay, "cache", "show", "--json"))
        assert {(one["route"], one["consumer"], one["entries"]) for one in held} == {
            (f"cached-{name}", "ann", 2) for name in ("chat", "responses", "messages")
        }
        assert "would delete 2 answers" in command(running.relay, "cache", "purge", "--route", "cached-chat", "--dry-run")
        assert "deleted 2 answers" in command(running.relay, "cache", "purge", "--route", "cached-chat")
        assert use_of(ask(running, CHAT, BACK, bodies[0]))[0] == "miss"
        assert use_of(ask(running, FULL[1], BACK, bodies[2]))[0] == "hit"
        until(lambda: stored(running) == 1)
        assert " 5 cached" in command(running.relay, "state", "forget", "--consumer", "ann")
        assert use_of(ask(running, FULL[1], BACK, bodies[2]))[0] == "miss"


@needs_redis()
def test_two_instances_share_answers_in_redis_and_go_on_without_it(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as redis, ExitStack() as stack:
        store = {"kind": "redis", "url": redis.url, "prefix": "test", "timeout": "5s", "on_failure": "closed"}
        one, two = (stack.enter_context(caching(tmp_path / name, change={"store": store})) for name in ("one", "two"))
        until(lambda: not any(running.relay.status()["store"]["degraded"] for running in (one, two)))
        body = body_of(CHAT, BACK, stream=True)
        there = first(one, CHAT, BACK, body)
        until(lambda: not one.relay.status()["store"]["waiting"])
        hit = ask(two, CHAT, BACK, body)
        assert use_of(hit)[0] == "hit" and hit.body == there.body and not two.backs[BACK].asked
        assert KEYS["ann"].encode() not in redis.ask("DUMP", redis.keys("*texts*")[0]) if redis.keys("*texts*") else True
        redis.kill()
        for _ in range(3):
            found = ask(two, CHAT, BACK, body)
            assert found.status == 200 and use_of(found)[0] == "miss", "no cache, and no failed request"
        assert ask(two, CHAT, BACK, body_of(CHAT, BACK)).status == 200


@needs_redis()
def test_what_somebody_else_wrote_into_redis_is_no_hit_and_no_failed_request(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as redis:
        store = {"kind": "redis", "url": redis.url, "prefix": "test", "timeout": "5s"}
        with caching(tmp_path / "one", change={"store": store}) as running:
            until(lambda: not running.relay.status()["store"]["degraded"])
            body = body_of(CHAT, BACK)
            first(running, CHAT, BACK, body)
            until(lambda: not running.relay.status()["store"]["waiting"])
            (texts,) = redis.keys("*cached*texts*") or redis.keys("*cache:*texts*")
            key, value = redis.ask("HGETALL", texts)
            known = json.loads(value)
            for wrong in (
                b"", b"garbage", bytes(range(256)), b"[" * 5000, b'{"version":1,"at":' + b"[" * 100_000,
                *(json.dumps(known | change).encode() for change in (
                    {"at": 10**400}, {"at": float("nan")}, {"body": ""}, {"type": ""}, {"type": "a\r\nX: y"}, {"body": "\ud800"})),
            ):  # fmt: skip
                redis.ask("HSET", texts, key, wrong)
                found = ask(running, CHAT, BACK, body)
                assert found.status == 200 and use_of(found)[0] == "miss", (wrong[:80], found.body)
                until(lambda: not running.relay.status()["store"]["waiting"])


def test_a_reload_changes_the_time_to_live_of_what_is_kept(tmp_path: Path) -> None:
    with caching(tmp_path) as running:
        body = body_of(CHAT, BACK)
        first(running, CHAT, BACK, body)
        routes = running.relay.config["routes"]

        def reload(**change: Any) -> None:
            now = running.relay.status()["generation"]
            running.relay.write({"routes": [one | change if "cache" in one else one for one in routes]})
            running.relay.hup()
            until(lambda: running.relay.status()["generation"] > now)

        reload(cache={"ttl": "2h", "size": "1MiB"})
        assert use_of(ask(running, CHAT, BACK, body))[0] == "hit"
        reload(cache={"ttl": "1s"})
        until(lambda: use_of(ask(running, CHAT, BACK, body, b"Cache-Control: no-store"))[0] == "bypass")
        until(lambda: use_of(ask(running, CHAT, BACK, body, b"Cache-Control: max-age=1, no-store"))[0] == "bypass")
        reload(cache={"ttl": "1h"}, request_headers={"set": {"X-A": "b"}})
        assert use_of(ask(running, CHAT, BACK, body))[0] == "miss", "other edits, other answers"
        reload(cache=None)
        assert ask(running, CHAT, BACK, body).get("cache-status") is None


def test_a_route_keeps_no_more_than_its_size_and_the_rest_stays(tmp_path: Path) -> None:
    with caching(tmp_path, {"size": "64KiB", "answer_size": "8KiB"}) as running:
        running.backs[BACK].brain = lambda asked: Say(("x" * 6000,))
        bodies = [body_of(CHAT, BACK) for _ in range(14)]
        for body in bodies:
            first(running, CHAT, BACK, body)
        (held,) = [one for one in json.loads(command(running.relay, "cache", "show", "--json")) if one["entries"]]
        assert held["bytes"] <= 64 * 1024 and 5 < held["entries"] < 14
        assert use_of(ask(running, CHAT, BACK, bodies[-1]))[0] == "hit"
        running.backs[BACK].brain = lambda asked: Say(("x" * 9000,))
        large = body_of(CHAT, BACK)
        assert use_of(ask(running, CHAT, BACK, large))[0] == "miss"
        until(lambda: stored(running, "too_large") == 1)
        assert use_of(ask(running, CHAT, BACK, large))[0] == "miss"


# ---- replays


SIZE = 12 << 20  # more than the kernel holds for one connection
LARGE = {"size": "128MiB", "answer_size": "16MiB"}


def test_slow_readers_of_replays_do_not_grow_memory(tmp_path: Path) -> None:
    readers = 6
    change = {"daemon": {"request_buffers": {"size": "32MiB"}}, "store": {"size": "256MiB"}}
    with caching(tmp_path, LARGE, change=change) as running:
        running.backs[BACK].brain = lambda asked: Say(tuple("y" * 20_000 for _ in range(SIZE // 20_000)))
        body = body_of(CHAT, BACK, stream=True)
        there = first(running, CHAT, BACK, body)
        assert len(there.body) > SIZE
        clients = []
        with ExitStack() as stack:
            for _ in range(readers):
                client = stack.enter_context(running.relay.client(receive_buffer=4096))
                client.send(running.bytes_of(CHAT, BACK, body, f"Authorization: Bearer {KEYS['ann']}".encode()))
                clients.append((client, client.head_of_answer()))
            uses = [use_of(head)[0] for _, head in clients]
            assert uses.count("hit") == 2, "the replays are counted with the buffered bodies; the others ask the endpoint"
            client, head = clients[uses.index("hit")]
            client.body(head, until_close=True)
            assert head.complete and head.body == there.body, "a slow reader gets everything"
        running.relay.wait_quiet()
        buffers = running.relay.status()["request_buffers"]
        assert buffers["used_bytes"] == 0, "nothing is held for replays that have ended"


def test_a_replay_ends_with_its_client(tmp_path: Path) -> None:
    with caching(tmp_path, LARGE, change={"store": {"size": "256MiB"}}) as running:
        running.backs[BACK].brain = lambda asked: Say(tuple("y" * 20_000 for _ in range(SIZE // 20_000)))
        body = body_of(CHAT, BACK, stream=True)
        first(running, CHAT, BACK, body)
        with running.relay.client(receive_buffer=4096) as client:
            client.send(running.bytes_of(CHAT, BACK, body, f"Authorization: Bearer {KEYS['ann']}".encode()))
            assert use_of(client.head_of_answer())[0] == "hit"
        found = running.relay.record(cache="hit")
        assert (found["code"], found["outcome"]) == ("client_gone", "client.transfer")
        running.relay.wait_quiet()


def test_fallback_answers_are_not_kept(tmp_path: Path) -> None:
    models = {"safe": {"upstream": BACK, "model": THERE[BACK], "fallbacks": [{"upstream": "anthropic_messages", "model": THERE["anthropic_messages"], "on": ["any"]}]}}
    with caching(tmp_path, change={"models": models}) as running:
        running.backs[BACK].brain = lambda asked: Say(("own",))
        script = running.backs[BACK].upstream.script
        running.backs[BACK].upstream.script = lambda peer, message: peer.close()
        body = CHAT.ask("safe", prompt()) | {"temperature": 0}
        assert use_of(ask(running, CHAT, "safe", body))[0] == "miss"
        assert running.backs["anthropic_messages"].asked
        running.backs[BACK].upstream.script = script
        until(lambda: b"own" in first(running, CHAT, "safe", body).body)
        assert b"own" in ask(running, CHAT, "safe", body).body


def test_the_openai_sdk_reads_a_replayed_stream(tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    with caching(tmp_path) as running:
        text = prompt()
        with openai.OpenAI(base_url=f"http://127.0.0.1:{running.relay.port}/v1", api_key=KEYS["ann"], max_retries=0, timeout=60) as client:
            heard = []
            for number in (1, 2):
                stream = client.chat.completions.create(model=BACK, temperature=0, stream=True, messages=[{"role": "user", "content": text}])
                heard.append("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
                if number == 1:
                    until(lambda: stored(running) == 1)
        assert heard[0] == heard[1] and text in heard[0] and len(running.backs[BACK].asked) == 1


def test_a_mirror_gets_no_copy_of_a_hit(tmp_path: Path) -> None:
    with caching(tmp_path, route={"mirror": {"upstream": "anthropic_messages"}}) as running:
        body = body_of(CHAT, BACK)
        first(running, CHAT, BACK, body)
        until(lambda: len(running.backs["anthropic_messages"].asked) == 1)
        assert use_of(ask(running, CHAT, BACK, body))[0] == "hit"
        other = body_of(CHAT, BACK)
        first(running, CHAT, BACK, other)
        until(lambda: len(running.backs["anthropic_messages"].asked) == 2)
        assert len(running.backs["anthropic_messages"].asked) == 2
