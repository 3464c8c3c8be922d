"""Content blocks: which type may stand where."""

from __future__ import annotations

import pytest

from relayd.protocols.anthropic_messages import blocks
from relayd.protocols.canon import Text
from relayd.protocols.dialect import Refused


def test_a_string_is_one_text_and_an_empty_one_is_nothing() -> None:
    assert blocks.read_blocks("a", "content", blocks.USER) == (Text("a"),)
    assert blocks.read_blocks("", "content", blocks.USER) == ()
    assert blocks.read_blocks([{"type": "text", "text": ""}], "content", blocks.USER) == ()


def test_every_allowed_type_has_its_reader() -> None:
    allowed = blocks.USER | blocks.ASSISTANT | blocks.RESULT | blocks.SYSTEM
    assert allowed == set(blocks._READERS) | {"tool_use"}
    assert not allowed & blocks._SERVER_BLOCKS - {"tool_reference"}


@pytest.mark.parametrize("kind", ["mcp_tool_use", "code_execution_tool_result", "container_upload", "fallback"])
def test_blocks_of_server_tools_are_left_out(kind: str) -> None:
    assert blocks.read_blocks([{"type": kind}], "content", blocks.ASSISTANT) == ()


def test_a_summary_of_the_conversation_is_its_text() -> None:
    assert blocks.read_blocks([{"type": "compaction", "content": "So far."}], "c", blocks.ASSISTANT) == (Text("So far."),)
    assert blocks.read_blocks([{"type": "compaction", "content": None}], "c", blocks.ASSISTANT) == ()


def test_a_document_in_blocks_is_their_text() -> None:
    source = {"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert blocks.read_blocks([{"type": "document", "source": source}], "c", blocks.USER) == (Text("a\nb"),)


def test_a_call_without_a_name_is_refused() -> None:
    with pytest.raises(Refused):
        blocks.read_blocks([{"type": "tool_use", "id": "a", "name": "", "input": {}}], "c", blocks.ASSISTANT)
