"""Output items while they are streamed: each opens, adds its pieces and closes, and writes the events that this takes.

Laws:
1. The closing events repeat exactly the joined deltas; ids do not change; a closed item is never changed.
2. An item writes events only between `open` and `close`; pieces that arrive earlier wait in the item.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import TextBuffer
from relayd.protocols._tool_arguments import ObjectEndFinder
from relayd.protocols.canon import ReasoningDelta, RefusalDelta, TextDelta
from relayd.protocols.openai_responses.custom_input import CustomInputDecoder
from relayd.protocols.openai_responses.event_writer import EventWriter, location_of
from relayd.protocols.openai_responses.reasoning_items import pack_proof
from relayd.protocols.openai_responses.state import new_id
from relayd.protocols.openai_responses.tools import Called
from relayd.wire.json_scanner import MAX_DEPTH

TOKEN_CHARS = 1024  # about what a token's object takes, its alternatives included


class OutputItem(ABC):
    """Common part of all items; owned by the renderer. `index` is the position in the output, -1 before it is open."""

    complete = True  # it gets no more pieces once another item has begun

    def __init__(self, frames: EventWriter, prefix: str) -> None:
        self.id = new_id(prefix)
        self.index = -1
        self.chars = 0  # about how long the finished item is
        self._writer = frames
        self._waiting: list[Any] = []

    def add(self, piece: Any) -> None:
        """Add a piece: write it now, or keep it until the item is opened."""
        if self.index < 0:
            self._waiting.append(piece)
        else:
            self._write(piece)

    def open(self, index: int) -> None:
        """Open the item: write its first event and the pieces that waited."""
        self.index = index
        self._writer.event("response.output_item.added", {"output_index": index, "item": self._opened()})
        for piece in self._waiting:
            self._write(piece)
        self._waiting.clear()

    def close(self, status: str) -> dict[str, Any]:
        """Write the closing events; returns the finished item. `status` is completed or incomplete."""
        self._finish(status)
        item = self._closed(status)
        self._writer.event("response.output_item.done", {"output_index": self.index, "item": item}, self.chars)
        return item

    @abstractmethod
    def _write(self, piece: Any) -> None:
        """Write the events of one piece."""

    @abstractmethod
    def _opened(self) -> dict[str, Any]:
        """The item in its first event."""

    @abstractmethod
    def _finish(self, status: str) -> None:
        """Write the events before the item's last one."""

    @abstractmethod
    def _closed(self, status: str) -> dict[str, Any]:
        """The item in its last event."""


class MessageItem(OutputItem):
    """A message: parts of text and of refusal, one after the other."""

    def __init__(self, frames: EventWriter, logprobs: bool) -> None:
        super().__init__(frames, "msg")
        self._logprobs_wanted = logprobs
        self._content: list[dict[str, Any]] = []
        self._kind = ""
        self._texts = TextBuffer()
        self._logprobs: list[Any] = []
        self._place = b""

    def _opened(self) -> dict[str, Any]:
        return {"type": "message", "id": self.id, "status": "in_progress", "role": "assistant", "content": []}

    def _write(self, piece: TextDelta | RefusalDelta) -> None:
        kind = "output_text" if isinstance(piece, TextDelta) else "refusal"
        if kind != self._kind:
            self._close_part()
            self._open_part(kind)
        self._texts.add(piece.text)
        place = self._place
        if isinstance(piece, TextDelta):
            found = [_token(one) for one in piece.logprobs or ()] if self._logprobs_wanted else []
            self._logprobs += found
            place += b',"logprobs":' + (_json.write(found) if found else b"[]")
        self._writer.delta(f"response.{kind}.delta", place, piece.text)

    def _open_part(self, kind: str) -> None:
        self._kind = kind
        self._place = location_of(self._where())
        part = self._part(kind, "", [])
        self._writer.event("response.content_part.added", {**self._where(), "part": part})

    def _close_part(self) -> None:
        if not self._kind:
            return
        text = self._texts.text()
        part = self._part(self._kind, text, self._logprobs)
        said = {"text": text, "logprobs": self._logprobs} if self._kind == "output_text" else {"refusal": text}
        chars = len(text) + TOKEN_CHARS * len(self._logprobs)
        self.chars += chars
        self._writer.event(f"response.{self._kind}.done", {**self._where(), **said}, chars)
        self._writer.event("response.content_part.done", {**self._where(), "part": part}, chars)
        self._content.append(part)
        self._kind, self._texts, self._logprobs = "", TextBuffer(), []

    def _where(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "content_index": len(self._content)}

    @staticmethod
    def _part(kind: str, text: str, logprobs: list[Any]) -> dict[str, Any]:
        if kind == "refusal":
            return {"type": kind, "refusal": text}
        return {"type": kind, "text": text, "annotations": [], "logprobs": logprobs}

    def _finish(self, status: str) -> None:
        if not self._kind and not self._content:
            self._open_part("output_text")
        self._close_part()

    def _closed(self, status: str) -> dict[str, Any]:
        return self._opened() | {"status": status, "content": self._content}


