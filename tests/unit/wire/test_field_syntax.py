"""What names and values of fields may be."""

from __future__ import annotations

import re

from relayd.wire.field_syntax import FRAMING, TOKEN, bearer_key_fault, field_name_fault, field_value_fault


def test_a_field_name_is_a_token() -> None:
    assert field_name_fault("X-Request-ID") is None
    for name in ("", "a b", "a:", "ä", "a\n", "a" * 201):
        assert field_name_fault(name)
    assert all(re.fullmatch(TOKEN, name) for name in FRAMING)


def test_a_field_value_cannot_end_the_line() -> None:
    assert field_value_fault("a\tb \xe4") is None
    for value in ("a\r\nb: c", "a\0", "a\x7f", "€", "a" * 8193):
        assert field_value_fault(value)


def test_a_bearer_key_is_one_visible_word() -> None:
    assert bearer_key_fault("sk-1~!") is None
    assert all(bearer_key_fault(key) for key in ("a b", "a\n", "ä", "a\x7f"))
