"""Content blocks of a Messages request to canonical parts: one function for each type, and the types allowed where.

Images and documents are not decoded: they become data URLs, or keep the URL that the client gave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relayd.protocols import _json
from relayd.protocols.anthropic_messages.call_ids import from_client
from relayd.protocols.canon import File, Image, Part, Reasoning, Text, ToolCall, ToolResult
from relayd.protocols.dialect import Refused, run_steps
from relayd.wire.json_steps import Steps

# Blocks of tools that run on Anthropic's servers, dropped everywhere; so are all other `*_tool_result` blocks.
_SERVER_BLOCKS = frozenset(
    ("server_tool_use", "mcp_tool_use", "mcp_tool_listing", "container_upload", "fallback", "tool_addition",
     "tool_removal", "tool_reference", "browser_state")
)  # fmt: skip
USER = frozenset(("text", "image", "document", "search_result", "tool_result"))
ASSISTANT = frozenset(("text", "thinking", "redacted_thinking", "tool_use", "compaction"))
RESULT = frozenset(("text", "image", "document", "search_result", "tool_reference"))
SYSTEM = frozenset(("text",))


def read_blocks(content: Any, at: str, allowed: frozenset[str]) -> tuple[Part, ...]:
    """As `block_steps`, at once."""
    return run_steps(block_steps(content, at, allowed))


def block_steps(content: Any, at: str, allowed: frozenset[str]) -> Steps[tuple[Part, ...]]:
    """The parts of a message's content: a string, or a list of blocks of the allowed types. Raises Refused."""
    if isinstance(content, str):
        return (Text(content),) if content else ()
    if not isinstance(content, list):
        found = _json.kind_name(content)
        raise Refused(f"Invalid type for '{at}': expected a string or a list, but got {found}.", at, "invalid_type")
    _json.no_more_than(_json.MOST_PARTS, content, at)
    parts: list[Part] = []
    for number, one in enumerate(content):
        here = f"{at}.{number}."
        block = _json.checked(one, "an object", here[:-1])
        kind = _json.required(block, "type", "a string", here)
        if kind in allowed:
            part = (yield from _tool_use(block, here)) if kind == "tool_use" else _READERS[kind](block, here)
            if part is not None:
                parts.append(part)
            yield
        elif kind not in _SERVER_BLOCKS and not kind.endswith("_tool_result"):
            raise Refused(f"{here}type: {kind!r} blocks are not supported here.", f"{here}type")
    return tuple(parts)


def _text(block: dict[str, Any], at: str) -> Part | None:
    text = _json.required(block, "text", "a string", at)
    return Text(text) if text else None


def _image(block: dict[str, Any], at: str) -> Part:
    source = _json.required(block, "source", "an object", at)
    at += "source."
    kind = _json.required(source, "type", "a string", at)
    if kind == "base64":
        return Image(_data_url(source, at))
    if kind == "url":
        return Image(_json.required(source, "url", "a string", at))
    raise Refused(f"{at}type: {kind!r} images cannot be translated; send base64 or url.", f"{at}type")


def _document(block: dict[str, Any], at: str) -> Part | None:
    source = _json.required(block, "source", "an object", at)
    title = _json.optional(block, "title", "a string", at)
    at += "source."
    kind = _json.required(source, "type", "a string", at)
    if kind == "base64":
        return File(title, data=_data_url(source, at))
    if kind == "url":
        return File(title, url=_json.required(source, "url", "a string", at))
    if kind == "text":
        return _titled(title, _json.required(source, "data", "a string", at))
    if kind == "content":
        content = source.get("content")
        texts = read_blocks(content, f"{at}content", SYSTEM)
        return _titled(title, "\n".join(part.text for part in texts if isinstance(part, Text)))
    raise Refused(f"{at}type: {kind!r} documents cannot be translated; send base64, url or text.", f"{at}type")


def _search_result(block: dict[str, Any], at: str) -> Part | None:
    content = read_blocks(block.get("content"), f"{at}content", SYSTEM)
    title, source = _json.a_text(block.get("title")), _json.a_text(block.get("source"))
    heading = f"{title} ({source})" if title and source else title or source
    return _titled(heading, "\n".join(part.text for part in content if isinstance(part, Text)))


def _titled(title: str | None, text: str) -> Part | None:
    joined = f"{title}\n\n{text}" if title and text else text or title
    return Text(joined) if joined else None


def _tool_reference(block: dict[str, Any], at: str) -> Part:
    # The result of a client's own search for tools; all tools were offered from the beginning.
    return Text(f"The tool {_json.required(block, 'tool_name', 'a string', at)} is available.")


def _thinking(block: dict[str, Any], at: str) -> Part:
    text = _json.required(block, "thinking", "a string", at)
    return Reasoning(text, signature=_json.optional(block, "signature", "a string", at) or None)


def _redacted(block: dict[str, Any], at: str) -> Part:
    return Reasoning("", redacted=_json.required(block, "data", "a string", at))


def _compaction(block: dict[str, Any], at: str) -> Part | None:
    text = _json.optional(block, "content", "a string", at)
    return Text(text) if text else None


def _tool_use(block: dict[str, Any], at: str) -> Steps[Part]:
    arguments = _json.optional(block, "input", "an object", at)
    name, identity = _json.required(block, "name", "a string", at), _json.required(block, "id", "a string", at)
    if not name or not identity:
        raise Refused(f"{at}id and {at}name must not be empty.", f"{at}id")
    return ToolCall(from_client(identity), name, (yield from _json.write_text_steps(arguments)) if arguments else "{}")


def _tool_result(block: dict[str, Any], at: str) -> Part:
    identity = _json.required(block, "tool_use_id", "a string", at)
    content = block.get("content")
    parts = () if content is None else read_blocks(content, f"{at}content", RESULT)
    # Only these three come from the blocks that RESULT allows.
    carried = tuple(part for part in parts if isinstance(part, Text | Image | File))
    return ToolResult(from_client(identity), carried, _json.optional(block, "is_error", "a boolean", at) or False)


def _data_url(source: dict[str, Any], at: str) -> str:
    media_type = _json.required(source, "media_type", "a string", at)
    return f"data:{media_type};base64,{_json.required(source, 'data', 'a string', at)}"


_READERS: dict[str, Callable[[dict[str, Any], str], Part | None]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "tool_reference": _tool_reference,
    "thinking": _thinking,
    "redacted_thinking": _redacted,
    "compaction": _compaction,
    "tool_result": _tool_result,
}