class ReasoningItem(OutputItem):
    """A reasoning item: the reasoning text as its summary, and the endpoint's signature if the client keeps it."""

    def __init__(self, frames: EventWriter, proofs: bool) -> None:
        super().__init__(frames, "rs")
        self._proofs_wanted = proofs
        self._texts = TextBuffer()
        self._signature: str | None = None
        self._redacted: str | None = None
        self._place = b""
        self.sealed = False

    def add(self, piece: ReasoningDelta) -> None:
        """Add a piece; a piece with a signature is the last one of its item."""
        if piece.signature is not None or piece.redacted is not None:
            self.sealed = True
        super().add(piece)

    def _opened(self) -> dict[str, Any]:
        return {"type": "reasoning", "id": self.id, "summary": []}

    def _write(self, piece: ReasoningDelta) -> None:
        if piece.text:
            if not self._texts:
                self._place = location_of(self._where())
                part = {"type": "summary_text", "text": ""}
                self._writer.event("response.reasoning_summary_part.added", {**self._where(), "part": part})
            self._texts.add(piece.text)
            self._writer.delta("response.reasoning_summary_text.delta", self._place, piece.text)
        self._signature, self._redacted = piece.signature or self._signature, piece.redacted or self._redacted

    def _where(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "summary_index": 0}

    def _finish(self, status: str) -> None:
        if self._texts:
            text = self._texts.text()
            part = {"type": "summary_text", "text": text}
            self.chars = len(text)
            self._writer.event("response.reasoning_summary_text.done", {**self._where(), "text": text}, self.chars)
            self._writer.event("response.reasoning_summary_part.done", {**self._where(), "part": part}, self.chars)

    def _closed(self, status: str) -> dict[str, Any]:
        item = self._opened()
        if self._texts:
            item["summary"] = [{"type": "summary_text", "text": self._texts.text()}]
        if self._proofs_wanted:
            item["encrypted_content"] = pack_proof(self._signature, self._redacted)
        return item


class CallItem(OutputItem):
    """A call of a function or of a custom tool, whose raw input is decoded from the JSON that the endpoint wrote."""

    def __init__(self, frames: EventWriter, call_id: str, called: Called) -> None:
        custom = called.kind == "custom"
        super().__init__(frames, "ctc" if custom else "fc")
        self._type, self._member, self._event = (
            ("custom_tool_call", "input", "response.custom_tool_call_input")
            if custom
            else ("function_call", "arguments", "response.function_call_arguments")
        )
        self._call_id, self._called = call_id, called
        self._decoder = CustomInputDecoder() if custom else None
        self._texts = TextBuffer()
        self._place = b""
        self._end = ObjectEndFinder()

    @property
    def complete(self) -> bool:  # type: ignore[override]  # depends on the arguments
        """Whether the arguments are a closed JSON object, so that no more pieces can belong to them."""
        return self._end.is_complete

    def add(self, piece: str) -> None:
        """Add a piece of the arguments."""
        self._end.add(piece)
        super().add(piece)

    def open(self, index: int) -> None:
        """Open the item: write its first event and the pieces that waited."""
        self._place = location_of({"item_id": self.id, "output_index": index})
        super().open(index)

    def _opened(self) -> dict[str, Any]:
        item = {"type": self._type, "id": self.id, "call_id": self._call_id, "name": self._called.name}
        if self._called.namespace is not None:
            item["namespace"] = self._called.namespace
        return item | {self._member: "", "status": "in_progress"}

    def _write(self, piece: str) -> None:
        text = piece if self._decoder is None else self._decoder.decode(piece)
        if text:
            self._texts.add(text)
            self._writer.delta(self._event + ".delta", self._place, text)

    def _finish(self, status: str) -> None:
        rest = ""
        if self._decoder is not None:
            rest = self._decoder.end()
        elif status == "completed" and not self._texts.text().strip():
            rest = "{}"
        if rest:
            self._texts.add(rest)
            self._writer.delta(self._event + ".delta", self._place, rest)
        where = {"item_id": self.id, "output_index": self.index}
        text = self._texts.text()
        self.chars = len(text)
        self._writer.event(self._event + ".done", {**where, self._member: text}, self.chars)

    def _closed(self, status: str) -> dict[str, Any]:
        return self._opened() | {self._member: self._texts.text(), "status": status}


class SearchItem(OutputItem):
    """A call of the client's search for tools; its arguments are an object, which comes whole in the last event."""

    def __init__(self, frames: EventWriter, call_id: str) -> None:
        super().__init__(frames, "tsc")
        self._call_id = call_id
        self._texts = TextBuffer()
        self._end = ObjectEndFinder()

    @property
    def complete(self) -> bool:  # type: ignore[override]  # depends on the arguments
        """Whether the arguments are a closed JSON object, so that no more pieces can belong to them."""
        return self._end.is_complete

    def add(self, piece: str) -> None:
        """Add a piece of the arguments."""
        self._end.add(piece)
        self._texts.add(piece)

    def _write(self, piece: str) -> None:
        """Nothing is written piece by piece."""

    def _opened(self) -> dict[str, Any]:
        return self._item({}, "in_progress")

    def _finish(self, status: str) -> None:
        """The last event of the item is the only one."""

    def _closed(self, status: str) -> dict[str, Any]:
        try:
            arguments = _json.an_object(_json.parse(self._texts.text() or "{}"))
        except ValueError:
            arguments = {}
        return self._item({} if _json.is_deeper(arguments, MAX_DEPTH) else arguments, status)

    def _item(self, arguments: dict[str, Any], status: str) -> dict[str, Any]:
        return {"type": "tool_search_call", "id": self.id, "call_id": self._call_id, "execution": "client",
                "arguments": arguments, "status": status}  # fmt: skip


def _token(entry: Any) -> dict[str, Any]:
    """A token of Chat's logprobs in the form of Responses."""
    token = _plain_token(entry)
    token["top_logprobs"] = [_plain_token(one) for one in _json.a_list(_json.an_object(entry).get("top_logprobs"))]
    return token


def _plain_token(entry: Any) -> dict[str, Any]:
    entry = _json.an_object(entry)
    number = entry.get("logprob")
    return {
        "token": _json.a_text(entry.get("token")),
        "logprob": number if isinstance(number, int | float) else 0.0,
        "bytes": _json.a_list(entry.get("bytes")),
    }
