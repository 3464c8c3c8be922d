"""The items of a Responses conversation, told as messages: who said what, which call got which answer.

Laws:
1. An assistant's consecutive texts, thoughts and calls are one turn until one of its calls is answered. An answer
   stands directly behind the turn that made the call, wherever the client put it.
2. A text behind a text is a turn of its own, and takes the thoughts before it along. Thoughts that nothing follows are
   left out.
3. Nothing unknown is dropped in silence: it is refused by name. What hosted tools left in the history is known, and
   left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
from relayd.protocols.openai_responses.tools import Names

_ROLES = ("system", "developer", "user", "assistant")
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_HOSTED = {
    "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "computer_call",
    "computer_call_output", "local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output",
    "apply_patch_call", "apply_patch_call_output", "mcp_call", "mcp_list_tools", "mcp_approval_request",
    "mcp_approval_response", "tool_search_call", "tool_search_output",
}  # fmt: skip
COMPACTIONS = ("compaction", "compaction_summary")


@dataclass(slots=True)
class _Turn:
    """One message in the making; owned by its Conversation."""

    role: str
    parts: list[Part] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    calls: int = 0
    speaks: bool = False


class Conversation:
    """Takes items one by one and tells them as messages; owned by the reading of one request.

    `unseal` opens the content of a compaction item; it raises Refused.
    """

    def __init__(self, names: Names, unseal: Callable[[str, str], str]) -> None:
        self._names, self._unseal = names, unseal
        self._turns: list[_Turn] = []
        self._thoughts: list[Reasoning] = []  # for whatever the assistant does next
        self._callers: dict[str, _Turn] = {}
        self._hosted_calls: set[str] = set()

    def messages(self) -> tuple[Message, ...]:
        """The conversation so far."""
        told = []
        for turn in self._turns:
            told.append(Message(turn.role, tuple(turn.parts)))
            if turn.results:
                told.append(Message("tool", tuple(turn.results)))
        return tuple(told)

    def add(self, item: Mapping[str, Any], at: str) -> None:
        """Take one item, whose type `whole_item` has made sure of. Raises Refused; `at` says where it stands."""
        kind = item["type"]
        if kind == "message":
            self._message(item, at + ".")
        elif kind == "function_call":
            self._call(item, at + ".", "function", _arguments(item.get("arguments"), at + ".arguments"))
        elif kind == "custom_tool_call":
            self._call(item, at + ".", "custom", _json.required(item, "input", "a string", at + "."))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._result(item, at + ".")
        elif kind == "reasoning":
            self._thoughts += read_reasoning_item(item, at + ".")
        elif kind in COMPACTIONS:
            sealed = _json.required(item, "encrypted_content", "a string", at + ".")
            self._user(Text(self._unseal(sealed, at + ".encrypted_content")))
        elif kind in _HOSTED:
            if isinstance(item.get("call_id"), str):
                self._hosted_calls.add(item["call_id"])
        else:
            raise Refused(f"Items of type '{kind[:64]}' are not supported.", f"{at}.type", "invalid_value")

    def _user(self, *parts: Part) -> None:
        self._thoughts.clear()
        self._turns.append(_Turn("user", list(parts)))

    def _assistant(self, speaks: bool) -> _Turn:
        """The assistant's turn that what comes now belongs to."""
        last = self._turns[-1] if self._turns else None
        if last is None or last.role != "assistant" or last.results or (speaks and last.speaks and not last.calls):
            last = _Turn("assistant")
            self._turns.append(last)
        last.parts += self._thoughts
        self._thoughts.clear()
        return last

    def _message(self, item: Mapping[str, Any], at: str) -> None:
        role = _json.required(item, "role", "a string", at)
        if role not in _ROLES:
            raise Refused(f"The role '{role[:64]}' is not one of {', '.join(_ROLES)}.", at + "role", "invalid_value")
        content = item.get("content")
        parts: list[Part]
        if isinstance(content, str):
            parts = [Text(content)]
        else:
            parts = []
            for number, entry in enumerate(_json.required(item, "content", "a list", at)):
                parts.append(_part(entry, f"{at}content[{number}]"))
        if role != "assistant":
            self._thoughts.clear()
            self._turns.append(_Turn(role, parts))
        elif parts:
            if not all(isinstance(part, Text | Refusal) for part in parts):
                raise Refused("An assistant's message holds text and refusals only.", at + "content", "invalid_value")
            turn = self._assistant(speaks=True)
            turn.parts += parts
            turn.speaks = True

    def _call(self, item: Mapping[str, Any], at: str, kind: str, arguments: str) -> None:
        call_id = _json.required(item, "call_id", "a string", at)
        name = _json.required(item, "name", "a string", at)
        if not call_id or not name:
            raise Refused("A call needs a call_id and a name.", at + ("name" if call_id else "call_id"))
        namespace = _json.optional(item, "namespace", "a string", at)
        turn = self._assistant(speaks=False)
        turn.parts.append(ToolCall(call_id, self._names.of_history(namespace, name, kind), arguments, kind))
        turn.calls += 1
        self._callers[call_id] = turn

    def _result(self, item: Mapping[str, Any], at: str) -> None:
        call_id = _json.required(item, "call_id", "a string", at)
        if call_id in self._hosted_calls:
            return
        turn = self._callers.get(call_id)
        if turn is None:
            raise Refused(f"No tool call found for the output with call_id '{call_id[:128]}'.", at + "call_id",
                          "tool_call_not_found")  # fmt: skip
        if any(result.call_id == call_id for result in turn.results):
            raise Refused(f"The call '{call_id[:128]}' has been answered already.", at + "call_id", "invalid_value")
        output = item.get("output")
        if isinstance(output, str):
            turn.results.append(ToolResult(call_id, (Text(output),)))
            return
        parts: list[Text | Image | File] = []
        for number, entry in enumerate(_json.required(item, "output", "a list", at)):
            part = _part(entry, f"{at}output[{number}]")
            if not isinstance(part, Text | Image | File):
                raise Refused("A tool's output holds text, images and files only.", f"{at}output[{number}]")
            parts.append(part)
        turn.results.append(ToolResult(call_id, tuple(parts)))


def whole_item(item: Any, at: str) -> dict[str, Any]:
    """An item with its type: what has a role and no type is a message. Raises Refused."""
    _json.checked(item, "an object", at)
    kind = item.get("type")
    if kind is None and "role" in item:
        return {"type": "message", **{key: value for key, value in item.items() if key != "type"}}
    _json.required(item, "type", "a string", at + ".")
    return dict(item)


def _arguments(value: Any, at: str) -> str:
    if isinstance(value, dict):
        return _json.write_text(value)
    if value is None or value == "":
        return "{}"
    return str(_json.checked(value, "a string", at))


def _part(entry: Any, at: str) -> Text | Image | File | Audio | Refusal:
    _json.checked(entry, "an object", at)
    kind = _json.required(entry, "type", "a string", at + ".")
    if kind in _TEXTS:
        return Text(_json.required(entry, "text", "a string", at + "."))
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
    if isinstance(url, dict):  # the form of Chat, which some clients keep
        detail = detail or _json.optional(url, "detail", "a string", at + "image_url.")
        url = url.get("url")
    if url is None and entry.get("file_id") is not None:
        raise Refused("Images by file_id are not supported: send image_url.", at + "file_id", "invalid_value")
    if not url:
        raise Refused("An image needs image_url.", at + "image_url", "missing_required_parameter")
    return Image(_json.checked(url, "a string", at + "image_url"), detail)
