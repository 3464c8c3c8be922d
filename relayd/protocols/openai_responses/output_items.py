"""Output items under construction: each item is opened, gets its deltas and is closed, and writes its own events.

Laws:
1. The closing events repeat exactly the joined deltas. Ids and closed items never change.
2. An item writes events only between `open` and `close`; deltas that arrive earlier wait in the item.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import TextBuffer
from relayd.protocols._custom_input import CustomInputDecoder
from relayd.protocols._tool_arguments import ObjectEndFinder
from relayd.protocols.canon import ReasoningDelta, RefusalDelta, TextDelta
from relayd.protocols.openai_responses.event_writer import EventWriter, location_of
from relayd.protocols.openai_responses.reasoning_items import pack_encrypted_content
from relayd.protocols.openai_responses.state import new_id
from relayd.protocols.openai_responses.tools import ClientTool
from relayd.wire.json_scanner import MAX_DEPTH

TOKEN_CHARS = 1024  # about what a token's object takes, its alternatives included


class OutputItem(ABC):
    """Base of all items; owned by the renderer. `index` is the position in the output, -1 before `open`."""

    complete = True  # no deltas arrive after the start of another item

    def __init__(self, writer: EventWriter, prefix: str) -> None:
        self.id = new_id(prefix)
        self.index = -1
        self.chars = 0  # about how long the finished item is
        self._writer = writer
        self._pending: list[Any] = []

    def add(self, delta: Any) -> None:
        """Write a delta, or keep it until the item is opened."""
        if self.index < 0:
            self._pending.append(delta)
        else:
            self._write(delta)

    def open(self, index: int) -> None:
        """Open the item: write its first event and the waiting deltas."""
        self.index = index
        self._writer.event("response.output_item.added", {"output_index": index, "item": self._initial()})
        for delta in self._pending:
            self._write(delta)
        self._pending.clear()

    def close(self, status: str) -> dict[str, Any]:
        """Write the closing events and return the finished item. `status` is completed or incomplete."""
        self._write_end(status)
        item = self._final(status)
        self._writer.event("response.output_item.done", {"output_index": self.index, "item": item}, self.chars)
        return item

    @abstractmethod
    def _write(self, delta: Any) -> None:
        """Write the events of one delta."""

    @abstractmethod
    def _initial(self) -> dict[str, Any]:
        """Return the item as in its first event."""

    @abstractmethod
    def _write_end(self, status: str) -> None:
        """Write the closing events before `output_item.done`."""

    @abstractmethod
    def _final(self, status: str) -> dict[str, Any]:
        """Return the item as in its last event."""


class MessageItem(OutputItem):
    """A message: a sequence of text parts and refusal parts."""

    def __init__(self, writer: EventWriter, logprobs: bool) -> None:
        super().__init__(writer, "msg")
        self._include_logprobs = logprobs
        self._content: list[dict[str, Any]] = []
        self._kind = ""
        self._texts = TextBuffer()
        self._logprobs: list[Any] = []
        self._location = b""

    def _initial(self) -> dict[str, Any]:
        return {"type": "message", "id": self.id, "status": "in_progress", "role": "assistant", "content": []}

    def _write(self, delta: TextDelta | RefusalDelta) -> None:
        kind = "output_text" if isinstance(delta, TextDelta) else "refusal"
        if kind != self._kind:
            self._close_part()
            self._open_part(kind)
        self._texts.add(delta.text)
        location = self._location
        if isinstance(delta, TextDelta):
            tokens = [_token_logprobs(token) for token in delta.logprobs or ()] if self._include_logprobs else []
            self._logprobs += tokens
            location += b',"logprobs":' + (_json.write(tokens) if tokens else b"[]")
        self._writer.delta(f"response.{kind}.delta", location, delta.text)

    def _open_part(self, kind: str) -> None:
        self._kind = kind
        self._location = location_of(self._location_members())
        part = self._part(kind, "", [])
        self._writer.event("response.content_part.added", {**self._location_members(), "part": part})

    def _close_part(self) -> None:
        if not self._kind:
            return
        text = self._texts.text()
        part = self._part(self._kind, text, self._logprobs)
        members = {"text": text, "logprobs": self._logprobs} if self._kind == "output_text" else {"refusal": text}
        chars = len(text) + TOKEN_CHARS * len(self._logprobs)
        self.chars += chars
        self._writer.event(f"response.{self._kind}.done", {**self._location_members(), **members}, chars)
        self._writer.event("response.content_part.done", {**self._location_members(), "part": part}, chars)
        self._content.append(part)
        self._kind, self._texts, self._logprobs = "", TextBuffer(), []

    def _location_members(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "content_index": len(self._content)}

    @staticmethod
    def _part(kind: str, text: str, logprobs: list[Any]) -> dict[str, Any]:
        if kind == "refusal":
            return {"type": kind, "refusal": text}
        return {"type": kind, "text": text, "annotations": [], "logprobs": logprobs}

    def _write_end(self, status: str) -> None:
        if not self._kind and not self._content:
            self._open_part("output_text")
        self._close_part()

    def _final(self, status: str) -> dict[str, Any]:
        return self._initial() | {"status": status, "content": self._content}


class ReasoningItem(OutputItem):
    """A reasoning item: the reasoning text as its summary, and the endpoint's signature if the client asked for it."""

    def __init__(self, writer: EventWriter, encrypted_reasoning: bool) -> None:
        super().__init__(writer, "rs")
        self._encrypted_reasoning = encrypted_reasoning
        self._texts = TextBuffer()
        self._signature: str | None = None
        self._redacted: str | None = None
        self._location = b""
        self.signed = False

    def add(self, delta: ReasoningDelta) -> None:
        """Add a delta; a delta with a signature or a redacted block ends the item."""
        if delta.signature is not None or delta.redacted is not None:
            self.signed = True
        super().add(delta)

    def _initial(self) -> dict[str, Any]:
        return {"type": "reasoning", "id": self.id, "summary": []}

    def _write(self, delta: ReasoningDelta) -> None:
        if delta.text:
            if not self._texts:
                self._location = location_of(self._location_members())
                part = {"type": "summary_text", "text": ""}
                self._writer.event("response.reasoning_summary_part.added", {**self._location_members(), "part": part})
            self._texts.add(delta.text)
            self._writer.delta("response.reasoning_summary_text.delta", self._location, delta.text)
        self._signature, self._redacted = delta.signature or self._signature, delta.redacted or self._redacted

    def _location_members(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "summary_index": 0}

    def _write_end(self, status: str) -> None:
        if self._texts:
            text = self._texts.text()
            part = {"type": "summary_text", "text": text}
            self.chars = len(text)
            location = self._location_members()
            self._writer.event("response.reasoning_summary_text.done", {**location, "text": text}, self.chars)
            self._writer.event("response.reasoning_summary_part.done", {**location, "part": part}, self.chars)

    def _final(self, status: str) -> dict[str, Any]:
        item = self._initial()
        if self._texts:
            item["summary"] = [{"type": "summary_text", "text": self._texts.text()}]
        if self._encrypted_reasoning:
            item["encrypted_content"] = pack_encrypted_content(self._signature, self._redacted)
        return item


