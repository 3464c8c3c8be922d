"""Which consumer a key belongs to."""

from __future__ import annotations

import pytest

from relayd.access.consumers import Consumers, bearer_key
from relayd.schema import Secret
from relayd.wire.http1 import RequestHead, parse_head


def head(*lines: str) -> RequestHead:
    return parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(line.encode() + b"\r\n" for line in lines) + b"\r\n")


TEAM, OTHER = Secret("team-key", "env TEAM"), Secret("other-key", "env OTHER")
CONSUMERS = Consumers([
    ("team", "bearer", "authorization", TEAM), ("team", "header", "X-Team-Key", TEAM),
    ("other", "bearer", "authorization", OTHER), ("other", "header", "X-Team-Key", OTHER),
])


@pytest.mark.parametrize("line", [
    "Authorization: Bearer team-key", "authorization: bearer   team-key", "AUTHORIZATION:BEARER team-key ",
    "X-Team-Key: team-key", "x-team-key:team-key",
])
def test_a_key_names_its_consumer(line: str) -> None:
    assert CONSUMERS.identify(head(line)) == "team"


@pytest.mark.parametrize("line", [
    "X-A: 1", "Authorization: team-key", "Authorization: Basic team-key", "Authorization: Bearer",
    "Authorization: Bearer ", "Authorization: Bearer team-key x", "Authorization: Bearer team-key,Bearer team-key",
    "Authorization: Bearerteam-key",
    "Authorization: Bearer team-kez", "Authorization: Bearer TEAM-KEY", "Authorization: Bearer\tteam-key",
    "Proxy-Authorization: Bearer team-key", "X-Team-Key:", "X-Team-Key: Bearer team-key",
])
def test_anything_else_is_no_key(line: str) -> None:
    assert CONSUMERS.identify(head(line)) is None


def test_a_repeated_field_is_no_key_even_when_both_say_the_same() -> None:
    line = "Authorization: Bearer team-key"
    assert CONSUMERS.identify(head(line, line)) is None


def test_two_parties_at_once_are_nobody() -> None:
    assert CONSUMERS.identify(head("Authorization: Bearer team-key", "X-Team-Key: other-key")) is None
    assert CONSUMERS.identify(head("Authorization: Bearer team-key", "X-Team-Key: team-key")) == "team"


def test_an_unknown_key_in_one_field_does_not_spoil_a_good_one_in_another() -> None:
    assert CONSUMERS.identify(head("Authorization: Bearer of-the-upstream", "X-Team-Key: other-key")) == "other"


def test_fields_that_may_hold_a_key_are_the_usual_and_the_configured_ones() -> None:
    usual = {b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"proxy-authorization"}
    assert CONSUMERS.key_fields() == usual | {b"x-team-key"}


def test_without_consumers_nobody_is_known() -> None:
    assert Consumers().identify(head("Authorization: Bearer x")) is None
    assert Consumers().names == ()


def test_consumers_with_the_same_key_are_told() -> None:
    assert CONSUMERS.shared() == []
    twice = Consumers([("a", "bearer", "", TEAM), ("b", "bearer", "", TEAM)])
    assert twice.shared() == [("a", "b")]


def test_no_plain_key_is_kept() -> None:
    kept = Consumers([("a", "bearer", "", Secret("sesame", "env A"))])
    assert "sesame" not in repr([getattr(kept, slot) for slot in Consumers.__slots__])


def test_an_unknown_kind_is_a_bug() -> None:
    with pytest.raises(ValueError, match="kind"):
        Consumers([("a", "cookie", "x", TEAM)])


def test_eight_bit_keys_are_bytes() -> None:
    assert bearer_key(b"Bearer \xc3\xa9") == b"\xc3\xa9"
