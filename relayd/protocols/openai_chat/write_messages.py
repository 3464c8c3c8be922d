"""Canonical messages to the messages of a strict Chat endpoint.

Laws (a violation of each is a 400 of some endpoint):
1. An assistant turn is one message: its texts, its refusal and all its calls, regardless of the number of its items.
2. A message with calls is followed by the results of exactly these calls, in their order; a result is searched in the
   rest of the conversation. A result without a call is Refused; a missing result is filled in or Refused, as the
   upstream's options say.
3. System and tool messages contain text only: images and documents of tools go into a user message after the results.
4. No member is null, no content is an empty list, no assistant message is empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._capabilities import CHAT
from relayd.protocols._tool_arguments import object_text_steps
from relayd.protocols._turns import last_calls
from relayd.protocols.canon import (
    Audio,
    File,
    Image,
    Message,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
)
from relayd.protocols.dialect import Memory, Options, Refused, run_steps
from relayd.protocols.openai_chat import reasoning_details
from relayd.protocols.openai_chat.tool_call_assembler import signature_key
from relayd.wire.json_steps import Steps

UNANSWERED = "(No result: the call was not carried out.)"
RESULT_FOLLOWS = "(The result is in the next message.)"


def write_messages(messages: Iterable[Message], options: Options, memory: Memory) -> list[dict[str, Any]]:
    """The endpoint's messages. Raises Refused."""
    return run_steps(message_steps(messages, options, memory))


def message_steps(messages: Iterable[Message], options: Options, memory: Memory) -> Steps[list[dict[str, Any]]]:
    """The same in steps."""
    turns = yield from _turns(messages)
    last = last_calls(turns)
    results = _ToolResults(turns)
    written: list[dict[str, Any]] = []
    for index, turn in enumerate(turns):
        yield
        if turn.role == "tool":
            continue  # written after its call
        if turn.role == "assistant":
            calls = [part for part in turn.parts if isinstance(part, ToolCall)]
            message = yield from _assistant(turn, calls, options, memory, last)
            if message is None:
                continue
            written.append(message)
            written += results.messages_for(calls, index, options)
        elif turn.role in ("system", "developer"):
            role = turn.role if turn.role == "system" or options.developer_role else "system"
            if text := _joined(turn.parts, "\n", "messages"):
                written.append(_named(turn, {"role": role, "content": text}))
        elif turn.role == "user":
            written.append(_named(turn, {"role": "user", "content": _content(turn.parts)}))
        else:
            raise Refused(f"The role '{turn.role[:64]}' is not supported.", "messages", "unsupported_value")
    results.require_all_used()
    if not written:
        raise Refused("No message has any content.", "messages", "invalid_value")
    return written


def _turns(messages: Iterable[Message]) -> Steps[list[Message]]:
    """Merge consecutive assistant messages into one turn."""
    turns: list[Message] = []
    parts: list[Part] = []  # of the last turn, if it consists of several assistant messages
    name: str | None = None
    speaks = False  # that turn contains text
    for message in messages:
        if message.role == "assistant" and turns and turns[-1].role == "assistant":
            if not parts:
                parts, name = list(turns[-1].parts), turns[-1].name
                speaks = any(isinstance(part, Text) for part in parts)
            has_text = any(isinstance(part, Text) for part in message.parts)
            if speaks and has_text:
                parts.append(Text("\n\n"))
            parts += message.parts
            name, speaks = name or message.name, speaks or has_text
        elif message.parts or message.role in ("user", "system"):
            if parts:
                turns[-1] = Message("assistant", tuple(parts), name)
                parts = []
            turns.append(message)
        yield
    if parts:
        turns[-1] = Message("assistant", tuple(parts), name)
    return turns


