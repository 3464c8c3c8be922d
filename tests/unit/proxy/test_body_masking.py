"""Secrets in the bodies of captured exchanges: credentials by their names, keys in compressed bodies, long keys."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Sequence

import pytest

from relayd.protocols.dialect import run_steps
from relayd.proxy import body_masking
from relayd.proxy.body_masking import is_credential_name, mask_body_steps
from relayd.proxy.captured import PIECE_BYTES, Allowance, BodyCopy
from relayd.wire.key_filter import KeyFilter

KEY = "sk-stored-0123456789"
FORM = b"Content-Type: application/x-www-form-urlencoded"


def masked(data: bytes, *lines: bytes, keys: Sequence[str] = (KEY,), limit: int = 1 << 20, piece: int = 1 << 20) -> BodyCopy:
    allowance = Allowance(1 << 24)
    body = BodyCopy(allowance, limit)
    for start in range(0, len(data), piece):
        body.add(data[start : start + piece], 0.0)
    body.finish()
    filters = [KeyFilter([("header", "", one)]) for one in keys]
    run_steps(mask_body_steps(body, filters, lines, max(map(len, keys), default=0)))
    assert allowance.used_bytes == body.stored_bytes >= PIECE_BYTES * (len(body.sizes) - 1)
    return body


@pytest.mark.parametrize("name", [
    "api_key", "apiKey", "X-Api-Key", "openai_api_key", "access_token", "refreshToken", "client_secret", "password", "Authorization",
    "authorization_token", "Set-Cookie", "aws_secret_access_key",
])  # fmt: skip
def test_names_of_credentials(name: str) -> None:
    assert is_credential_name(name)


@pytest.mark.parametrize("name", [
    "key", "token", "max_tokens", "prompt_cache_key", "signature", "session_id", "author", "eos_token_id", "keyword", "code",
])  # fmt: skip
def test_names_that_have_other_meanings_in_a_body(name: str) -> None:
    assert not is_credential_name(name)


@pytest.mark.parametrize("indent", [None, 2])
def test_credentials_of_tools_are_masked_and_the_rest_stays(indent: int | None) -> None:
    tool = {"type": "mcp", "headers": {"Authorization": "Bearer abc", "X-Note": "n"}, "authorization": 'a "quoted\\" one'}
    body = {"model": "m", "tools": [tool], "logprobs": {"token": "Hello"}, "max_tokens": 5, "mcp_servers": [{"authorization_token": "t"}]}
    found = masked(json.dumps(body, indent=indent).encode(), keys=())
    tool |= {"headers": {"Authorization": "***", "X-Note": "n"}, "authorization": "***"}
    assert json.loads(bytes(found.head)) == body | {"tools": [tool], "mcp_servers": [{"authorization_token": "***"}]}
    assert found.is_masked


def test_credentials_in_json_that_is_a_text_are_masked() -> None:
    for depth in (1, 2):
        text = json.dumps({"api_key": "abc", "x": 1})
        for _ in range(depth):
            text = json.dumps({"arguments": text, "y": 2})
        found = bytes(masked(text.encode()).head)
        assert b"abc" not in found and json.loads(found)["y"] == 2 and b"***" in found


def test_credentials_of_a_form_are_masked() -> None:
    assert bytes(masked(b"a=1&client_secret=x%22y&password=z", FORM).head) == b"a=1&client_secret=***&password=***"
    assert bytes(masked(b"a=1&client_secret=x", b"Content-Type: text/plain").head) == b"a=1&client_secret=x"


@pytest.mark.parametrize("where", range(16 * 1024 - 24, 16 * 1024 + 4))
def test_a_credential_on_the_border_of_two_blocks_is_masked_once(where: int) -> None:
    data = b"." * where + b'"api_key": "abcdef", "x": 1'
    assert bytes(masked(data).head) == b"." * where + b'"api_key": "***", "x": 1'


def deflated(data: bytes, window: int) -> bytes:
    made = zlib.compressobj(wbits=window)
    return made.compress(data) + made.flush()


CODED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "deflate ": lambda data: deflated(data, -15),
    "gzip  ": lambda data: gzip.compress(b"first") + gzip.compress(data),
}  # fmt: skip


@pytest.mark.parametrize("secret", [KEY, '"password": "abc"'])
@pytest.mark.parametrize("coding", CODED)
def test_a_compressed_body_is_kept_only_without_secrets(coding: str, secret: str) -> None:
    line = f"Content-Encoding: {coding}".encode()
    filling = b"".join(b"%d " % number for number in range(40_000))
    data = CODED[coding](filling)
    kept = masked(data, line)
    assert bytes(kept.head) == data and not kept.is_masked
    found = masked(CODED[coding](filling + secret.encode() + filling), line)
    assert not found.head and found.missing == found.size and found.is_masked and len(found.sizes) == 1


@pytest.mark.parametrize(("coding", "data"), [("br", b"x"), ("gzip", b"no gzip"), ("gzip, gzip", b"x"), ("zstd", b"x")])
def test_a_body_that_cannot_be_decoded_is_not_kept(coding: str, data: bytes) -> None:
    assert not masked(data, f"Content-Encoding: {coding}".encode()).head


def test_a_body_that_grows_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_masking, "MAX_INFLATED_BYTES", 1 << 20)
    assert not masked(gzip.compress(bytes(2 << 20)), b"Content-Encoding: gzip").head
    assert masked(gzip.compress(bytes(1 << 19)), b"Content-Encoding: gzip").head


def test_of_a_cut_compressed_body_only_the_beginning_is_kept() -> None:
    data = gzip.compress(b"".join(b"%d " % (number * 7919 % 104729) for number in range(40_000)))
    found = masked(data, b"Content-Encoding: gzip", limit=20_000, piece=1000)
    assert found.head and not found.tail and found.missing == found.size - len(found.head)


@pytest.mark.parametrize("size", [1000, 6000, 40_000])
def test_nothing_of_a_long_key_remains(size: int) -> None:
    """It is longer than what is searched for, than a block, and than what is dropped at a cut."""
    key = "".join(chr(ord("a") + number * number % 26) for number in range(size))
    data = b"." * 10_000 + b'"' + key.encode() + b'"' + b"." * 10_000
    for limit in (1 << 20, 20_000, 24_000):
        found = masked(data, keys=(key,), limit=limit)
        kept = bytes(found.head + found.tail).decode()
        assert not any(key[start : start + 20] in kept for start in range(0, size - 20, 10)), (limit, kept[:50])
