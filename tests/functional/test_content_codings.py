"""Answers of AI back-ends with a content coding: what relayd reads of others, it reads of these too."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.functional.harness.faults import get, post
from tests.functional.harness.message import Message, answer
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream, saying

KEY = "sk-coded-0123456789"
CHAT, JSON = b"/v1/chat/completions", b"Content-Type: application/json"
ASKED = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}


@pytest.fixture(scope="module")
def relay(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    url = module_upstream.url
    keyed: dict[str, Any] = {"endpoints": [url], "protocol": "openai_chat", "auth": {"bearer": {"env": "UP_KEY"}}}
    change = {
        "upstreams": {"up": None, "plain": {"endpoints": [url]}, "keyed": keyed, "open": {"endpoints": [url], "protocol": "openai_chat"}},
        "routes": [
            {"name": "plain", "match": {"prefix": "/plain/"}, "upstream": "plain"},
            {"name": "open", "match": {"prefix": "/open/"}, "strip_prefix": "/open", "upstream": "open"},
            {"name": "translated", "match": {"path": "/v1/messages"}, "upstream": "keyed", "protocol": "anthropic_messages"},
            {"name": "edited", "match": {"prefix": "/edited/"}, "strip_prefix": "/edited", "upstream": "open", "request_headers": {"set": {"Accept-Encoding": "br, gzip"}}},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "keyed"},
        ],
    }
    with Relay(tmp_path_factory.mktemp("codings"), url, change, environment={"UP_KEY": KEY}) as running:
        yield running


def refusal(message: str = f"Bad request, your key {KEY} is fine", **members: Any) -> bytes:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": "odd", **members}}).encode()


def asked(relay: Relay, *lines: bytes, path: bytes = CHAT) -> Message:
    return post(relay, path, ASKED, JSON, *lines)


@pytest.mark.parametrize("coding", PACK)
def test_a_coded_error_is_read_and_tells_no_key(coding: str, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(PACK[coding](refusal()), JSON, b"Content-Encoding: " + coding.encode(), status=b"400 Bad"))
    told = asked(relay)
    assert told.status == 400 and told.get("content-encoding") is None
    assert json.loads(told.body)["error"]["message"] == "Bad request, your key *** is fine"


@pytest.mark.parametrize("status", [b"400 Bad", b"500 Broken"])
@pytest.mark.parametrize(("coding", "body"), [
    ("br", refusal()), ("zstd", refusal()), ("gzip", b"\x1f\x8bbroken" + KEY.encode()), ("gzip, gzip", gzip.compress(gzip.compress(refusal()))),
    ("gzip", gzip.compress(refusal(padding="p" * 200_000))), ("br", refusal(padding="p" * 200_000)),
], ids=["brotli", "zstd", "no gzip", "twice", "large gzip", "large brotli"])  # fmt: skip
def test_a_coded_error_that_relayd_cannot_read_does_not_bring_the_key(coding: str, body: bytes, status: bytes, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(body, JSON, b"Content-Encoding: " + coding.encode(), status=status))
    told = asked(relay)
    assert told.status in (int(status[:3]), 502) and told.get("content-encoding") is None
    assert KEY.encode() not in told.body and json.loads(told.body)["error"]["message"]


@pytest.mark.parametrize("path", [CHAT, b"/v1/messages"])
def test_an_error_too_large_to_be_read_does_not_bring_the_key(path: bytes, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(refusal(padding="p" * 200_000), JSON, status=b"400 Bad"))
    told = post(relay, path, b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}', JSON)
    assert told.status == 400 and KEY.encode() not in told.body and len(told.body) < 10_000
    assert json.loads(told.body)["error"]["message"]
    assert asked(relay, path=b"/open" + CHAT).body == refusal(padding="p" * 200_000)  # no key of relayd's is at risk


def test_the_usage_of_a_client_that_accepts_other_codings_is_counted(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}', JSON))
    for sent, seen in (
        (b"br", b"identity"), (b"gzip, deflate, br, zstd", b"gzip, deflate"), (b"br;q=1.0, gzip;q=0.8, *;q=0.1", b"gzip;q=0.8"),
        (b"GZip,BR", b"GZip"), (b"gzip, deflate", b"gzip, deflate"), (b"*", b"identity"), (b"identity", b"identity"), (b"x-gzip ;q=1", b"x-gzip ;q=1"),
    ):
        told = asked(relay, b"Accept-Encoding: " + sent)
        assert upstream.request().get_all("accept-encoding") == [seen]
        assert relay.record(id=(told.get("x-request-id") or b"").decode())["tokens_input"] == 7
    asked(relay)
    assert upstream.request().get("accept-encoding") is None
    asked(relay, path=b"/edited" + CHAT)
    assert upstream.request().get_all("accept-encoding") == [b"gzip"]


def test_a_route_without_a_dialect_passes_the_codings_that_the_client_accepts(relay: Relay, upstream: Upstream) -> None:
    get(relay, b"/plain/x", b"Accept-Encoding: br, zstd")
    assert upstream.request().get("accept-encoding") == b"br, zstd"
