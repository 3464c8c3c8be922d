"""Error responses of endpoints: buffered up to a bound, read in their dialect, classified."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import pytest

from relayd.protocols.canon import Failure
from relayd.protocols.registry import load
from relayd.proxy.error_response import MAX_ERROR_BODY_BYTES, ErrorBody, fault_of, read_error_response
from relayd.wire.response import ResponseHead
from tests.unit.proxy.harness import post, running, status_of
from tests.unit.proxy.scripted_endpoints import ScriptedEndpoints

CHAT = """
upstreams:
  a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/a"]}
routes: [{name: all, protocol: openai_chat, upstream: a}]
"""
ERROR = b'{"error":{"message":"odd"}}'
ASKED = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'


def test_a_body_is_buffered_up_to_the_size_of_an_error_object() -> None:
    body = ErrorBody()
    assert body.add([b"a" * (MAX_ERROR_BODY_BYTES - 1), b"b"])
    assert not body.add([b"c"])
    assert len(b"".join(body.pieces)) == body.size_bytes == MAX_ERROR_BODY_BYTES + 1


@pytest.mark.parametrize("size_bytes", [40, MAX_ERROR_BODY_BYTES, 3 * MAX_ERROR_BODY_BYTES])
async def test_an_error_of_any_size_reaches_the_client(tmp_path: Path, size_bytes: int) -> None:
    error = json.dumps({"error": {"message": "no", "type": "x", "padding": ""}}).encode()
    error = error.replace(b'"padding": "', b'"padding": "' + b"p" * max(0, size_bytes - len(error)))
    head = b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(error)
    async with running(tmp_path, ScriptedEndpoints(a=[head + error]), whole=CHAT) as harness:
        side = await harness.connect()
        side.write(post(ASKED, path="/v1/chat/completions"))
        received, body = await side.message()
        assert status_of(received) == 400 and body == error


def test_an_error_is_read_with_the_fields_of_its_head() -> None:
    response = ResponseHead(429, b"")
    response.keep = [b"Retry-After: 7\r\n", b"Content-Type: application/json\r\n"]
    body = b'{"error":{"message":"slow down","code":"rate"}}'
    failure, decoded = read_error_response(load("openai_chat"), response, body)
    assert decoded == body
    assert (failure.status, failure.message, failure.code, failure.retry_after_s) == (429, "slow down", "rate", 7.0)


@pytest.mark.parametrize(("codings", "body", "known"), [
    (["gzip"], gzip.compress(ERROR), True), (["deflate"], zlib.compress(ERROR), True), (["identity"], ERROR, True), (["br"], ERROR, False),
    (["gzip"], ERROR, False), (["gzip", "gzip"], gzip.compress(ERROR), False), (["gzip"], gzip.compress(b"a" * (MAX_ERROR_BODY_BYTES + 1)), False),
], ids=["gzip", "deflate", "identity", "brotli", "no gzip", "twice", "too large"])  # fmt: skip
def test_an_error_is_read_without_its_content_coding(codings: list[str], body: bytes, known: bool) -> None:
    response = ResponseHead(400, b"")
    response.keep = [b"Content-Encoding: %b\r\n" % coding.encode() for coding in codings] + [b"X: 1\r\n"]
    response.coding_line = response.keep[0]
    failure, decoded = read_error_response(load("openai_chat"), response, body)
    assert (decoded == ERROR) is known and (failure.message == "odd") is known
    assert (response.keep == [b"X: 1\r\n"] and not response.coding) is known


@pytest.mark.parametrize("code", ["upstream_cut", "upstream_malformed", "flagged"])
def test_an_error_inside_a_body_has_a_code_of_the_catalogue(code: str) -> None:
    fault = fault_of(Failure(502, "m" * 300, code=code))
    assert fault.kind.code == (code if code.startswith("upstream") else "upstream_failed")
    assert fault.detail == "m" * 200
