"""The answer cache of a route, through the real process: every dialect, plain and streamed, passed and translated."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.dialects.fronts import FULL, Body, ChatFront, Front, FullFront
from tests.functional.harness.dialects.gateway import BACKS, FRONT_ROUTES, Gateway, gateway
from tests.functional.harness.dialects.said import Fail, Say
from tests.functional.harness.faults import metric, until
from tests.functional.harness.message import Message
from tests.functional.harness.relay import merged

CHAT = ChatFront()
KEYS = {name: f"key-of-{name}-0123456789" for name in ("ann", "bob")}
ALL = [pytest.param(front, back, stream, id=f"{front.name}-{back}-{'stream' if stream else 'plain'}")
       for front in FULL for back in BACKS for stream in (False, True)]  # fmt: skip
STATUS = re.compile(r"relayd; (hit; ttl=[0-9]+|fwd=[a-z]+)(?:; key=\"([0-9a-f]{32})\")?(?:; detail=([a-z_]+))?")


@contextmanager
def caching(
    folder: Path, cache: Mapping[str, Any] | None = None, change: Mapping[str, Any] | None = None, **more: Any
) -> Iterator[Gateway]:
    """The routes of the full dialects have this cache, and allow ann and bob."""
    folder.mkdir(parents=True, exist_ok=True)
    consumers = {}
    for name, key in KEYS.items():
        (folder / name).write_text(key)
        (folder / name).chmod(0o600)
        consumers[name] = {"bearer": {"file": str(folder / name)}}
    full = {front.name for front in FULL}
    routes = [
        one | {"name": f"cached-{one['name']}", "cache": dict(cache or {}), "allow": ["ann", "bob"]} | more.get("route", {})
        for one in FRONT_ROUTES if one["protocol"] in full
    ]
    with gateway(folder, merged({"consumers": consumers}, change or {}), strict=False, routes=routes,
                 environment=more.get("environment")) as found:  # fmt: skip
        yield found


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with caching(tmp_path_factory.mktemp("cache")) as found:
        yield found


@pytest.fixture
def running(module_gateway: Gateway) -> Gateway:
    module_gateway.fresh()
    return module_gateway


_numbers = iter(range(1_000_000))


def prompt() -> str:
    """A prompt that no other request has."""
    return f"word {next(_numbers)}"


def body_of(front: Front, back: str, stream: bool = False, **members: Any) -> Body:
    return front.ask(back, prompt(), stream=stream) | {"temperature": 0} | members


def ask(running: Gateway, front: Front, back: str, body: Body, *lines: bytes, key: str = KEYS["ann"]) -> Message:
    fields = (f"Authorization: Bearer {key}".encode(),) if key else ()
    return running.ask(front, back, body, *fields, *lines)


def use_of(message: Message) -> tuple[str, str]:
    """hit, miss, request or bypass, and the reason; checks the form of Cache-Status and Age."""
    (value,) = message.get_all("cache-status")
    found = STATUS.fullmatch(value.decode())
    assert found is not None, value
    use = "hit" if found[1].startswith("hit") else found[1].removeprefix("fwd=")
    assert (message.get("age") is not None) is (use == "hit")
    assert (found[2] is not None) is (use != "bypass")
    return use, found[3] or ""


def stored(running: Gateway, result: str = "stored") -> float:
    return metric(running.relay, "relayd_proxy_cache_answers_total", result=result)


def first(running: Gateway, front: Front, back: str, body: Body, *lines: bytes, key: str = KEYS["ann"]) -> Message:
    """The answer of the endpoint, which is in the cache afterwards."""
    before = stored(running)
    found = ask(running, front, back, body, *lines, key=key)
    assert use_of(found)[0] in ("miss", "request")
    until(lambda: stored(running) > before, what="an answer in the cache")
    return found


# ---- what is answered


@pytest.mark.parametrize(("front", "back", "stream"), ALL)
def test_an_equal_request_gets_the_same_answer_without_the_endpoint(
    running: Gateway, front: FullFront, back: str, stream: bool
) -> None:
    body = body_of(front, back, stream)
    there = first(running, front, back, body)
    asked = len(running.backs[back].asked)
    again = ask(running, front, back, dict(reversed(body.items())))
    assert use_of(again) == ("hit", "")
    assert again.body == there.body and again.framing == there.framing
    assert front.read(again, stream).text == front.read(there, stream).text
    assert again.get("content-type") == there.get("content-type")
    assert len(running.backs[back].asked) == asked == 1
    running.check()


def test_a_stream_is_replayed_in_the_pieces_in_which_it_came(running: Gateway) -> None:
    gate = threading.Event()
    running.backs["openai_chat"].brain = lambda asked: Say(("You", " said", " more"), gate=gate, gate_after=2)
    body = body_of(CHAT, "openai_chat", stream=True)
    raw = []
    for use in ("miss", "hit"):
        before = stored(running)
        with running.relay.client() as client:
            client.send(running.bytes_of(CHAT, "openai_chat", body, f"Authorization: Bearer {KEYS['ann']}".encode(), b"Connection: close"))
            received = b""
            while piece := client.sock.recv(65536):
                received += piece
                if b"You" in received:
                    gate.set()
        assert f"relayd; {'hit' if use == 'hit' else 'fwd=miss'}".encode() in received
        raw.append(received.partition(b"\r\n\r\n")[2])
        if use == "miss":
            until(lambda before=before: stored(running) > before)  # type: ignore[misc]
    assert raw[0] == raw[1] and raw[0].count(b"\r\ndata: ") > 1


@pytest.mark.parametrize("members", [
    {"temperature": 0.5}, {"temperature": None}, {"messages": [{"role": "user", "content": "other"}]}, {"seed": 7},
    {"stream": True}, {"max_tokens": 9},
], ids=str)
def test_another_request_is_not_answered(running: Gateway, members: Body) -> None:
    body = body_of(CHAT, "openai_chat")
    first(running, CHAT, "openai_chat", body)
    assert use_of(ask(running, CHAT, "openai_chat", body | members))[0] in ("miss", "bypass")
    assert len(running.backs["openai_chat"].asked) == 2


@pytest.mark.parametrize(("front", "members", "reason"), [
    (FULL[0], {"temperature": 0.1}, "not_deterministic"),
    (FULL[0], {"n": 2}, "samples"),
    (FULL[0], {"store": True}, "stores"),
    (FULL[0], {"web_search_options": {}, "plugins": [{"id": "web"}]}, "stored_state"),
    (FULL[0], {"modalities": ["text", "audio"]}, "audio"),
    (FULL[1], {"store": True}, "stores"),
    (FULL[1], {"tools": [{"type": "web_search"}]}, "server_tools"),
    (FULL[2], {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "server_tools"),
    (FULL[2], {"mcp_servers": [{"type": "url", "url": "https://mcp.example", "name": "x"}]}, "stored_state"),
], ids=lambda value: getattr(value, "name", None) or str(value))  # fmt: skip
def test_what_depends_on_more_than_the_request_is_never_kept(
    running: Gateway, front: FullFront, members: Body, reason: str
) -> None:
    body = body_of(front, front.name, **members)
    before = stored(running)
    for count in (1, 2):
        found = ask(running, front, front.name, body)
        if found.status == 200:
            assert use_of(found) == ("bypass", reason)
        assert len(running.backs[front.name].bodies) == count
    assert stored(running) == before


# ---- what the client asks of the cache


def test_the_client_decides_how_old_an_answer_may_be(running: Gateway) -> None:
    body = body_of(CHAT, "openai_chat")
    first(running, CHAT, "openai_chat", body)
    for value, use in (
        (b"max-age=600", "hit"), (b"max-stale", "hit"), (b"only-if-cached", "hit"), (b"min-fresh=5", "hit"),
        (b"min-fresh=100000", "request"), (b"max-age=0", "request"), (b"no-cache", "request"), (b'max-age="x"', "request"),
        (b"x" * 2000, "bypass"),
    ):
        assert use_of(ask(running, CHAT, "openai_chat", body, b"Cache-Control: " + value))[0] == use, value
    assert use_of(ask(running, CHAT, "openai_chat", body, b"Cache-Control: no-store")) == ("bypass", "no_store")


def test_no_cache_renews_the_answer_and_no_store_leaves_none(running: Gateway) -> None:
    back = running.backs["openai_chat"]
    body = body_of(CHAT, "openai_chat")
    back.brain = lambda asked: Say(("old",))
    first(running, CHAT, "openai_chat", body)
    back.brain = lambda asked: Say(("new",))
    first(running, CHAT, "openai_chat", body, b"Cache-Control: no-cache")
    assert CHAT.read(ask(running, CHAT, "openai_chat", body), False).text == "new"
    other, before = body_of(CHAT, "openai_chat"), stored(running)
    assert use_of(ask(running, CHAT, "openai_chat", other, b"Cache-Control: no-store"))[0] == "bypass"
    assert use_of(ask(running, CHAT, "openai_chat", other))[0] == "miss"
    until(lambda: stored(running) == before + 1)


def test_only_if_cached_never_reaches_an_endpoint(running: Gateway) -> None:
    found = ask(running, CHAT, "openai_chat", body_of(CHAT, "openai_chat"), b"Cache-Control: only-if-cached")
    assert (found.status, json.loads(found.body)["error"]["code"]) == (504, "not_cached")
    assert not running.backs["openai_chat"].asked


def test_a_request_asks_for_the_cache_by_its_max_age(running: Gateway) -> None:
    body = body_of(CHAT, "openai_chat", temperature=0.7)
    assert use_of(ask(running, CHAT, "openai_chat", body)) == ("bypass", "not_deterministic")
    first(running, CHAT, "openai_chat", body, b"Cache-Control: max-age=60")
    assert use_of(ask(running, CHAT, "openai_chat", body, b"Cache-Control: max-age=60"))[0] == "hit"
    assert use_of(ask(running, CHAT, "openai_chat", body))[0] == "bypass"


# ---- what is never bypassed


def test_consumers_have_answers_of_their_own(running: Gateway) -> None:
    body = body_of(CHAT, "openai_chat")
    ann = first(running, CHAT, "openai_chat", body)
    bob = first(running, CHAT, "openai_chat", body, key=KEYS["bob"])
    assert len(running.backs["openai_chat"].asked) == 2
    assert ann.get("cache-status") != bob.get("cache-status"), "the key does not show that others asked the same"
    assert use_of(ask(running, CHAT, "openai_chat", body, key=KEYS["bob"]))[0] == "hit"


@pytest.mark.parametrize("key", ["", "wrong-key-0123456789"])
def test_a_hit_needs_a_valid_key(running: Gateway, key: str) -> None:
    body = body_of(CHAT, "openai_chat")
    first(running, CHAT, "openai_chat", body)
    found = ask(running, CHAT, "openai_chat", body, key=key)
    assert found.status == 401 and found.get("cache-status") is None


# ---- what is not kept


@pytest.mark.parametrize("reply", [
    Say(("You", " said"), breaks="cut"), Say(("You", " said"), breaks="ended"), Say(("You", " said"), breaks="error"),
    Say(("No.",), finish="content_filter"), Say(()), Fail(500), Fail(429), Fail(200, body=b'{"error": {"message": "x"}}', content_type="application/json"),
], ids=str)  # fmt: skip
def test_only_complete_answers_are_kept(running: Gateway, reply: Say | Fail) -> None:
    back = running.backs["openai_chat"]
    before = stored(running)
    for stream in (True, False):
        body = body_of(CHAT, "openai_chat", stream=stream)
        back.brain = lambda asked: reply
        ask(running, CHAT, "openai_chat", body)
        back.brain = lambda asked: Say(("good",))
        whole = ask(running, CHAT, "openai_chat", body)
        assert b"good" in whole.body and use_of(whole)[0] == "miss"
        before += 1
        until(lambda expected=before: stored(running) == expected)  # type: ignore[misc]


def test_an_answer_that_its_client_has_left_is_not_kept(running: Gateway) -> None:
    gate, back = threading.Event(), running.backs["openai_chat"]
    back.brain = lambda asked: Say(("You", " said"), gate=gate, gate_after=2)
    body, before = body_of(CHAT, "openai_chat", stream=True), stored(running)
    with running.relay.client() as client:
        client.send(running.bytes_of(CHAT, "openai_chat", body, f"Authorization: Bearer {KEYS['ann']}".encode()))
        assert client.head_of_answer().status == 200
    running.relay.record(code="client_gone")
    gate.set()
    back.brain = lambda asked: Say(("good",))
    assert use_of(ask(running, CHAT, "openai_chat", body))[0] == "miss"
    until(lambda: stored(running) == before + 1)
