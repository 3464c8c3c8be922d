"""A conversation as Gemini's `contents` and `systemInstruction`.

Laws:
1. Consecutive turns of one role are one content. No content and no text is empty: Gemini rejects both.
2. The results of a turn's calls are one content after it, in the order of the calls, regardless of the order and number
   of tool messages; a call without a result gets a placeholder or is Refused, as the options say.
3. A batch of calls is one content, even if the history has a message for each: only its first call has a signature.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._capabilities import GEMINI, ModelFamily
from relayd.protocols._data_url import is_data_url, media_type_of_url, parse_data_url
from relayd.protocols._tool_arguments import arguments_steps, require_few_values
from relayd.protocols._turns import last_calls, merge_turns
from relayd.protocols.canon import Audio, File, Image, Message, Part, Refusal, Request, Text, ToolCall, ToolResult
from relayd.protocols.dialect import Memory, Options, Refused, run_steps
from relayd.protocols.gemini.signatures import made_without_signature, signatures_of
from relayd.wire.json_scanner import MAX_DEPTH
from relayd.wire.json_steps import Steps

_AUDIO_TYPES = {"mp3": "audio/mp3", "wav": "audio/wav", "pcm16": "audio/l16"}
_UNANSWERED = "No answer: the call was not carried out."


def write_contents(
    request: Request, family: ModelFamily, options: Options, memory: Memory
) -> dict[str, Any]:
    """`contents`, and `systemInstruction` if the conversation has one. Raises Refused."""
    return run_steps(content_steps(request, family, options, memory))


def content_steps(
    request: Request, family: ModelFamily, options: Options, memory: Memory
) -> Steps[dict[str, Any]]:
    """The same in steps."""
    yield from require_few_values(request.messages, with_results=True)
    last = last_calls(request.messages)

    def belongs_to_batch(call: ToolCall) -> bool:
        return last[call.id] is call and made_without_signature(call, memory)

    messages = yield from merge_turns(request.messages, belongs_to_batch)
    return (yield from _Conversation(messages, family, options, memory, last).written())


class _Conversation:
    """Writes one conversation; owned by the function that writes it."""

    def __init__(
        self, messages: tuple[Message, ...], family: ModelFamily, options: Options, memory: Memory,
        last: Mapping[str, ToolCall],
    ) -> None:  # fmt: skip
        self._last = last
        self._messages, self._generation, self._options, self._memory = messages, family, options, memory
        self._contents: list[dict[str, Any]] = []
        self._answers: dict[str, deque[ToolResult]] = {}
        for message in messages:
            for part in message.parts:
                if isinstance(part, ToolResult):
                    self._answers.setdefault(part.call_id, deque()).append(part)

    def written(self) -> Steps[dict[str, Any]]:
        system: list[dict[str, Any]] = []
        for number, message in enumerate(self._messages):
            yield
            at = f"messages[{number}]"
            if message.role in ("system", "developer"):
                system += _texts(message, at)
            elif message.role == "assistant":
                yield from self._assistant(message, at)
            elif message.role == "tool":
                continue  # written after the calls
            else:
                parts = []
                for part in message.parts:
                    if not isinstance(part, Text) or part.text:
                        parts.append(_part(part, at))
                        yield
                self._add("user", parts or [{"text": " "}])
        for call_id, left in self._answers.items():
            if left:
                raise Refused(f"The tool message for {call_id[:80]!r} has no call in the history.", "messages")
        if not self._contents:
            if not system:
                raise Refused("The conversation has no message to answer.", "messages", "missing_required_parameter")
            self._add("user", system)  # Gemini requires a content: the instruction becomes the question
            system = []
        body: dict[str, Any] = {"systemInstruction": {"parts": system}} if system else {}
        body["contents"] = self._contents
        return body

    def _add(self, role: str, parts: list[dict[str, Any]]) -> None:
        if not parts:
            return
        if self._contents and self._contents[-1]["role"] == role:
            self._contents[-1]["parts"] += parts
        else:
            self._contents.append({"role": role, "parts": list(parts)})

    def _assistant(self, message: Message, at: str) -> Steps[None]:
        calls = [part for part in message.parts if isinstance(part, ToolCall)]
        signatures = iter(signatures_of(calls, self._memory, self._generation.signatures, self._last))
        parts: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, ToolCall):
                parts.append((yield from self._call(part, next(signatures))))
                yield
            elif isinstance(part, Text | Refusal):
                parts += [{"text": part.text}] if part.text else []
            elif isinstance(part, Image | File | Audio):
                parts.append(_part(part, at))
        self._add("model", parts)
        if calls:
            self._add("user", (yield from self._answered(calls)))

    def _call(self, call: ToolCall, signature: str | None) -> Steps[dict[str, Any]]:
        custom = call.kind == "custom"
        arguments = {"input": call.arguments} if custom else (yield from arguments_steps(call.arguments))
        inner: dict[str, Any] = {"name": GEMINI.tool_name(call.name), "args": arguments}
        if self._generation.call_ids:
            inner["id"] = call.id
        part: dict[str, Any] = {"functionCall": inner}
        if signature is not None:
            part["thoughtSignature"] = signature
        return part

    def _answered(self, calls: list[ToolCall]) -> Steps[list[dict[str, Any]]]:
        """The functionResponse of each call, then the parts of the results that are not text."""
        answered: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for call in calls:
            yield
            left = self._answers.get(call.id)
            if left:
                answer = left.popleft()
                response = yield from _response(answer)
                others += [_part(part, "messages") for part in answer.parts if not isinstance(part, Text)]
            elif self._options.unanswered_calls == "refuse":
                raise Refused(f"The call {call.id[:80]!r} in the history has no result.", "messages")
            else:
                response = {"error": _UNANSWERED}
            inner: dict[str, Any] = {"name": GEMINI.tool_name(call.name), "response": response}
            if self._generation.call_ids:
                inner["id"] = call.id
            answered.append({"functionResponse": inner})
        return answered + others


def _texts(message: Message, at: str) -> list[dict[str, Any]]:
    for part in message.parts:
        if not isinstance(part, Text):
            raise Refused("A system message can only contain text.", f"{at}.content", "invalid_value")
    return [{"text": part.text} for part in message.parts if isinstance(part, Text) and part.text]


def _response(answer: ToolResult) -> Steps[dict[str, Any]]:
    """A tool result as an object; other text is wrapped into one."""
    text = "\n".join(part.text for part in answer.parts if isinstance(part, Text))
    if answer.is_error:
        return {"error": text}
    if text.lstrip()[:1] == "{":
        try:
            value = yield from _json.parse_bounded_steps(text)
        except ValueError:
            value = None
        if isinstance(value, dict) and not (yield from _json.is_deeper_steps(value, MAX_DEPTH)):
            return value
    return {"result": text}


def _part(part: Part, at: str) -> dict[str, Any]:
    """A part of a user's message."""
    if isinstance(part, Text | Refusal):
        return {"text": part.text}
    if isinstance(part, Image):
        return _from_url(part.url, f"{at}.content", "image/jpeg")
    if isinstance(part, Audio):
        return {"inlineData": {"mimeType": _AUDIO_TYPES.get(part.format, f"audio/{part.format}"), "data": part.data}}
    if isinstance(part, File):
        if part.data is not None or part.url is not None:
            return _from_url(part.data or part.url or "", f"{at}.content", None)
        raise Refused("Gemini does not support file_id; send the file's data.", f"{at}.content", "invalid_value")
    raise Refused(f"A {type(part).__name__} cannot be in a user message.", f"{at}.content", "invalid_value")


def _from_url(url: str, param: str, default: str | None) -> dict[str, Any]:
    """A part with the data of a data URL, or with a URL that the endpoint fetches; relayd never does."""
    if is_data_url(url):
        parsed = parse_data_url(url)
        if parsed is None:
            raise Refused("The data URL is not well-formed base64.", param, "invalid_value")
        return {"inlineData": {"mimeType": parsed[0], "data": parsed[1]}}
    if not url.startswith(("http://", "https://", "gs://")):
        raise Refused("Only data URLs and http(s) URLs are supported.", param, "invalid_value")
    kind = media_type_of_url(url) or default
    return {"fileData": {"mimeType": kind, "fileUri": url} if kind else {"fileUri": url}}
