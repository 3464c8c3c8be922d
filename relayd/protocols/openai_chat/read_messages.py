"""The messages of a Chat request to canonical messages: every role, part and call, including old forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._json import no_more_than
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
from relayd.protocols.dialect import Refused, run_steps
from relayd.wire.json_steps import Steps

MAX_MESSAGES = 100_000


def read_messages(entries: list[Any]) -> tuple[Message, ...]:
    """Parse the messages. Raises Refused."""
    return run_steps(message_steps(entries))


def message_steps(entries: list[Any]) -> Steps[tuple[Message, ...]]:
    """The same in steps."""
    if not entries:
        raise Refused("'messages' is empty: at least one message is required.", "messages", "invalid_value")
    if len(entries) > MAX_MESSAGES:
        raise Refused(f"'messages' has more than {MAX_MESSAGES} entries.", "messages", "invalid_value")
    legacy = _LegacyCalls()
    messages: list[Message] = []
    for index, entry in enumerate(entries):
        at = f"messages[{index}]"
        messages.append(_message(_json.checked(entry, "an object", at), f"{at}.", legacy))
        yield
    return tuple(messages)


class _LegacyCalls:
    """Calls of the old form have no ids: the result of a function belongs to the last call with its name."""

    def __init__(self) -> None:
        self._open: dict[str, str] = {}
        self._count = 0

    def call(self, name: str) -> str:
        identity = f"call_function_{self._count}"
        self._count += 1
        self._open[name] = identity
        return identity

    def answer(self, name: str, param: str) -> str:
        identity = self._open.pop(name, None)
        if identity is None:
            raise Refused(f"The result of the function '{name[:64]}' has no call before it.", param, "invalid_value")
        return identity


def _message(entry: Mapping[str, Any], at: str, legacy: _LegacyCalls) -> Message:
    role = _json.required(entry, "role", "a string", at)
    name = _json.optional(entry, "name", "a string", at)
    if role in ("system", "developer"):
        return Message(role, _content(entry, at, ("text",)), name)
    if role == "user":
        return Message(role, _content(entry, at, ("text", "image_url", "input_audio", "file")), name)
    if role == "assistant":
        return Message(role, _assistant(entry, at, legacy), name)
    if role == "tool":
        call_id = _json.required(entry, "tool_call_id", "a string", at)
        return Message(role, (ToolResult(call_id, _result(entry, at)),))
    if role == "function":
        if not name:
            raise Refused(f"Missing required parameter: '{at}name'.", f"{at}name", "missing_required_parameter")
        return Message("tool", (ToolResult(legacy.answer(name, f"{at}name"), _result(entry, at)),))
    raise Refused(
        f"'{at}role' is none of system, developer, user, assistant, tool and function.", f"{at}role", "invalid_value"
    )


def _result(entry: Mapping[str, Any], at: str) -> tuple[Text | Image | File, ...]:
    parts = _content(entry, at, ("text", "image_url", "file"), required=False)
    return tuple(part for part in parts if isinstance(part, Text | Image | File))


def _assistant(entry: Mapping[str, Any], at: str, legacy: _LegacyCalls) -> tuple[Part, ...]:
    parts: list[Part] = []
    thought = entry.get("reasoning_content") or entry.get("reasoning")
    if isinstance(thought, str) and thought:
        parts.append(Reasoning(thought))
    parts += _content(entry, at, ("text", "refusal"), required=False)
    refusal = _json.optional(entry, "refusal", "a string", at)
    if refusal:
        parts.append(Refusal(refusal))
    calls = _json.optional(entry, "tool_calls", "a list", at) or ()
    no_more_than(_json.MOST_PARTS, calls, f"{at}tool_calls")
    for index, call in enumerate(calls):
        location = f"{at}tool_calls[{index}]"
        parts.append(_call(_json.checked(call, "an object", location), f"{location}."))
    function = _json.optional(entry, "function_call", "an object", at)
    if function is not None:
        name = _function_name(function, f"{at}function_call.")
        arguments = _json.optional(function, "arguments", "a string", f"{at}function_call.") or ""
        parts.append(ToolCall(legacy.call(name), name, arguments))
    return tuple(parts)


def _call(entry: Mapping[str, Any], at: str) -> ToolCall:
    identity = _json.required(entry, "id", "a string", at)
    if not identity:
        raise Refused(f"'{at}id' is empty.", f"{at}id", "invalid_value")
    kind = _json.optional(entry, "type", "a string", at) or "function"
    if kind not in ("function", "custom"):
        raise Refused(f"'{at}type' is neither function nor custom.", f"{at}type", "invalid_value")
    inner = _json.required(entry, kind, "an object", at)
    field = "arguments" if kind == "function" else "input"
    google = _json.an_object(_json.an_object(entry.get("extra_content")).get("google"))
    return ToolCall(
        identity,
        _function_name(inner, f"{at}{kind}."),
        _json.optional(inner, field, "a string", f"{at}{kind}.") or "",
        kind,
        _json.a_text(google.get("thought_signature")) or None,
    )


def _function_name(members: Mapping[str, Any], at: str) -> str:
    name: str = _json.required(members, "name", "a string", at)
    if not name:
        raise Refused(f"'{at}name' is empty.", f"{at}name", "invalid_value")
    return name


def _content(
    entry: Mapping[str, Any], at: str, kinds: tuple[str, ...], required: bool = True
) -> tuple[Part, ...]:
    """The parts of a content, which is a string or a list; optional for assistants and tools."""
    value = entry.get("content")
    if isinstance(value, str):
        return (Text(value),) if value or required else ()
    if value is None:
        if required:
            raise Refused(f"Missing required parameter: '{at}content'.", f"{at}content", "missing_required_parameter")
        return ()
    if not isinstance(value, list):
        raise Refused(
            f"Invalid type for '{at}content': expected a string or a list, but got {_json.kind_name(value)}.",
            f"{at}content",
            "invalid_type",
        )
    no_more_than(_json.MOST_PARTS, value, f"{at}content")
    return tuple(_part(one, f"{at}content[{index}]", kinds) for index, one in enumerate(value))


def _part(value: Any, location: str, kinds: tuple[str, ...]) -> Part:
    if isinstance(value, str):  # some clients send a list of plain strings
        return Text(value)
    entry = _json.checked(value, "an object", location)
    at = f"{location}."
    kind = _json.required(entry, "type", "a string", at)
    if kind not in kinds:
        raise Refused(f"'{at}type' is none of {', '.join(kinds)}.", f"{at}type", "invalid_value")
    if kind == "text":
        return Text(_json.required(entry, "text", "a string", at))
    if kind == "refusal":
        return Refusal(_json.required(entry, "refusal", "a string", at))
    if kind == "image_url":
        image = entry.get("image_url")
        if isinstance(image, str):
            return Image(image)
        image = _json.required(entry, "image_url", "an object", at)
        url = _json.required(image, "url", "a string", f"{at}image_url.")
        return Image(url, _json.optional(image, "detail", "a string", f"{at}image_url."))
    if kind == "input_audio":
        audio = _json.required(entry, "input_audio", "an object", at)
        at += "input_audio."
        return Audio(_json.required(audio, "data", "a string", at), _json.required(audio, "format", "a string", at))
    return _file(_json.required(entry, "file", "an object", at), f"{at}file.")


def _file(file: Mapping[str, Any], at: str) -> File:
    name = _json.optional(file, "filename", "a string", at)
    data = _json.optional(file, "file_data", "a string", at)
    identity = _json.optional(file, "file_id", "a string", at)
    if not data and not identity:
        raise Refused(f"Missing required parameter: '{at}file_data'.", f"{at}file_data", "missing_required_parameter")
    if data and data[:5].lower() != "data:":
        data = f"data:application/pdf;base64,{data}"  # bare base64: a PDF is the only document of this dialect
    return File(name, data or None, None, identity)