class ToolCallItem(OutputItem):
    """A call of a function or of a custom tool. The raw input of a custom tool is decoded from JSON arguments."""

    def __init__(self, writer: EventWriter, call_id: str, client_tool: ClientTool) -> None:
        custom = client_tool.kind == "custom"
        super().__init__(writer, "ctc" if custom else "fc")
        self._type, self._member, self._event = (
            ("custom_tool_call", "input", "response.custom_tool_call_input")
            if custom
            else ("function_call", "arguments", "response.function_call_arguments")
        )
        self._call_id, self._client_tool = call_id, client_tool
        self._decoder = CustomInputDecoder() if custom else None
        self._texts = TextBuffer()
        self._location = b""
        self._end = ObjectEndFinder()

    @property
    def complete(self) -> bool:  # type: ignore[override]  # depends on the arguments
        """True if the arguments are a closed JSON object, so that no further deltas can belong to them."""
        return self._end.is_complete

    def add(self, delta: str) -> None:
        """Add a fragment of the arguments."""
        self._end.add(delta)
        super().add(delta)

    def open(self, index: int) -> None:
        """Open the item: write its first event and the waiting deltas."""
        self._location = location_of({"item_id": self.id, "output_index": index})
        super().open(index)

    def _initial(self) -> dict[str, Any]:
        item = {"type": self._type, "id": self.id, "call_id": self._call_id, "name": self._client_tool.name}
        if self._client_tool.namespace is not None:
            item["namespace"] = self._client_tool.namespace
        return item | {self._member: "", "status": "in_progress"}

    def _write(self, delta: str) -> None:
        text = delta if self._decoder is None else self._decoder.decode(delta)
        if text:
            self._texts.add(text)
            self._writer.delta(self._event + ".delta", self._location, text)

    def _write_end(self, status: str) -> None:
        remainder = ""
        if self._decoder is not None:
            remainder = self._decoder.end()
        elif status == "completed" and not self._texts.text().strip():
            remainder = "{}"
        if remainder:
            self._texts.add(remainder)
            self._writer.delta(self._event + ".delta", self._location, remainder)
        location = {"item_id": self.id, "output_index": self.index}
        text = self._texts.text()
        self.chars = len(text)
        self._writer.event(self._event + ".done", {**location, self._member: text}, self.chars)

    def _final(self, status: str) -> dict[str, Any]:
        return self._initial() | {self._member: self._texts.text(), "status": status}


