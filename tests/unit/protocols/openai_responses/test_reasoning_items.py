"""Reasoning items and their signatures: round trips and foreign content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.canon import Reasoning
from relayd.protocols.openai_responses.reasoning_items import (
    pack_encrypted_content,
    pack_native_signature,
    read_reasoning_item,
    unpack_encrypted_content,
    unpack_native_signature,
)


@given(st.none() | st.text(min_size=1), st.none() | st.text(min_size=1))
def test_encrypted_content_round_trips(signature: str | None, redacted: str | None) -> None:
    assert unpack_encrypted_content(pack_encrypted_content(signature, redacted)) == (signature, redacted)


@given(st.text(st.characters(exclude_characters=":"), min_size=1), st.text(min_size=1))
def test_a_native_signature_is_recognised_and_round_trips(item_id: str, encrypted: str) -> None:
    assert unpack_native_signature(pack_native_signature(item_id, encrypted)) == (item_id, encrypted)
    for foreign in (encrypted if not encrypted.startswith("responses:") else "x", None, "responses:", "responses:a"):
        assert unpack_native_signature(foreign) is None


@pytest.mark.parametrize("foreign", [None, 7, "", "gAAAAABo", "relayd-thought-1.%%%", "relayd-thought-1.AAAA", "relayd-thought-1.W10="])
def test_foreign_encrypted_content_is_dropped(foreign: object) -> None:
    assert unpack_encrypted_content(foreign) == (None, None)


def test_raw_content_is_preferred_to_the_summary() -> None:
    item = {"summary": [{"type": "summary_text", "text": "short"}], "content": [{"type": "reasoning_text", "text": "long"}]}
    assert read_reasoning_item(item, "") == [Reasoning("long")]
    assert read_reasoning_item(item | {"content": None}, "") == [Reasoning("short")]


def test_an_item_without_text_and_signature_is_dropped() -> None:
    assert read_reasoning_item({"summary": [], "encrypted_content": "foreign"}, "") == []
    assert read_reasoning_item({"summary": [], "encrypted_content": pack_encrypted_content("s", None)}, "") == [Reasoning("", "s")]
