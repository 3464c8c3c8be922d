"""Keys, requests and challenge certificates."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from relayd import clock
from relayd.acme.keys import challenge_pem, key_pem, new_key, read_leaf, request_pem
from tests.unit.server.certificates import certificate


def openssl(*words: str, given: bytes) -> str:
    return subprocess.run(["openssl", *words], input=given, capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize(("kind", "words"), [("ecdsa", "prime256v1"), ("rsa", "2048 bit")])
def test_a_request_names_its_domain_and_is_signed_by_its_key(kind: str, words: str) -> None:
    key = new_key(kind)
    shown = openssl("req", "-noout", "-text", "-verify", given=request_pem(key, "ai.example.org"))
    assert "DNS:ai.example.org" in shown and words in shown
    assert b"BEGIN PRIVATE KEY" in key_pem(key)


def test_a_challenge_certificate_has_the_digest_of_the_authorization() -> None:
    pem = challenge_pem("ai.example.org", b"token.thumb")
    shown = openssl("x509", "-noout", "-text", given=pem)
    assert "DNS:ai.example.org" in shown and "1.3.6.1.5.5.7.1.31: critical" in shown
    der = subprocess.run(["openssl", "x509", "-outform", "DER"], input=pem, capture_output=True, check=True).stdout
    assert b"\x04\x22\x04\x20" + hashlib.sha256(b"token.thumb").digest() in der
    leaf = read_leaf(pem)
    assert leaf.names == ("ai.example.org",) and leaf.begins_s < clock.wall() < leaf.ends_s and leaf.identifier == ""


def test_a_leaf_is_read_with_its_identifier(tmp_path: Path) -> None:
    one = certificate(tmp_path, "A.example", "*.b.example")
    leaf = read_leaf(Path(one.key).read_bytes() + Path(one.cert).read_bytes())
    serial = openssl("x509", "-noout", "-serial", given=Path(one.cert).read_bytes()).strip().partition("=")[2]
    assert leaf.names == ("a.example", "*.b.example") and 86400 < leaf.ends_s - leaf.begins_s <= 2 * 86400
    authority, _, number = leaf.identifier.partition(".")
    assert len(authority) == 27 and number and len(number) >= len(serial) // 2


def test_a_file_without_certificate_or_with_another_key_is_refused(tmp_path: Path) -> None:
    one, two = certificate(tmp_path, "a.example"), certificate(tmp_path, "b.example")
    for pem in (b"", Path(one.key).read_bytes(), Path(two.key).read_bytes() + Path(one.cert).read_bytes()):
        with pytest.raises(ValueError):
            read_leaf(pem)