class _ToolResults:
    """Matches tool results to calls; an id may be used again in a later turn."""

    def __init__(self, turns: list[Message]) -> None:
        self._pending: dict[str, deque[tuple[int, ToolResult]]] = {}
        for index, turn in enumerate(turns):
            if turn.role == "tool":
                for part in turn.parts:
                    if isinstance(part, ToolResult):
                        self._pending.setdefault(part.call_id, deque()).append((index, part))

    def messages_for(self, calls: list[ToolCall], index: int, options: Options) -> list[dict[str, Any]]:
        """The tool messages after a message with these calls, and a user message with the results' other parts."""
        written: list[dict[str, Any]] = []
        media: list[dict[str, Any]] = []
        for call in calls:
            pending = self._pending.get(call.id)
            if not pending or pending[0][0] < index:
                if options.unanswered_calls == "refuse":
                    raise Refused(f"The tool call '{call.id[:64]}' has no result.", "messages", "invalid_value")
                written.append({"role": "tool", "tool_call_id": call.id, "content": UNANSWERED})
                continue
            parts = pending.popleft()[1].parts
            text = _joined([part for part in parts if isinstance(part, Text)], "\n", "messages")
            others = [part for part in parts if not isinstance(part, Text)]
            if others:
                media.append({"type": "text", "text": f"Result of the call {call.id} of {call.name}:"})
                media += [_part(part) for part in others]
                text = text or RESULT_FOLLOWS
            written.append({"role": "tool", "tool_call_id": call.id, "content": text})
        if media:
            written.append({"role": "user", "content": media})
        return written

    def require_all_used(self) -> None:
        for identity, pending in self._pending.items():
            if pending:
                raise Refused(
                    f"The tool output for '{identity[:64]}' has no tool call before it.",
                    "messages",
                    "invalid_value",
                )


def _assistant(
    turn: Message, calls: list[ToolCall], options: Options, memory: Memory, last: Mapping[str, ToolCall]
) -> Steps[dict[str, Any] | None]:
    text = "".join(part.text for part in turn.parts if isinstance(part, Text))
    refusal = "".join(part.text for part in turn.parts if isinstance(part, Refusal))
    message: dict[str, Any] = {"role": "assistant"}
    if text.strip():
        message["content"] = text
    if refusal:
        message["refusal"] = refusal
    if calls:
        message["tool_calls"] = entries = []
        for call in calls:
            entries.append((yield from _call(call, memory if last[call.id] is call else None)))
            yield
        recalled = (reasoning_details.recall(memory, call.id) for call in calls if last[call.id] is call)
        if details := [one for recalled_entries in recalled for one in recalled_entries]:
            message["reasoning_details"] = details
    if len(message) == 1:
        return None
    if options.reasoning_history == "reasoning_content":
        thoughts = [part.text for part in turn.parts if isinstance(part, Reasoning) and part.text]
        if thoughts:
            message["reasoning_content"] = "\n\n".join(thoughts)
    return _named(turn, message)


def _call(call: ToolCall, memory: Memory | None) -> Steps[dict[str, Any]]:
    if call.kind == "custom":
        arguments = yield from _json.write_text_steps({"input": call.arguments})
    else:
        arguments = yield from object_text_steps(call.arguments)
    entry: dict[str, Any] = {
        "id": call.id,
        "type": "function",
        "function": {"name": CHAT.tool_name(call.name), "arguments": arguments},
    }
    signature: Any = call.signature
    if not signature and memory is not None:
        signature = memory.get(signature_key(call.id))
    if isinstance(signature, str) and signature:
        entry["extra_content"] = {"google": {"thought_signature": signature}}
    return entry


def _named(turn: Message, message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "name": turn.name} if turn.name else message


def _joined(parts: Iterable[Part], gap: str, param: str) -> str:
    texts = []
    for part in parts:
        if not isinstance(part, Text):
            raise Refused(f"A {type(part).__name__.lower()} cannot be in a system message.", param, "invalid_value")
        if part.text:
            texts.append(part.text)
    return gap.join(texts)


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    """A string if all parts are text, because some endpoints accept nothing else; otherwise a list."""
    if all(isinstance(part, Text) for part in parts):
        return _joined(parts, "\n", "messages")
    return [_part(part) for part in parts if not (isinstance(part, Text) and not part.text)]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        image: Mapping[str, Any] = {"url": part.url}
        return {"type": "image_url", "image_url": {**image, "detail": part.detail} if part.detail else image}
    if isinstance(part, Audio):
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
    if isinstance(part, File):
        if not part.data and not part.file_id:
            raise Refused(
                "This upstream does not support a file given by its URL; send its content.",
                "file_url",
                "unsupported_value",
            )
        given = (("filename", part.filename), ("file_data", part.data), ("file_id", part.file_id))
        return {"type": "file", "file": {key: value for key, value in given if value}}
    raise Refused(f"A {type(part).__name__.lower()} cannot be in a user message.", "messages", "invalid_value")
