"""An estimate of a request's input tokens, for clients that ask relayd to count.

relayd has no tokenizer of an endpoint's model. The estimate is rather too high than too low, because clients use it to
stay below a limit:
- text: one token for four ASCII characters, three for four others, and four for each message and tool;
- tools: their whole definition as JSON text; an image 1,600, a document one for 24 bytes, at least 1,500.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols.canon import (
    Audio,
    File,
    Image,
    Message,
    Part,
    Reasoning,
    Request,
    SharedTools,
    Tool,
    ToolCall,
    ToolResult,
)
from relayd.protocols.dialect import run_steps
from relayd.wire.json_steps import Steps, write_steps

_PER_MESSAGE = 4
_PER_IMAGE = 1600
_PER_DOCUMENT = 1500
_BYTES_PER_TOKEN_OF_DOCUMENT = 24


def input_tokens(request: Request) -> int:
    """The estimated input tokens of a request."""
    return run_steps(count_steps(request))


def count_steps(request: Request) -> Steps[int]:
    """The same in steps."""
    count = 0
    for message in request.messages:
        count += _message(message)
        yield
    count += yield from _tools(request.tools)
    if request.format is not None:
        count += yield from _schema(request.format.schema)
    return count


def _tools(tools: tuple[Tool, ...]) -> Steps[int]:
    if isinstance(tools, SharedTools) and tools.tokens >= 0:
        return tools.tokens
    count = 0
    for tool in tools:
        count += _PER_MESSAGE + _text(tool.name) + _text(tool.description or "")
        count += yield from _schema(tool.parameters)
        yield
    if isinstance(tools, SharedTools):
        tools.tokens = count
    return count


def _message(message: Message) -> int:
    return _PER_MESSAGE + sum(_part(part) for part in message.parts)


def _part(part: Part) -> int:
    if isinstance(part, Image):
        return _PER_IMAGE
    if isinstance(part, File):
        return max(_PER_DOCUMENT, len(part.data or "") * 3 // 4 // _BYTES_PER_TOKEN_OF_DOCUMENT)
    if isinstance(part, ToolCall):
        return _PER_MESSAGE + _text(part.name) + _text(part.arguments)
    if isinstance(part, ToolResult):
        return _PER_MESSAGE + sum(_part(inner) for inner in part.parts)
    if isinstance(part, Reasoning | Audio):
        return 0  # thoughts of earlier turns are not counted by the API either
    return _text(part.text)


def _text(text: str) -> int:
    if text.isascii():
        return -(-len(text) // 4)
    ascii_count = len(text.encode("ascii", "ignore"))
    return -(-ascii_count // 4) + -(-(len(text) - ascii_count) * 3 // 4)


def _schema(schema: Any) -> Steps[int]:
    return 0 if schema is None else _text((yield from write_steps(schema)).decode("utf-8"))
