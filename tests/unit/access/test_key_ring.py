"""Keys of the key store beside the consumers of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.access.client_request import ClientRequest
from relayd.access.consumers import Consumers
from relayd.access.credential import AI_KEY_FIELDS, Credential, bearer_key, plain_key
from relayd.access.identity import Identity
from relayd.access.issued_key import digest_of, new_key
from relayd.access.key_journal import KeyJournal
from relayd.access.key_record import KeyRecord
from relayd.access.key_ring import KeyRing
from relayd.access.key_store import KeyStore
from relayd.schema import Secret
from relayd.wire.http1 import RequestHead, parse_head

KEY = new_key()
LEGACY = "sk-of-another-gateway"


def head(*lines: str) -> RequestHead:
    return parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(line.encode() + b"\r\n" for line in lines) + b"\r\n")


def identity_of(record: KeyRecord) -> Identity | None:
    return None if record.settings.get("group") == "gone" else Identity(record.name)


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    journal = KeyJournal(str(tmp_path))
    records = [
        KeyRecord("000000000001", "issued", digest_of(KEY.encode()).hex()),
        KeyRecord("000000000002", "legacy", digest_of(LEGACY.encode()).hex()),
        KeyRecord("000000000003", "lost", digest_of(b"sk-lost-lost-lost").hex(), settings={"group": "gone"}),
    ]
    with journal.locked():
        journal.append(journal.read(), records, 0.0)
    return KeyRing(KeyStore(str(tmp_path)), identity_of)


@pytest.fixture
def consumers(ring: KeyRing) -> Consumers:
    team = Secret("team-key", "env TEAM")
    credentials = [
        (Identity("team"), Credential(b"authorization", bearer_key, team)), (Identity("team"), Credential(b"x-team", plain_key, team)),
    ]
    return Consumers(credentials, keys=ring, key_fields=AI_KEY_FIELDS)


@pytest.mark.parametrize(("lines", "name"), [
    ((f"Authorization: Bearer {KEY}",), "issued"), ((f"x-api-key: {KEY}",), "issued"), ((f"api-key: {KEY}",), "issued"),
    ((f"x-goog-api-key: {LEGACY}",), "legacy"), (("Authorization: Bearer team-key",), "team"), (("X-Team: team-key",), "team"),
    ((f"X-Team: {KEY}",), None), ((f"Authorization: Bearer {KEY[:-1]}",), None), ((f"Authorization: {KEY}",), None),
    (("Authorization: Bearer sk-lost-lost-lost",), None), (("Authorization: Bearer nobody",), None),
    ((f"Authorization: Bearer {KEY}", f"x-api-key: {KEY}"), "issued"),
    (("Authorization: Bearer team-key", f"x-api-key: {KEY}"), None), ((f"Authorization: Bearer {KEY}", f"x-api-key: {LEGACY}"), None),
    ((f"Authorization: Bearer {KEY}", f"Authorization: Bearer {KEY}"), None),
])
def test_an_issued_key_is_expected_where_clients_of_ai_apis_put_it(consumers: Consumers, lines: tuple[str, ...], name: str | None) -> None:
    identity = consumers.identify(ClientRequest(head(*lines)))
    assert (None if identity is None else identity.name) == name


def test_a_mistyped_key_is_not_looked_up(ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    monkeypatch.setattr(KeyStore, "find", lambda self, digest: asked.append(digest))
    wrong = (KEY[:-1] + ("a" if KEY[-1] != "a" else "b")).encode()
    assert ring.find(wrong, digest_of(wrong)) is None and not asked
    ring.find(KEY.encode(), digest_of(KEY.encode()))
    assert asked


def test_an_identity_is_made_once_and_anew_when_its_key_changes(ring: KeyRing, tmp_path: Path) -> None:
    digest = digest_of(KEY.encode())
    first, second = (ring.find(KEY.encode(), digest) for _ in range(2))
    assert first is not None and second is not None and first[1] is second[1]
    journal = KeyJournal(str(tmp_path))
    with journal.locked():
        journal.append(journal.read(), [KeyRecord("000000000001", "renamed", digest.hex())], 0.0)
    third = ring.find(KEY.encode(), digest)
    assert third is not None and third[1].name == "renamed"


def test_keys_of_the_store_are_consumers_too(ring: KeyRing, tmp_path: Path) -> None:
    assert not Consumers().is_used and not Consumers(keys=KeyRing(KeyStore(str(tmp_path / "none")), identity_of)).is_used
    ring.store.load()
    assert Consumers(keys=ring).is_used
