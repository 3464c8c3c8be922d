"""Which consumer a key belongs to."""

from __future__ import annotations

import hmac

import pytest

from relayd.access.client_request import ClientRequest
from relayd.access.consumers import Consumers, key_digest
from relayd.access.credential import Credential, bearer_key, plain_key
from relayd.access.identity import Identity
from relayd.schema import Secret
from relayd.wire.http1 import RequestHead, parse_head


def head(*lines: str) -> RequestHead:
    return parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(line.encode() + b"\r\n" for line in lines) + b"\r\n")


def name_in(consumers: Consumers, *lines: str) -> str | None:
    """The consumer that a request with these field lines has."""
    identity = consumers.identify(ClientRequest(head(*lines)))
    return None if identity is None else identity.name


TEAM, OTHER = Secret("team-key", "env TEAM"), Secret("other-key", "env OTHER")


def bearer(secret: Secret) -> Credential:
    return Credential(b"authorization", bearer_key, secret)


CONSUMERS = Consumers([
    (Identity("team"), bearer(TEAM)), (Identity("team"), Credential(b"x-team-key", plain_key, TEAM)),
    (Identity("other"), bearer(OTHER)), (Identity("other"), Credential(b"x-team-key", plain_key, OTHER)),
])


@pytest.mark.parametrize("line", [
    "Authorization: Bearer team-key", "authorization: bearer   team-key", "AUTHORIZATION:BEARER team-key ",
    "X-Team-Key: team-key", "x-team-key:team-key",
])
def test_a_key_names_its_consumer(line: str) -> None:
    assert name_in(CONSUMERS, line) == "team"


@pytest.mark.parametrize("line", [
    "X-A: 1", "Authorization: team-key", "Authorization: Basic team-key", "Authorization: Bearer",
    "Authorization: Bearer ", "Authorization: Bearer team-key x", "Authorization: Bearer team-key,Bearer team-key",
    "Authorization: Bearerteam-key",
    "Authorization: Bearer team-kez", "Authorization: Bearer TEAM-KEY", "Authorization: Bearer\tteam-key",
    "Proxy-Authorization: Bearer team-key", "X-Team-Key:", "X-Team-Key: Bearer team-key",
])
def test_any_other_value_is_not_a_key(line: str) -> None:
    assert name_in(CONSUMERS, line) is None


def test_a_repeated_field_is_no_key_even_when_both_say_the_same() -> None:
    line = "Authorization: Bearer team-key"
    assert name_in(CONSUMERS, line, line) is None


def test_keys_of_two_consumers_identify_neither() -> None:
    assert name_in(CONSUMERS, "Authorization: Bearer team-key", "X-Team-Key: other-key") is None
    assert name_in(CONSUMERS, "Authorization: Bearer team-key", "X-Team-Key: team-key") == "team"


def test_an_unknown_key_in_one_field_does_not_invalidate_a_valid_one_in_another() -> None:
    assert name_in(CONSUMERS, "Authorization: Bearer of-the-upstream", "X-Team-Key: other-key") == "other"


def test_fields_that_may_hold_a_key_are_the_usual_and_the_configured_ones() -> None:
    usual = {b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"proxy-authorization"}
    assert CONSUMERS.key_fields() == usual | {b"x-team-key"}


def test_without_consumers_no_key_is_known() -> None:
    assert name_in(Consumers(), "Authorization: Bearer x") is None
    assert Consumers().names == ()


def test_consumers_with_the_same_key_are_reported() -> None:
    assert CONSUMERS.shared() == []
    twice = Consumers([(Identity("a"), bearer(TEAM)), (Identity("b"), bearer(TEAM))])
    assert twice.shared() == [("a", "b")]


def test_no_plain_key_is_stored() -> None:
    kept = Consumers([(Identity("a"), bearer(Secret("sesame", "env A")))])
    assert "sesame" not in repr([getattr(kept, slot) for slot in Consumers.__slots__])


def test_the_cost_does_not_grow_with_the_number_of_consumers(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append(1)
        return first == second

    monkeypatch.setattr(hmac, "compare_digest", compare)
    many = Consumers((Identity(f"c{number}"), bearer(Secret(f"sk-{number}", "env X"))) for number in range(10_000))
    assert name_in(many, "Authorization: Bearer sk-7777") == "c7777"
    assert len(compared) == 1
    assert name_in(many, "Authorization: Bearer sk-none") is None
    assert len(compared) == 1


def test_a_consumer_is_found_by_the_digest_of_its_key_in_whatever_field() -> None:
    found = CONSUMERS.identify_digest(key_digest(b"team-key"))
    assert found is not None and found.name == "team"
    assert CONSUMERS.identify_digest(key_digest(b"team-kez")) is None
    same = Credential(b"x-other-key", plain_key, Secret("team-key", "env TEAM"))
    both = Consumers([(Identity("team"), bearer(TEAM)), (Identity("other"), same)])
    assert both.identify_digest(key_digest(b"team-key")) is None
