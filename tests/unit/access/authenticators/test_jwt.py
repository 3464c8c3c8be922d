"""Tokens of an issuer: verified once, remembered until they expire, refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jwt", reason="needs python3-jwt")

from relayd import clock, registry
from relayd.access.authenticators import jwt as module
from relayd.access.authenticators.jwt import Authenticator, Issuer, KeySetSource, Options
from relayd.access.client_request import ClientRequest
from relayd.access.key_set import parse_key_set
from relayd.access.token_claims import Party
from relayd.schema import Secret
from relayd.wire.http1 import parse_head
from tests.aids.tokens import Signer, b64, key_set

SIGNER = Signer("RS256")
NOW = 1_800_000_000.0
CLAIMS: dict[str, Any] = {"iss": "i", "aud": "relayd", "exp": NOW + 60, "sub": "ann"}


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        monkeypatch.setattr(clock, "wall", lambda: self.now)
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def made(folder: Path, *signers: Signer, **options: Any) -> Authenticator:
    file = folder / "jwks.json"
    file.write_bytes(key_set(*(signers or (SIGNER,))))
    settings: dict[str, Any] = {"issuer": "i", "audience": "relayd", "jwks": KeySetSource(file=str(file)), **options}
    one = Authenticator(Options(jwt=Issuer(**settings)))
    one.prepare()
    return one


def asked(one: Authenticator, token: str, field: str = "Authorization: Bearer") -> tuple[Party | None, ClientRequest]:
    request = ClientRequest(parse_head(f"GET / HTTP/1.1\r\nHost: a\r\n{field} {token}\r\n\r\n".encode()))
    return one.party(request), request


def test_a_token_names_the_entry_or_the_member_of_its_claim(time: Clock, tmp_path: Path) -> None:
    assert asked(made(tmp_path), SIGNER.token(CLAIMS))[0] == Party()
    assert asked(made(tmp_path, consumer_claim="sub"), SIGNER.token(CLAIMS))[0] == Party("ann")


@pytest.mark.parametrize(("token", "reason"), [
    (Signer("RS256").token(CLAIMS), "signature"),
    (SIGNER.token(CLAIMS, kid="k2"), "kid"),
    (SIGNER.token({**CLAIMS, "iss": "other"}), "issuer"),
    (SIGNER.token({**CLAIMS, "aud": "other"}), "audience"),
    (SIGNER.token({**CLAIMS, "exp": NOW - 31}), "expired"),
    (SIGNER.token({**CLAIMS, "nbf": NOW + 31}), "not valid yet"),
    (SIGNER.signed({"alg": "none"}, CLAIMS, "none"), "not permitted"),
    (SIGNER.signed({"alg": "None", "kid": "k1"}, CLAIMS, "none"), "not permitted"),
    (SIGNER.signed({"alg": "RS512", "kid": "k1"}, CLAIMS, "RS512"), "not permitted"),
    (Signer("HS256", secret=key_set(SIGNER)).token(CLAIMS), "not permitted"),
    (SIGNER.token(CLAIMS, crit=["x"], x=1), "extension"),
    (SIGNER.token(CLAIMS, jwk=SIGNER.jwk(), kid="k3"), "kid"),
    (SIGNER.token({**CLAIMS, "x": "x" * 16384}), "16 KiB"),
    (SIGNER.token(CLAIMS) + "A", "signature|base64url"),
    (SIGNER.token(CLAIMS).rpartition(".")[0] + ".", "signature"),
    ("a.b.c", "base64url|JSON"),
])
def test_a_token_that_is_not_right_is_refused_with_the_reason(token: str, reason: str, time: Clock, tmp_path: Path) -> None:
    party, request = asked(made(tmp_path), token)
    assert party is None
    assert any(word in request.refusal for word in reason.split("|")), request.refusal
    assert not any(part in request.refusal for part in token.split(".") if len(part) > 3)


def test_with_an_algorithm_of_secrets_permitted_a_public_key_is_still_no_secret(time: Clock, tmp_path: Path) -> None:
    one = made(tmp_path, algorithms=("RS256", "HS256"))
    party, request = asked(one, Signer("HS256", secret=key_set(SIGNER)).token(CLAIMS))
    assert party is None and "not that of its key" in request.refusal


def test_a_secret_is_shared_with_the_issuer(time: Clock) -> None:
    signer = Signer("HS512", secret=b"0123456789" * 7)
    issuer = Issuer(issuer="i", audience="relayd", algorithms=("HS512",), secret=Secret(signer.secret.decode(), "env X"))
    one = Authenticator(Options(jwt=issuer))
    one.prepare()
    assert asked(one, signer.token(CLAIMS))[0] == Party()
    assert asked(one, Signer("HS512", secret=b"1" * 70).token(CLAIMS))[0] is None


def test_a_verified_token_is_remembered_until_it_expires_or_the_keys_change(time: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, token = made(tmp_path), SIGNER.token(CLAIMS)
    verified = 0
    signatures = registry.load("relayd.access", "token_signature")
    real = signatures.is_signature

    def counted(*arguments: Any) -> bool:
        nonlocal verified
        verified += 1
        return bool(real(*arguments))

    monkeypatch.setattr(signatures, "is_signature", counted)
    assert all(asked(one, token)[0] == Party() for _ in range(3)) and verified == 1
    source = one.key_source
    assert source is not None
    source.found(parse_key_set(key_set(SIGNER)), NOW)
    assert asked(one, token)[0] == Party() and verified == 2, "keys that were read again must verify again"
    source.found(parse_key_set(key_set(Signer("RS256", kid="k2"))), NOW)
    assert asked(one, token)[0] is None, "the key was withdrawn"
    source.found(parse_key_set(key_set(SIGNER)), NOW)
    assert asked(one, token)[0] == Party()
    time.now = NOW + 89
    assert asked(one, token)[0] == Party()
    time.now = NOW + 90
    assert asked(one, token)[0] is None


def test_remembered_tokens_are_bounded(time: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VERIFIED", 3)
    one = made(tmp_path)
    tokens = [SIGNER.token({**CLAIMS, "jti": number}) for number in range(9)]
    assert all(asked(one, token)[0] for token in tokens * 2)
    assert len(one._verified) == 3


def test_an_unknown_kid_wants_newer_keys_at_most_once_a_minute(time: Clock, tmp_path: Path) -> None:
    one = made(tmp_path)
    assert one.key_source is not None
    wanted: list[float] = []

    def reads() -> bool:
        wanted.append(time.now)
        return False

    one.key_source.on_wanted = reads
    for step in range(130):
        time.now = NOW + step
        asked(one, SIGNER.token({**CLAIMS, "exp": NOW + 900}, kid=f"made-up-{step}"))
        asked(one, SIGNER.token({**CLAIMS, "iss": "other"}, kid="made-up"))
    assert wanted == [NOW, NOW + 60, NOW + 120]


def test_tokens_wait_for_the_first_keys_and_those_of_other_issuers_do_not(time: Clock) -> None:
    one = Authenticator(Options(jwt=Issuer(issuer="i", audience="relayd", jwks=KeySetSource(url="https://i.example/"))))
    one.prepare()
    party, request = asked(one, SIGNER.token(CLAIMS))
    assert party is None and request.lacks_keys
    assert not asked(one, SIGNER.token({**CLAIMS, "iss": "other"}))[1].lacks_keys


def test_only_tokens_that_cannot_be_genuine_are_guesses(time: Clock, tmp_path: Path) -> None:
    one = made(tmp_path)
    for token, genuine in (
        (SIGNER.token({**CLAIMS, "exp": NOW - 99}), True), (SIGNER.token(CLAIMS, kid="newer"), True), (Signer("RS256").token(CLAIMS), False),
        (SIGNER.token({**CLAIMS, "iss": "other"}), False), ("a.b.c", False),
    ):
        assert asked(one, token)[1].may_be_genuine is genuine


def test_a_token_may_be_in_another_field(time: Clock, tmp_path: Path) -> None:
    one = made(tmp_path, header="Cf-Access-Jwt-Assertion")
    assert list(one.fields()) == [b"cf-access-jwt-assertion"]
    assert asked(one, SIGNER.token(CLAIMS), "CF-Access-JWT-Assertion:")[0] == Party()
    assert asked(one, SIGNER.token(CLAIMS))[0] is None


@pytest.mark.parametrize(("change", "key", "fault"), [
    ({"jwks": None}, "", "exactly one of jwks and secret"), ({"secret": Secret("s" * 40, "env X")}, "", "exactly one of jwks and secret"),
    ({"algorithms": ()}, "algorithms", "is empty"), ({"algorithms": ("RS256", "HS256")}, "algorithms[1]", "no URL may publish"),
    ({"jwks": None, "secret": Secret("s" * 40, "env X")}, "algorithms[0]", "needs public keys"),
    ({"jwks": None, "secret": Secret("short", "env X"), "algorithms": ("HS256",)}, "secret", "fewer than 32 bytes"), ({"header": "Host"}, "header", "framing"),
])
def test_settings_that_contradict_each_other_are_faults(change: dict[str, Any], key: str, fault: str) -> None:
    settings: dict[str, Any] = {"issuer": "i", "jwks": KeySetSource(url="https://i.example/"), **change}
    found = list(Issuer(**settings).check())
    assert any(at == key and fault in text for at, text in found), found


@pytest.mark.parametrize(("text", "fault"), [
    ("ftp://a/", "must begin with http"), ("https:///keys", "must begin with http"), ("https://u:p@a/", "user information"), ("https://a/#x", "fragment"),
    ("https://a/b c", "percent-encoded"), ("https://a:99999/", "not a URL"), ("https://[a/", "not a URL"), ("https://ä/", "percent-encoded"),
])
def test_what_is_no_url_is_a_fault_that_repeats_nothing_of_it(text: str, fault: str) -> None:
    ((key, found),) = KeySetSource(url=text).check()
    assert key == "url" and fault in found and "u:p" not in found


def test_a_file_without_usable_keys_is_a_fault_and_so_are_two_sources(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"keys": [SIGNER.jwk(use="enc")]}))
    assert list(KeySetSource(file="/nowhere/jwks.json").check()) == [("file", "cannot be read: No such file or directory")]
    ((key, text),) = KeySetSource(file=str(bad)).check()
    assert key == "file" and "no usable key" in text
    assert dict(KeySetSource().check())[""] and dict(KeySetSource(file=str(bad), url="https://a/").check())[""]
    assert "ca" in dict(KeySetSource(file=str(bad), ca="/x").check())


def test_keys_over_plain_http_are_a_caution_except_on_this_machine() -> None:
    assert not list(KeySetSource(url="http://127.0.0.1:9/").caution()) and not list(KeySetSource(url="https://a/").caution())
    ((key, text),) = KeySetSource(url="http://issuer.example/").caution()
    assert key == "url" and "WITHOUT TLS" in text


class OneField:
    """A head with one value in every field."""

    names = None

    def __init__(self, value: bytes) -> None:
        self.value = value

    def get_all(self, name_lower: bytes, /) -> list[bytes]:
        return [self.value]


def test_odd_bytes_are_no_token(time: Clock, tmp_path: Path) -> None:
    one = made(tmp_path)
    for token in (b"..", b"\xe9.\xe8.\xea", b"\x00.\x00.\x00", b"a.a.a.a", b"\xff" * 99, f"{b64(b'{}')}.{b64(b'{}')}.".encode(), b"\x7f.\x7f.\x7f", b""):
        assert one.party(ClientRequest(OneField(b"Bearer " + token))) is None
