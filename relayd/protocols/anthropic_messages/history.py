"""Canonical messages as the turns of a Messages request: user first, alternating roles, and no blank text.

Laws:
1. System and developer messages are not turns: they are joined to one `system` text, wherever they occur.
2. Every tool_use gets its result at the beginning of the next user turn, which has no other results.
3. A block that the API would reject as empty is dropped; so is a turn without blocks.
4. Reasoning is sent back only with a signature: the client's own, or the one that is stored for the call.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from relayd.protocols import _data_url, _json
from relayd.protocols._capabilities import MESSAGES
from relayd.protocols._tool_arguments import arguments_steps
from relayd.protocols.anthropic_messages.call_ids import for_endpoint
from relayd.protocols.anthropic_messages.thinking_memory import recall
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
from relayd.protocols.dialect import Memory, Refused, run_steps
from relayd.wire.json_steps import Steps

OPENING = "Continue."  # the first user turn of a conversation that does not begin with one
UNANSWERED = "This call was not answered."

Block = dict[str, Any]


class History:
    """Builds the turns of one request; owned by write_request."""

    def __init__(self, memory: Memory, unanswered: str, last: Mapping[str, ToolCall]) -> None:
        """`last` is the last call with each id, see _turns.last_calls."""
        self._memory, self._last = memory, last
        self._fills = unanswered == "fill"
        self._results: dict[str, Block] = {}  # of the calls of the last assistant turn
        self._expected: list[str] = []
        self._open: set[str] = set()  # the same ids
        self.system: list[str] = []
        self.turns: list[Block] = []
        self.call_names: dict[str, None] = {}

    def add(self, message: Message, at: str) -> None:
        """Append one message. Raises Refused."""
        run_steps(self.add_steps(message, at))

    def add_steps(self, message: Message, at: str) -> Steps[None]:
        """The same in steps."""
        if message.role in ("system", "developer"):
            self._system(message, at)
        elif message.role == "assistant":
            yield from self._assistant(message, at)
        elif message.role == "tool":
            for part in message.parts:
                if isinstance(part, ToolResult):
                    self._result(part, at)
                    yield
        else:
            yield from self._user(message, at)

    def end(self) -> None:
        """The last turn is complete. A text that the assistant is to continue must not end in white space."""
        self._add_results()
        if not self.turns:
            self._add("user", [_text(OPENING)])
        last = self.turns[-1]
        if last["role"] == "assistant" and last["content"][-1]["type"] == "text":
            last["content"][-1]["text"] = last["content"][-1]["text"].rstrip()

    def loop_has_thoughts(self) -> bool:
        """Whether each assistant turn of the current tool loop begins with a thinking block; True outside a loop."""
        for turn, following in zip(reversed(self.turns[:-1]), reversed(self.turns), strict=False):
            if following["role"] == "user" and following["content"][0]["type"] != "tool_result":
                return True
            if turn["role"] == "assistant" and "thinking" not in turn["content"][0]["type"]:
                return False
        return True

    def _system(self, message: Message, at: str) -> None:
        for part in message.parts:
            if not isinstance(part, Text):
                raise Refused("System messages can only contain text.", at)
            if part.text.strip():
                self.system.append(part.text)

    def _user(self, message: Message, at: str) -> Steps[None]:
        blocks: list[Block] = []
        for part in message.parts:
            if (block := _content(part, at)) is not None:
                blocks.append(block)
            yield
        if blocks:
            self._add_results()
            self._add("user", blocks)

    def _assistant(self, message: Message, at: str) -> Steps[None]:
        self._add_results()
        thoughts: list[Block] = []
        blocks: list[Block] = []
        has_call = False
        own = any(isinstance(part, Reasoning) and (part.signature or part.redacted) for part in message.parts)
        for part in message.parts:
            if isinstance(part, Reasoning):
                thoughts += _thoughts([part])
            elif isinstance(part, ToolCall):
                if not own:
                    known = _thoughts(recall(self._memory, part.id)) if self._last.get(part.id) is part else []
                    if has_call:
                        blocks += known
                    else:
                        thoughts += known
                has_call = True
                blocks.append((yield from _call(part)))
                self.call_names.setdefault(MESSAGES.tool_name(part.name))
                self._expected.append(blocks[-1]["id"])
                self._open.add(blocks[-1]["id"])
                yield
            elif isinstance(part, Text | Refusal):
                if part.text.strip():
                    blocks.append(_text(part.text))
            else:
                raise Refused("Assistant messages can only contain text, reasoning and tool calls.", at)
        if not blocks:
            return
        if not self.turns:
            self._add("user", [_text(OPENING)])
        self._add("assistant", thoughts + blocks)

    # ---- results

    def _result(self, part: ToolResult, at: str) -> None:
        identity = for_endpoint(part.call_id)
        if identity not in self._open:
            raise Refused(f"No open call has the id {part.call_id!r}.", at)
        content = [block for inner in part.parts if (block := _content(inner, at)) is not None]
        result: Block = {"type": "tool_result", "tool_use_id": identity}
        if content:
            result["content"] = content
        if part.is_error:
            result["is_error"] = True
        self._results[identity] = result

    def _add_results(self) -> None:
        """Put the results of the open calls at the beginning of the user turn that follows them."""
        if not self._expected:
            return
        results: list[Block] = []
        for identity in self._expected:
            result = self._results.get(identity)
            if result is None:
                if not self._fills:
                    raise Refused(f"The call {identity!r} has no result.", "messages")
                result = {"type": "tool_result", "tool_use_id": identity, "content": UNANSWERED, "is_error": True}
            results.append(result)
        self._expected, self._open, self._results = [], set(), {}
        self._add("user", results)

    def _add(self, role: str, blocks: list[Block]) -> None:
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += blocks
        else:
            self.turns.append({"role": role, "content": blocks})


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _thoughts(thoughts: list[Reasoning]) -> list[Block]:
    blocks: list[Block] = []
    for one in thoughts:
        if one.redacted:
            blocks.append({"type": "redacted_thinking", "data": one.redacted})
        elif one.signature:
            blocks.append({"type": "thinking", "thinking": one.text, "signature": one.signature})
    return blocks


def _call(part: ToolCall) -> Steps[Block]:
    if part.kind == "custom":
        value: Any = {"input": part.arguments}
    else:
        value = yield from arguments_steps(part.arguments)
    return {"type": "tool_use", "id": for_endpoint(part.id), "name": MESSAGES.tool_name(part.name), "input": value}


def _content(part: Part, at: str) -> Block | None:
    """A block of a user turn or of a tool result; None for blank text."""
    if isinstance(part, Text | Refusal):
        return _text(part.text) if part.text.strip() else None
    if isinstance(part, Image):
        return _image(part, at)
    if isinstance(part, File):
        return _document(part, at)
    if isinstance(part, Audio):
        raise Refused("Messages endpoints do not accept audio.", at)
    raise Refused("This part cannot be in a user message.", at)


def _source(url: str, label: str, at: str) -> Block:
    if not _data_url.is_data_url(url):
        if url[:8].lower().startswith(("https://", "http://")):
            return {"type": "url", "url": url}
        raise Refused(f"{label} must be given as a data URL or as an http(s) URL.", at)
    parsed = _data_url.parse_data_url(url)
    if parsed is None:
        raise Refused(f"{label} has a malformed data URL.", at)
    return {"type": "base64", "media_type": parsed[0], "data": parsed[1]}


def _image(part: Image, at: str) -> Block:
    source = _source(part.url, "An image", at)
    if source.get("media_type") == "image/jpg":
        source["media_type"] = "image/jpeg"
    return {"type": "image", "source": source}


def _document(part: File, at: str) -> Block:
    address = part.data or part.url
    if not address:
        raise Refused("A file in another provider's storage cannot be translated; send its content.", at)
    source = _source(address, "A file", at)
    kind = source.get("media_type", "")
    if kind.startswith("image/"):
        return {"type": "image", "source": source}
    if kind.startswith("text/") or kind in ("application/json", "application/xml"):
        if len(source["data"]) > _json.MOST_TEXT_CHARS:
            raise Refused(f"A text file of more than {_json.MOST_TEXT_CHARS} characters cannot be translated.", at)
        text = base64.b64decode(source["data"]).decode("utf-8", "replace")
        source = {"type": "text", "media_type": "text/plain", "data": text}
    elif kind not in ("", "application/pdf"):
        raise Refused(f"Messages endpoints do not accept files of the type {kind}.", at)
    block: Block = {"type": "document", "source": source}
    if part.filename:
        block["title"] = part.filename[:500]
    return block
