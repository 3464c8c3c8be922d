"""Keys as they are taken out of header fields."""

from __future__ import annotations

from relayd.access.credential import bearer_key, plain_key


def test_eight_bit_keys_are_bytes() -> None:
    assert bearer_key(b"Bearer \xc3\xa9") == b"\xc3\xa9"


def test_a_bearer_key_is_one_token_after_the_scheme() -> None:
    assert bearer_key(b"bearer  a ") == b"a"
    assert [bearer_key(value) for value in (b"", b"a", b"Basic a", b"Bearer", b"Bearer a b", b"Bearer a\x7f")] == [None] * 6


def test_a_plain_key_is_the_whole_value() -> None:
    assert plain_key(b" a b\t") == b"a b" and plain_key(b" ") is None
