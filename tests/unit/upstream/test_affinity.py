"""What belongs together."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from relayd.upstream.affinity import Affinity, cookie_value, hash_of, prompt_prefix

LONG = "You are a helpful assistant. " * 200


def key(by: tuple[str, ...], fields: Mapping[bytes, bytes] | None = None, consumer: str = "", client: str = "",
        body: bytes | None = None, prompt_bytes: int = 4096) -> int | None:
    return Affinity(by, prompt_bytes).key((fields or {}).get, consumer, client, body)


def chat(*turns: str, **members: object) -> bytes:
    messages = [{"role": "system", "content": LONG}] + [{"role": "user", "content": text} for text in turns]
    return json.dumps({"model": "m", **members, "messages": messages}).encode()


def test_the_first_word_that_a_request_has_makes_its_key() -> None:
    by = ("header:X-Session-ID", "consumer", "client")
    assert key(by, {b"x-session-id": b"7"}, "team", "10.0.0.1") == key(by, {b"x-session-id": b"7"}, "other", "10.0.0.2")
    assert key(by, {}, "team", "10.0.0.1") == key(by, {}, "team", "10.0.0.2") != key(by, {}, "other", "10.0.0.1")
    assert key(by, {}, "", "10.0.0.1") == hash_of(b"client::10.0.0.1")


def test_a_request_without_any_of_them_has_no_key() -> None:
    assert key(("header:x", "cookie:y", "session", "prompt", "consumer")) is None


def test_two_words_never_make_the_same_key() -> None:
    assert key(("consumer",), consumer="a") != key(("client",), client="a")
    assert key(("header:a",), {b"a": b"v"}) != key(("header:b",), {b"b": b"v"})


@pytest.mark.parametrize(("line", "value"), [
    (b"sid=42", b"42"), (b"a=1; SID=42; b=2", b"42"), (b"a=1;sid=x=y", b"x=y"), (b"xsid=1", None), (b"sid", None), (None, None),
])
def test_a_cookie_is_found_by_its_name(line: bytes | None, value: bytes | None) -> None:
    assert cookie_value(line, b"sid") == value


def test_a_cookie_makes_a_key() -> None:
    assert key(("cookie:sid",), {b"cookie": b"a=1; sid=42"}) == key(("cookie:SID",), {b"cookie": b"sid=42; b=2"})


def test_a_session_is_what_the_request_calls_it() -> None:
    by = ("session",)
    assert key(by, {b"x-session-id": b"s1"}) == key(by, {b"x-session-id": b"s1"}, body=b'{"prompt_cache_key": "z"}')
    assert key(by, body=b'{"prompt_cache_key": "z", "a": 1}') == key(by, body=b'{"prompt_cache_key": "z"}') is not None
    assert key(by, body=b'{"prompt_cache_key": 5}') is None and key(by, body=b"not json") is None


def test_a_conversation_keeps_its_key_while_it_grows() -> None:
    by = ("prompt",)
    assert key(by, body=chat("a")) == key(by, body=chat("a", "b", "c")) is not None


def test_another_system_prompt_has_another_key() -> None:
    assert key(("prompt",), body=chat("a")) != key(("prompt",), body=chat("a").replace(b"helpful", b"silent"))


def test_what_stands_before_the_prompt_does_not_matter() -> None:
    assert key(("prompt",), body=chat("a", temperature=1)) == key(("prompt",), body=chat("a", top_p=0.5, stream=True))


def test_a_short_prompt_has_no_key_and_leaves_it_to_the_next_word() -> None:
    body = b'{"messages": [{"role": "user", "content": "hi"}]}'
    assert prompt_prefix(body, 4096) is None
    assert key(("prompt", "client"), client="c", body=body) == key(("client",), client="c")


def test_a_request_without_a_body_at_hand_is_judged_by_the_rest() -> None:
    assert key(("prompt", "session", "client"), client="c") == key(("client",), client="c")
    assert Affinity(("prompt",), 1).needs_body and Affinity(("session",), 1).needs_body
    assert not Affinity(("header:a", "consumer"), 1).needs_body


def test_a_number_is_the_same_everywhere() -> None:
    assert hash_of(b"client::10.0.0.1") == 2600871368442456174
