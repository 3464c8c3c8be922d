"""Seals: round trips, and the refusal of any other text."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.seal import SealError, seal, unseal
from tests.aids.growth import linear

KEY, OTHER = b"k" * 32, b"o" * 32


@given(st.text(max_size=200) | st.just("half \ud83d") | st.text(max_size=5).map(lambda text: text * 2000))
def test_a_sealed_text_is_unsealed_unchanged(text: str) -> None:
    sealed = seal(KEY, b"purpose", text)
    assert unseal(KEY, b"purpose", sealed) == text
    assert sealed.isascii() and sealed.isprintable()


@settings(max_examples=200)
@given(st.text(max_size=60), st.integers(0, 10_000), st.integers(1, 255))
def test_a_seal_with_any_byte_changed_is_refused(text: str, position: int, change: int) -> None:
    mark, _, inner = seal(KEY, b"purpose", text).rpartition(".")
    data = bytearray(base64.urlsafe_b64decode(inner + "=="))
    data[position % len(data)] ^= change
    with pytest.raises(SealError):
        unseal(KEY, b"purpose", mark + "." + base64.urlsafe_b64encode(data).decode().rstrip("="))


@given(st.text(max_size=200))
def test_other_texts_are_refused(text: str) -> None:
    for wrong in (text, "relayd-seal-1." + text, "relayd-seal-2." + text):
        with pytest.raises(SealError):
            unseal(KEY, b"purpose", wrong)


def test_a_seal_of_the_earlier_format_is_refused() -> None:
    old = "relayd-seal-1.O1mI7gIEmLbhSbXh3C4CZm2DvJ0qKzM7NBdSgZBmwQ6DYy8CrPqk0z0mJYQH8pUnQyP6h6cdZ6Z0mQ"
    with pytest.raises(SealError, match="not sealed by this server"):
        unseal(KEY, b"purpose", old)


def test_a_seal_that_was_cut_is_refused() -> None:
    sealed = seal(KEY, b"purpose", "a summary")
    for length in range(len(sealed)):
        with pytest.raises(SealError):
            unseal(KEY, b"purpose", sealed[:length])


def test_another_key_or_purpose_does_not_open_it() -> None:
    sealed = seal(KEY, b"purpose", "text")
    for key, purpose in ((OTHER, b"purpose"), (KEY, b"other")):
        with pytest.raises(SealError):
            unseal(key, purpose, sealed)


def test_seals_of_equal_texts_differ_and_reveal_nothing() -> None:
    one, two = seal(KEY, b"p", "secret" * 20), seal(KEY, b"p", "secret" * 20)
    assert one != two
    data = [base64.urlsafe_b64decode(sealed.rpartition(".")[2] + "==") for sealed in (one, two)]
    assert not any(a == b for a, b in zip(data[0][::8], data[1][::8], strict=True)) or data[0] != data[1]
    assert b"secret" not in data[0]
    zeros = base64.urlsafe_b64decode(seal(KEY, b"p", "\0" * 4096).rpartition(".")[2] + "==")[12:-16]
    blocks = [zeros[position : position + 32] for position in range(0, len(zeros), 32)]
    assert len(set(blocks)) == len(blocks) == 128  # the key stream does not repeat


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError):
        seal(b"short", b"p", "x")


def test_a_long_text_costs_linear_time() -> None:
    assert linear(lambda size: unseal(KEY, b"p", seal(KEY, b"p", "x" * size)), 4096)
    assert unseal(KEY, b"p", seal(KEY, b"p", "x" * 65536)) == "x" * 65536
