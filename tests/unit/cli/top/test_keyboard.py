"""Bytes of a terminal as keys, however they arrive."""

from __future__ import annotations

import pytest

from relayd.cli.top.keyboard import KeyDecoder

ALL = "qé日\t\r\x7f\x15\x0c\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[Z\x1b[1;5C\x1b[H\x1b[200~x".encode()
KEYS = ["q", "é", "日", "tab", "enter", "backspace", "clear", "redraw", "up", "down", "page_up", "page_down", "backtab", "home", "x"]


@pytest.mark.parametrize("at", range(len(ALL) + 1))
def test_keys_do_not_depend_on_the_pieces(at: int) -> None:
    decoder = KeyDecoder()
    assert decoder.feed(ALL[:at]) + decoder.feed(ALL[at:]) == KEYS
    assert not decoder.is_waiting and decoder.flush() == []


def test_escape_is_a_key_if_nothing_follows() -> None:
    decoder = KeyDecoder()
    assert decoder.feed(b"\x1b") == [] and decoder.is_waiting
    assert decoder.flush() == ["escape"] and not decoder.is_waiting
    assert decoder.feed(b"\x1bx") == ["escape", "x"]
    assert decoder.feed(b"\x1b\x1b[A") == ["escape", "up"]
    assert decoder.feed(b"\x1b[1;") == [] and decoder.flush() == []


def test_no_control_character_and_no_invalid_byte_is_a_key() -> None:
    decoder = KeyDecoder()
    assert decoder.feed(b"\x00\x01\xff\xfea\xe2\x80\xaeb") == ["a", "b"]
    assert decoder.feed(b"\x1b[" + b"1" * 100) == ["escape", "[", *"1" * 100]
