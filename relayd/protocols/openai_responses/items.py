"""Converts the input items of a Responses request to canonical messages.

Laws:
1. Consecutive text, reasoning and calls of the assistant are one turn until the output of one of its calls. A tool
   output directly follows the turn of its call, wherever the client put it.
2. A text that follows a text begins a new turn; pending reasoning belongs to that turn. Reasoning is left out if no
   assistant item follows.
3. An item of an unknown type does not fail the request: its text is carried as a user message that names the item's
   type, an item without text is left out, and `unknown` counts both. An invalid part of a known item is refused with
   its path. Items of hosted tools are known, and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any

from relayd.dataclass import dataclass
from relayd.protocols import _json
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
from relayd.protocols.dialect import Refused
from relayd.protocols.openai_responses.reasoning_items import read_reasoning_item
from relayd.protocols.openai_responses.tools import SEARCH, ToolNames
from relayd.wire.json_steps import Steps

_ROLES = ("system", "developer", "user", "assistant")
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_HOSTED = {
    "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "computer_call",
    "computer_call_output", "local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output",
    "apply_patch_call", "apply_patch_call_output", "mcp_call", "mcp_list_tools", "mcp_approval_request",
    "mcp_approval_response", "program", "program_output",
}  # fmt: skip
_TEXT_MEMBERS = ("text", "message", "content", "summary", "output")  # members of unknown items that may contain text
_MAX_TYPE_CHARS = 64
MAX_UNKNOWN_TYPES = 16  # counted types of unknown items; a conversation usually has one or two
COMPACTIONS = ("compaction", "compaction_summary")


@dataclass(slots=True)
class _Turn:
    """A message under construction; owned by its Conversation."""

    role: str
    parts: list[Part] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    calls: int = 0
    has_text: bool = False


class Conversation:
    """Converts items to messages one by one; owned by the reading of one request.

    `unseal(encrypted_content, path)` decrypts a compaction item; it raises Refused.
    """

    def __init__(self, names: ToolNames, unseal: Callable[[str, str], str]) -> None:
        self._names, self._unseal = names, unseal
        self._turns: list[_Turn] = []
        self._pending_reasoning: list[Reasoning] = []  # belongs to the next assistant item
        self._call_turns: dict[str, _Turn] = {}
        self._hosted_calls: set[str] = set()
        self.unknown: dict[tuple[str, str], int] = {}  # items by type and by carried or left_out

    def messages(self) -> tuple[Message, ...]:
        """Return the messages of all items so far."""
        messages = []
        for turn in self._turns:
            messages.append(Message(turn.role, tuple(turn.parts)))
            if turn.results:
                messages.append(Message("tool", tuple(turn.results)))
        return tuple(messages)

    def add_steps(self, item: Mapping[str, Any], at: str) -> Steps[None]:
        """Add an item returned by `typed_item`, in steps; `at` is its path. Raises Refused."""
        kind = item["type"]
        if kind == "message":
            self._message(item, at + ".")
        elif kind == "function_call":
            self._call(item, at + ".", "function", (yield from _arguments(item.get("arguments"), at + ".arguments")))
        elif kind == "custom_tool_call":
            self._call(item, at + ".", "custom", _json.required(item, "input", "a string", at + "."))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._result(item, at + ".")
        elif kind == "reasoning":
            self._pending_reasoning += read_reasoning_item(item, at + ".")
        elif kind in COMPACTIONS:
            sealed = _json.required(item, "encrypted_content", "a string", at + ".")
            self._user(Text(self._unseal(sealed, at + ".encrypted_content")))
        elif kind == "agent_message":
            self._agent_message(item, at + ".")
        elif kind == "tool_search_call":
            yield from self._search_call(item, at + ".")
        elif kind == "tool_search_output":
            yield from self._search_output(item, at + ".")
        elif kind == "additional_tools":
            pass  # item_tool_lists adds them to the tools of the request
        elif kind in _HOSTED:
            self._skip_hosted(item)
        else:
            self._unknown_item(kind, item, at)

    def _skip_hosted(self, item: Mapping[str, Any]) -> None:
        """Leave out the call of a hosted tool, and later its output."""
        if isinstance(item.get("call_id"), str):
            self._hosted_calls.add(item["call_id"])

    def _user(self, *parts: Part) -> None:
        self._pending_reasoning.clear()
        self._turns.append(_Turn("user", list(parts)))

    def _agent_message(self, item: Mapping[str, Any], at: str) -> None:
        """Add a message from one agent of the client to another one; the model acts as the recipient."""
        author = _json.optional(item, "author", "a string", at) or "another agent"
        recipient = _json.optional(item, "recipient", "a string", at)
        heading = f"Message from {author}" + (f" to {recipient}:" if recipient else ":")
        content = item.get("content")
        if not isinstance(content, str):
            content = _json.required(item, "content", "a list", at)
        self._user(Text(heading), *_parts(content, at + "content"))

    def _search_call(self, item: Mapping[str, Any], at: str) -> Steps[None]:
        """Add a tool search call that the client executes; a search by the provider is left out."""
        if item.get("execution") != "client" or item.get("call_id") is None:
            self._skip_hosted(item)
            return
        arguments = yield from _arguments(item.get("arguments"), at + "arguments")
        self._call({**item, "name": SEARCH, "namespace": None}, at, SEARCH, arguments)

    def _search_output(self, item: Mapping[str, Any], at: str) -> Steps[None]:
        """Add the output of a tool search: names and descriptions of the tools found, which are offered as well."""
        call_id = _json.optional(item, "call_id", "a string", at)
        if call_id is None or item.get("execution") == "server":
            return
        declared = self._names.declared_in(_json.a_list(item.get("tools")))
        tools = [{"name": name, **description} for name, description in declared]
        output = yield from _json.write_text_steps({"tools": tools})
        self._result({"call_id": call_id, "output": output}, at)

    def _unknown_item(self, kind: str, item: Mapping[str, Any], at: str) -> None:
        """Carry the text of an unknown item, or leave the item out. Raises Refused for a tool output without text."""
        texts = [text for member in _TEXT_MEMBERS for text in _texts_of(item.get(member))]
        call_id = item.get("call_id")
        turn = self._call_turns.get(call_id) if isinstance(call_id, str) else None
        if turn is None:
            self._skip_hosted(item)
        elif kind.endswith("_output"):
            if not texts:
                raise Refused(f"The item of type '{kind[:_MAX_TYPE_CHARS]}' is the output of a call, but has no text.",
                              at + ".type", "invalid_value")  # fmt: skip
            self._result({"call_id": call_id, "output": "\n".join(texts)}, at + ".")
        if texts and (turn is None or not kind.endswith("_output")):
            role = item.get("role")
            if role in ("system", "developer"):
                self._turns.append(_Turn(role, [Text("\n".join(texts))]))
            else:
                self._turns.append(_Turn("user", [Text("\n".join((f"[{kind[:_MAX_TYPE_CHARS]}]", *texts)))]))
        key = (kind[:_MAX_TYPE_CHARS], "carried" if texts else "left_out")
        if key in self.unknown or len(self.unknown) < MAX_UNKNOWN_TYPES:
            self.unknown[key] = self.unknown.get(key, 0) + 1

    def _assistant_turn(self, has_text: bool) -> _Turn:
        """Return the assistant turn for the next item: the open one or a new one."""
        last = self._turns[-1] if self._turns else None
        if last is None or last.role != "assistant" or last.results or (has_text and last.has_text and not last.calls):
            last = _Turn("assistant")
            self._turns.append(last)
        last.parts += self._pending_reasoning
        self._pending_reasoning.clear()
        return last

    def _message(self, item: Mapping[str, Any], at: str) -> None:
        role = _json.required(item, "role", "a string", at)
        if role not in _ROLES:
            raise Refused(f"The role '{role[:64]}' is not one of {', '.join(_ROLES)}.", at + "role", "invalid_value")
        content = item.get("content")
        if not isinstance(content, str):
            content = _json.required(item, "content", "a list", at)
        parts = _parts(content, at + "content")
        if role != "assistant":
            self._pending_reasoning.clear()
            self._turns.append(_Turn(role, parts))
        elif parts:
            if not all(isinstance(part, Text | Refusal) for part in parts):
                raise Refused("Assistant messages can contain only text and refusals.", at + "content", "invalid_value")
            turn = self._assistant_turn(has_text=True)
            turn.parts += parts
            turn.has_text = True

    def _call(self, item: Mapping[str, Any], at: str, kind: str, arguments: str) -> None:
        call_id = _json.required(item, "call_id", "a string", at)
        name = _json.required(item, "name", "a string", at)
        if not call_id or not name:
            raise Refused("A call needs a call_id and a name.", at + ("name" if call_id else "call_id"))
        namespace = _json.optional(item, "namespace", "a string", at)
        turn = self._assistant_turn(has_text=False)
        endpoint_name = self._names.name_in_history(namespace, name, kind)
        turn.parts.append(ToolCall(call_id, endpoint_name, arguments, "custom" if kind == "custom" else "function"))
        turn.calls += 1
        self._call_turns[call_id] = turn

    def _result(self, item: Mapping[str, Any], at: str) -> None:
        call_id = _json.required(item, "call_id", "a string", at)
        if call_id in self._hosted_calls:
            return
        turn = self._call_turns.get(call_id)
        if turn is None:
            raise Refused(f"No tool call found for the output with call_id '{call_id[:128]}'.", at + "call_id",
                          "tool_call_not_found")  # fmt: skip
        if any(result.call_id == call_id for result in turn.results):
            raise Refused(f"The call '{call_id[:128]}' already has an output.", at + "call_id", "invalid_value")
        output = item.get("output")
        if isinstance(output, str):
            turn.results.append(ToolResult(call_id, (Text(output),)))
            return
        parts: list[Text | Image | File] = []
        entries = _json.required(item, "output", "a list", at)
        _json.no_more_than(_json.MOST_PARTS, entries, at + "output")
        for number, entry in enumerate(entries):
            part = _part(entry, f"{at}output[{number}]")
            if not isinstance(part, Text | Image | File):
                raise Refused("A tool output can contain only text, images and files.", f"{at}output[{number}]")
            parts.append(part)
        turn.results.append(ToolResult(call_id, tuple(parts)))


def typed_item(item: Any, at: str) -> dict[str, Any]:
    """Return a copy of the item with its type: an item with a role and no type is a message. Raises Refused."""
    _json.checked(item, "an object", at)
    kind = item.get("type")
    if kind is None and "role" in item:
        return {"type": "message", **{key: value for key, value in item.items() if key != "type"}}
    _json.required(item, "type", "a string", at + ".")
    return dict(item)


def _parts(content: Any, at: str) -> list[Part]:
    """Read the content of a message, a string or a list of parts. Raises Refused."""
    if isinstance(content, str):
        return [Text(content)]
    _json.no_more_than(_json.MOST_PARTS, content, at)
    return [_part(entry, f"{at}[{number}]") for number, entry in enumerate(content)]


def _texts_of(value: Any) -> Iterator[str]:
    """Yield the texts in a member of an unknown item: a string, an object with `text`, or a list of these."""
    if isinstance(value, dict):
        value = value.get("text")
    for entry in value if isinstance(value, list) else (value,):
        text = entry.get("text") if isinstance(entry, dict) else entry
        if isinstance(text, str) and text.strip():
            yield text


def _arguments(value: Any, at: str) -> Steps[str]:
    if isinstance(value, dict):
        return (yield from _json.write_text_steps(value))
    if value is None or value == "":
        return "{}"
    return str(_json.checked(value, "a string", at))


def _part(entry: Any, at: str) -> Text | Image | File | Audio | Refusal:
    _json.checked(entry, "an object", at)
    kind = _json.required(entry, "type", "a string", at + ".")
    if kind in _TEXTS:
        return Text(_json.required(entry, "text", "a string", at + "."))
    if kind == "encrypted_content":  # only the provider encrypts it; from other endpoints it is plain text
        return Text(_json.required(entry, kind, "a string", at + "."))
    if kind == "refusal":
        return Refusal(_json.required(entry, "refusal", "a string", at + "."))
    if kind == "input_image":
        return _image(entry, at + ".")
    if kind == "input_file":
        file = File(
            _json.optional(entry, "filename", "a string", at + "."),
            _json.optional(entry, "file_data", "a string", at + "."),
            _json.optional(entry, "file_url", "a string", at + "."),
            _json.optional(entry, "file_id", "a string", at + "."),
        )
        if not (file.data or file.url or file.file_id):
            raise Refused("A file needs file_data, file_url or file_id.", at + ".file_data")
        return file
    if kind == "input_audio":
        sound = _json.required(entry, "input_audio", "an object", at + ".")
        at += ".input_audio."
        return Audio(_json.required(sound, "data", "a string", at), _json.required(sound, "format", "a string", at))
    raise Refused(f"Content of type '{kind[:64]}' is not supported.", at + ".type", "invalid_value")


def _image(entry: Mapping[str, Any], at: str) -> Image:
    detail = _json.optional(entry, "detail", "a string", at)
    url = entry.get("image_url")
    if isinstance(url, dict):  # the form of Chat Completions, which some clients send
        detail = detail or _json.optional(url, "detail", "a string", at + "image_url.")
        url = url.get("url")
    if url is None and entry.get("file_id") is not None:
        raise Refused("Images by file_id are not supported: send image_url.", at + "file_id", "invalid_value")
    if not url:
        raise Refused("An image needs image_url.", at + "image_url", "missing_required_parameter")
    return Image(_json.checked(url, "a string", at + "image_url"), detail)
