"""Tokens are parsed strictly: whatever is odd about one is refused, and never repeated."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.access.token import MAX_BYTES, TokenFault, is_compact, parse_token
from tests.aids.tokens import Signer, b64

SIGNER = Signer("HS256")
CLAIMS = {"iss": "me", "exp": 5}
HEAD = b64(b'{"alg":"HS256","kid":"k1"}')
BODY = b64(json.dumps(CLAIMS).encode())


def test_a_token_is_parsed_into_what_was_signed_and_the_signature() -> None:
    text = SIGNER.token(CLAIMS)
    token = parse_token(text.encode())
    assert (token.alg, token.kid, token.claims) == ("HS256", "k1", CLAIMS)
    assert token.signed == text.rpartition(".")[0].encode()
    assert token.signature == SIGNER.sign(token.signed)


def test_a_token_needs_no_kid() -> None:
    assert parse_token(SIGNER.token(CLAIMS, kid=None).encode()).kid == ""


@pytest.mark.parametrize(("text", "reason"), [
    (b"", "three parts"),
    (b"a.b", "three parts"),
    (b"a.b.c.d.e", "three parts"),  # encrypted
    (b"..", "not a JSON object"),
    (f"{HEAD}.{BODY}.a".encode(), "not base64url"),
    (f"{HEAD}.{BODY}.YQ==".encode(), "not base64url"),
    (f"{HEAD}.{BODY}.YR".encode(), "not base64url"),  # the same byte as YQ
    (f"{HEAD}.{BODY}.a+b/".encode(), "not base64url"),
    (f"{HEAD}. {BODY}.YQ".encode(), "not base64url"),
    (f"{HEAD}\n.{BODY}.YQ".encode(), "not base64url"),
    (f"{HEAD}.{BODY}.".encode() + b"\xff\x00", "not base64url"),
    (f"{b64(b'[1]')}.{BODY}.YQ".encode(), "not a JSON object"),
    (f"{b64(b'{}')}.{BODY}.YQ".encode(), "names no algorithm"),
    (f"{b64(json.dumps({'alg': 5}).encode())}.{BODY}.YQ".encode(), "names no algorithm"),
    (f"{b64(json.dumps({'alg': 'HS256', 'kid': 5}).encode())}.{BODY}.YQ".encode(), "kid"),
    (f"{b64(json.dumps({'alg': 'HS256', 'kid': 'k' * 600}).encode())}.{BODY}.YQ".encode(), "kid"),
    (f"{b64(json.dumps({'alg': 'HS256', 'crit': ['exp'], 'exp': 1}).encode())}.{BODY}.YQ".encode(), "extension"),
    (f"{b64(json.dumps({'alg': 'HS256', 'crit': []}).encode())}.{BODY}.YQ".encode(), "extension"),
    (f"{b64(json.dumps({'alg': 'HS256', 'b64': False}).encode())}.{BODY}.YQ".encode(), "extension"),
    (f"{HEAD}.{b64(b'[]')}.YQ".encode(), "not a JSON object"),
    (f"{HEAD}.{b64(b'x')}.YQ".encode(), "not a JSON object"),
    (f"{HEAD}.{b64(bytes([0xff, 0xfe]))}.YQ".encode(), "not a JSON object"),
    (f"{HEAD}.{b64(b'[' * 9000)}.YQ".encode(), "not a JSON object"),
    (f"{HEAD}.{b64(b'NaN')}.YQ".encode(), "not a JSON object"),
    (b"a." + b"b" * MAX_BYTES + b".c", "larger than 16 KiB"),
])
def test_what_is_no_token_is_refused_with_the_reason_and_without_a_byte_of_it(text: bytes, reason: str) -> None:
    with pytest.raises(TokenFault, match=reason):
        parse_token(text)


def test_a_name_that_stands_twice_is_refused_because_parsers_read_it_differently() -> None:
    for head, body in (
        ('{"alg":"HS256","alg":"none"}', "{}"), ('{"alg":"HS256"}', '{"exp":1,"exp":9}'), ('{"alg":"HS256"}', '{"a":{"b":1,"b":2}}'),
        ('{"alg":"HS256"}', '{"exp":Infinity}'), ('{"alg":"HS256"}', '{"exp":-Infinity}'),
    ):
        with pytest.raises(TokenFault, match="unique names"):
            parse_token(f"{b64(head.encode())}.{b64(body.encode())}.YQ".encode())


def test_ordinary_keys_are_not_taken_for_tokens() -> None:
    assert not is_compact(b"sk-abcdef") and not is_compact(b"a.b") and is_compact(b"a.b.c")


@given(st.binary(max_size=200) | st.text(alphabet="eyJhbGciOiJIUzI1NiJ9._-=", max_size=200).map(str.encode))
def test_any_bytes_are_a_token_or_a_fault(text: bytes) -> None:
    try:
        parse_token(text)
    except TokenFault as fault:
        assert str(fault)
