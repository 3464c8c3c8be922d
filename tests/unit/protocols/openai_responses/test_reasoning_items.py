"""Thoughts and their proofs, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.canon import Reasoning
from relayd.protocols.openai_responses.reasoning_items import (
    pack_native,
    pack_proof,
    read_reasoning_item,
    unpack_native,
    unpack_proof,
)


@given(st.none() | st.text(min_size=1), st.none() | st.text(min_size=1))
def test_a_proof_comes_back_unchanged(signature: str | None, redacted: str | None) -> None:
    assert unpack_proof(pack_proof(signature, redacted)) == (signature, redacted)


@given(st.text(st.characters(exclude_characters=":"), min_size=1), st.text(min_size=1))
def test_a_native_proof_says_whose_it_is_and_comes_back_unchanged(item_id: str, encrypted: str) -> None:
    assert unpack_native(pack_native(item_id, encrypted)) == (item_id, encrypted)
    for foreign in (encrypted if not encrypted.startswith("responses:") else "x", None, "responses:", "responses:a"):
        assert unpack_native(foreign) is None


@pytest.mark.parametrize("foreign", [None, 7, "", "gAAAAABo", "relayd-thought-1.%%%", "relayd-thought-1.AAAA", "relayd-thought-1.W10="])
def test_what_others_sealed_is_left_out(foreign: object) -> None:
    assert unpack_proof(foreign) == (None, None)


def test_raw_content_is_preferred_to_the_summary() -> None:
    item = {"summary": [{"type": "summary_text", "text": "short"}], "content": [{"type": "reasoning_text", "text": "long"}]}
    assert read_reasoning_item(item, "") == [Reasoning("long")]
    assert read_reasoning_item(item | {"content": None}, "") == [Reasoning("short")]


def test_an_empty_thought_is_none() -> None:
    assert read_reasoning_item({"summary": [], "encrypted_content": "foreign"}, "") == []
    assert read_reasoning_item({"summary": [], "encrypted_content": pack_proof("s", None)}, "") == [Reasoning("", "s")]
