"""Output items in the making: each opens, takes its pieces and closes, writing the events of the grammar as it goes.

Laws:
1. What the closing events say equals what the deltas said, joined; ids do not change; a closed item is never touched.
2. An item is written to the frames only between `open` and `close`; what comes before waits in the item.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import Pieces
from relayd.protocols._tool_arguments import ObjectEnd
from relayd.protocols.canon import RefusalDelta, TextDelta, ThoughtDelta
from relayd.protocols.openai_responses.arguments import Unwrapper
from relayd.protocols.openai_responses.frames import Frames, place_of
from relayd.protocols.openai_responses.state import new_id
from relayd.protocols.openai_responses.thoughts import pack_proof
from relayd.protocols.openai_responses.tools import Called


class Item(ABC):
    """What all items have; owned by the renderer. `index` is the place in the output, -1 before it is open."""

    complete = True  # nothing more will come for it once another item has begun

    def __init__(self, frames: Frames, prefix: str) -> None:
        self.id = new_id(prefix)
        self.index = -1
        self._frames = frames
        self._waiting: list[Any] = []

    def add(self, piece: Any) -> None:
        """Take a piece, now or when the item's turn has come."""
        if self.index < 0:
            self._waiting.append(piece)
        else:
            self._write(piece)

    def open(self, index: int) -> None:
        """The item's turn has come."""
        self.index = index
        self._frames.event("response.output_item.added", {"output_index": index, "item": self._opened()})
        for piece in self._waiting:
            self._write(piece)
        self._waiting.clear()

    def close(self, status: str) -> dict[str, Any]:
        """Write the end; the item as it stays. `status` is completed or incomplete."""
        self._finish(status)
        item = self._closed(status)
        self._frames.event("response.output_item.done", {"output_index": self.index, "item": item})
        return item

    @abstractmethod
    def _write(self, piece: Any) -> None:
        """The events of one piece."""

    @abstractmethod
    def _opened(self) -> dict[str, Any]:
        """The item as its first event says it."""

    @abstractmethod
    def _finish(self, status: str) -> None:
        """The events that come before the item's last one."""

    @abstractmethod
    def _closed(self, status: str) -> dict[str, Any]:
        """The item as its last event says it."""


class Words(Item):
    """A message: parts of text and of refusal, one after the other."""

    def __init__(self, frames: Frames, logprobs: bool) -> None:
        super().__init__(frames, "msg")
        self._logprobs_wanted = logprobs
        self._content: list[dict[str, Any]] = []
        self._kind = ""
        self._texts = Pieces()
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
        self._frames.delta(f"response.{kind}.delta", place, piece.text)

    def _open_part(self, kind: str) -> None:
        self._kind = kind
        self._place = place_of(self._where())
        part = self._part(kind, "", [])
        self._frames.event("response.content_part.added", {**self._where(), "part": part})

    def _close_part(self) -> None:
        if not self._kind:
            return
        text = self._texts.text()
        part = self._part(self._kind, text, self._logprobs)
        said = {"text": text, "logprobs": self._logprobs} if self._kind == "output_text" else {"refusal": text}
        self._frames.event(f"response.{self._kind}.done", {**self._where(), **said})
        self._frames.event("response.content_part.done", {**self._where(), "part": part})
        self._content.append(part)
        self._kind, self._texts, self._logprobs = "", Pieces(), []

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


class Thought(Item):
    """A reasoning item, told as its summary, with the endpoint's proof where the client keeps it."""

    def __init__(self, frames: Frames, proofs: bool) -> None:
        super().__init__(frames, "rs")
        self._proofs_wanted = proofs
        self._texts = Pieces()
        self._signature: str | None = None
        self._redacted: str | None = None
        self._place = b""
        self.sealed = False

    def add(self, piece: ThoughtDelta) -> None:
        """Take a piece; one with a proof is the last of its thought."""
        if piece.signature is not None or piece.redacted is not None:
            self.sealed = True
        super().add(piece)

    def _opened(self) -> dict[str, Any]:
        return {"type": "reasoning", "id": self.id, "summary": []}

    def _write(self, piece: ThoughtDelta) -> None:
        if piece.text:
            if not self._texts:
                self._place = place_of(self._where())
                part = {"type": "summary_text", "text": ""}
                self._frames.event("response.reasoning_summary_part.added", {**self._where(), "part": part})
            self._texts.add(piece.text)
            self._frames.delta("response.reasoning_summary_text.delta", self._place, piece.text)
        self._signature, self._redacted = piece.signature or self._signature, piece.redacted or self._redacted

    def _where(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "summary_index": 0}

    def _finish(self, status: str) -> None:
        if self._texts:
            text = self._texts.text()
            part = {"type": "summary_text", "text": text}
            self._frames.event("response.reasoning_summary_text.done", {**self._where(), "text": text})
            self._frames.event("response.reasoning_summary_part.done", {**self._where(), "part": part})

    def _closed(self, status: str) -> dict[str, Any]:
        item = self._opened()
        if self._texts:
            item["summary"] = [{"type": "summary_text", "text": self._texts.text()}]
        if self._proofs_wanted:
            item["encrypted_content"] = pack_proof(self._signature, self._redacted)
        return item


class Call(Item):
    """A call of a function, or of a custom tool, whose raw input is taken out of the JSON that the endpoint wrote."""

    def __init__(self, frames: Frames, call_id: str, called: Called) -> None:
        custom = called.kind == "custom"
        super().__init__(frames, "ctc" if custom else "fc")
        self._type, self._member, self._event = (
            ("custom_tool_call", "input", "response.custom_tool_call_input")
            if custom
            else ("function_call", "arguments", "response.function_call_arguments")
        )
        self._call_id, self._called = call_id, called
        self._unwrapper = Unwrapper() if custom else None
        self._texts = Pieces()
        self._place = b""
        self._end = ObjectEnd()

    @property
    def complete(self) -> bool:  # type: ignore[override]  # of a call it is seen from the arguments
        """Whether the arguments are a closed JSON object, so that nothing more can belong to them."""
        return self._end.is_complete

    def add(self, piece: str) -> None:
        """Take a piece of the arguments."""
        self._end.add(piece)
        super().add(piece)

    def open(self, index: int) -> None:
        """The item's turn has come."""
        self._place = place_of({"item_id": self.id, "output_index": index})
        super().open(index)

    def _opened(self) -> dict[str, Any]:
        item = {"type": self._type, "id": self.id, "call_id": self._call_id, "name": self._called.name}
        if self._called.namespace is not None:
            item["namespace"] = self._called.namespace
        return item | {self._member: "", "status": "in_progress"}

    def _write(self, piece: str) -> None:
        text = piece if self._unwrapper is None else self._unwrapper.feed(piece)
        if text:
            self._texts.add(text)
            self._frames.delta(self._event + ".delta", self._place, text)

    def _finish(self, status: str) -> None:
        rest = ""
        if self._unwrapper is not None:
            rest = self._unwrapper.end()
        elif status == "completed" and not self._texts.text().strip():
            rest = "{}"
        if rest:
            self._texts.add(rest)
            self._frames.delta(self._event + ".delta", self._place, rest)
        where = {"item_id": self.id, "output_index": self.index}
        self._frames.event(self._event + ".done", {**where, self._member: self._texts.text()})

    def _closed(self, status: str) -> dict[str, Any]:
        return self._opened() | {self._member: self._texts.text(), "status": status}


def _token(entry: Any) -> dict[str, Any]:
    """A token of Chat's logprobs as Responses has it."""
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
