"""Key sets: which key verifies which token, and what is no key."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("jwt", reason="needs python3-jwt")

from relayd.access.key_set import FAMILIES, MAX_BYTES, KeySetFault, UnknownKey, parse_key_set, secret_set
from relayd.access.token import TokenFault, parse_token
from tests.aids.tokens import Signer, b64, key_set

RSA, SMALL = Signer("RS256"), Signer("RS256", bits=1024)
SIGNERS = {
    **{alg: RSA for alg in FAMILIES if FAMILIES[alg][0] == "RSA"}, **{alg: Signer(alg) for alg in ("ES256", "ES384", "ES512", "EdDSA")},
    **{alg: Signer(alg, secret=b"s" * 64) for alg in ("HS256", "HS384", "HS512")},
}  # fmt: skip
CLAIMS = {"sub": "ann"}


def document(*jwks: dict[str, Any]) -> bytes:
    return json.dumps({"keys": jwks}).encode()


def verify(data: bytes, token: str) -> None:
    parse_key_set(data).verify(parse_token(token.encode()))


@pytest.mark.parametrize("alg", FAMILIES)
def test_each_algorithm_verifies_what_it_signed_and_nothing_else(alg: str) -> None:
    signer = SIGNERS[alg]
    token = signer.signed({"alg": alg, "kid": "k1"}, CLAIMS, alg)
    verify(key_set(signer), token)
    head, body, signature = token.split(".")
    other = b64(json.dumps({"sub": "eve"}).encode())
    for forged in (f"{head}.{other}.{signature}", f"{head}.{body}.", f"{head}.{body}.{b64(b'x' * 64)}", f"{head}.{body}.{b64(b'0' * 5000)}"):
        with pytest.raises(TokenFault, match="signature"):
            verify(key_set(signer), forged)


def test_a_public_key_is_never_taken_for_a_secret() -> None:
    """RS256 and HS256 confused: the token is signed with the text of the public key, which everybody knows."""
    for secret in (json.dumps(RSA.jwk()).encode(), key_set(RSA), RSA.jwk()["n"].encode()):
        token = Signer("HS256", secret=secret).token(CLAIMS)
        with pytest.raises(TokenFault, match="algorithm is not that of its key"):
            verify(key_set(RSA), token)


def test_a_key_with_an_algorithm_of_its_own_verifies_no_other() -> None:
    token = RSA.signed({"alg": "PS256", "kid": "k1"}, CLAIMS, "PS256")
    verify(document(RSA.jwk(alg="PS256")), token)
    with pytest.raises(TokenFault, match="algorithm is not that of its key"):
        verify(document(RSA.jwk(alg="RS256")), token)


def test_a_curve_belongs_to_an_algorithm() -> None:
    with pytest.raises(TokenFault, match="algorithm is not that of its key"):
        verify(key_set(SIGNERS["ES384"]), SIGNERS["ES384"].signed({"alg": "ES256", "kid": "k1"}, CLAIMS, "ES384"))


def test_a_token_is_verified_by_the_key_of_its_kid() -> None:
    other = Signer("RS256", kid="k2")
    verify(key_set(RSA, other), other.token(CLAIMS))
    with pytest.raises(TokenFault, match="signature"):
        verify(key_set(RSA, other), other.token(CLAIMS, kid="k1"))
    with pytest.raises(UnknownKey):
        verify(key_set(RSA), other.token(CLAIMS))


def test_a_token_without_a_kid_is_verified_by_any_key_that_fits_up_to_a_bound() -> None:
    token = RSA.token(CLAIMS, kid=None)
    verify(key_set(Signer("RS256", kid="k2"), RSA, SIGNERS["EdDSA"]), token)
    with pytest.raises(TokenFault, match="too many keys"):
        verify(key_set(*(Signer("RS256", kid=f"k{number}") for number in range(4)), RSA), token)


@pytest.mark.parametrize("change", [
    {"use": "enc"}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"alg": "RSA-OAEP"}, {"alg": "none"}, {"alg": ["RS256"]}, {"kid": 5}, {"kty": "XYZ"},
    {"kty": ["RSA"]}, {"n": None}, {"n": 5}, {"n": "AQ"}, {"n": "!!"}, {"n": "A" * 5000}, {"e": "A" * 40}, {"e": b64(b"\x01" * 9)},
])
def test_a_key_that_cannot_verify_is_left_out_and_the_others_stay(change: dict[str, Any]) -> None:
    other = SIGNERS["ES256"]
    assert len(parse_key_set(document(RSA.jwk(**change), other.jwk(kid="e")))) == 1
    with pytest.raises(KeySetFault, match=r"no usable key: keys\[0\]"):
        parse_key_set(document(RSA.jwk(**change)))


def test_a_private_key_in_a_set_is_used_as_the_public_one() -> None:
    verify(document(RSA.jwk(d="AQAB", p="AQ", q="AQ")), RSA.token(CLAIMS))


@pytest.mark.parametrize(("jwk", "reason"), [
    (SMALL.jwk(), "1024 bits"), (Signer("HS256", secret=b"short").jwk(), "fewer than 32 bytes"), ({"kty": "oct"}, "the member k"),
    ({"kty": "oct", "k": "ä"}, "base64url"), (SIGNERS["ES256"].jwk(x="AA"), "no key"), (SIGNERS["ES256"].jwk(x=b64(b"\x01" * 32)), "no key"),
    (SIGNERS["EdDSA"].jwk(x="AA"), "no key"), (SIGNERS["EdDSA"].jwk(crv="X25519"), "no key"), (SIGNERS["ES256"].jwk(crv="P-999"), "no key"),
])
def test_a_weak_or_broken_key_is_named_with_its_reason(jwk: dict[str, Any], reason: str) -> None:
    with pytest.raises(KeySetFault, match=reason):
        parse_key_set(document(jwk))


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "not JSON"), (b"<html>", "not JSON"), (b"\xff\xfe", "not JSON"), (b"[" * 200_000, "not JSON"), (b"[]", "no JWK Set"),
    (b"{}", "no JWK Set"), (b'{"keys": {}}', "no JWK Set"), (b'{"keys": []}', "no usable key"), (b'{"keys": [5, null, []]}', "is no object"),
    (b" " * (MAX_BYTES + 1), "larger than 256 KiB"), (json.dumps({"keys": [{}] * 65}).encode(), "more than 64 keys"),
])
def test_what_is_no_key_set_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(KeySetFault, match=reason):
        parse_key_set(data)


def test_a_shared_secret_verifies_tokens_of_any_kid() -> None:
    signer = Signer("HS256", kid="whatever")
    secret_set(signer.secret).verify(parse_token(signer.token(CLAIMS).encode()))
    secret_set(signer.secret).verify(parse_token(signer.token(CLAIMS, kid=None).encode()))
    with pytest.raises(TokenFault):
        secret_set(signer.secret).verify(parse_token(Signer("HS256", secret=b"t" * 32).token(CLAIMS).encode()))


def test_a_key_without_a_kid_may_be_the_one_that_any_token_names() -> None:
    nameless = document(RSA.jwk(kid=None))
    verify(nameless, RSA.token(CLAIMS))
    with pytest.raises(UnknownKey):  # a newer set may have the key
        verify(nameless, Signer("RS256", kid="k9").token(CLAIMS))


def test_the_secret_of_a_set_is_long_enough() -> None:
    with pytest.raises(KeySetFault, match="32 bytes"):
        secret_set(b"s" * 31)