class ToolSearchItem(OutputItem):
    """A tool search call that the client executes. Only its last event contains the arguments, as an object."""

    def __init__(self, writer: EventWriter, call_id: str) -> None:
        super().__init__(writer, "tsc")
        self._call_id = call_id
        self._texts = TextBuffer()
        self._end = ObjectEndFinder()

    @property
    def complete(self) -> bool:  # type: ignore[override]  # depends on the arguments
        """True if the arguments are a closed JSON object, so that no further deltas can belong to them."""
        return self._end.is_complete

    def add(self, delta: str) -> None:
        """Add a fragment of the arguments."""
        self._end.add(delta)
        self._texts.add(delta)

    def _write(self, delta: str) -> None:
        """A tool search call has no delta events."""

    def _initial(self) -> dict[str, Any]:
        return self._item({}, "in_progress")

    def _write_end(self, status: str) -> None:
        """A tool search call has no closing events before `output_item.done`."""

    def _final(self, status: str) -> dict[str, Any]:
        text = self._texts.text()
        try:
            arguments = _json.an_object(_json.parse_in_one_step(text))
        except ValueError:
            arguments = {}
        return self._item({} if _json.is_deeper(arguments, MAX_DEPTH) else arguments, status)

    def _item(self, arguments: dict[str, Any], status: str) -> dict[str, Any]:
        return {"type": "tool_search_call", "id": self.id, "call_id": self._call_id, "execution": "client",
                "arguments": arguments, "status": status}  # fmt: skip


def _token_logprobs(entry: Any) -> dict[str, Any]:
    """Convert an entry of Chat's logprobs to the form of Responses."""
    token = _plain_token_logprobs(entry)
    alternatives = _json.a_list(_json.an_object(entry).get("top_logprobs"))
    token["top_logprobs"] = [_plain_token_logprobs(alternative) for alternative in alternatives]
    return token


def _plain_token_logprobs(entry: Any) -> dict[str, Any]:
    entry = _json.an_object(entry)
    logprob = entry.get("logprob")
    return {
        "token": _json.a_text(entry.get("token")),
        "logprob": logprob if isinstance(logprob, int | float) else 0.0,
        "bytes": _json.a_list(entry.get("bytes")),
    }
