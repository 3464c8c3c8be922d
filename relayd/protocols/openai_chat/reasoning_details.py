"""OpenRouter's `reasoning_details`: providers' proofs of reasoning, which it requires back with the calls after them.

Without them a tool loop with Gemini 3 fails with 400. No other dialect has a field for them, so they are stored between
exchanges under the id of the turn's first call: the reader of a response stores them, the writer of the next request
recalls them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import MAX_ID_CHARS, TextBuffer
from relayd.protocols.dialect import Memory
from relayd.wire.json_steps import Steps

_KEY = "openai_chat/reasoning_details/"
LARGEST_CHARS = 256 * 1024
MOST_ENTRIES = 256
STEP_ENTRIES = 256
_TEXTS = ("text", "summary", "data")
_STREAMED_TYPES = ("reasoning.text", "reasoning.summary")  # a stream splits an entry of these types into many pieces


class ReasoningDetails:
    """The details of one choice; owned by it. If they exceed a bound all are dropped, as a part of them is useless."""

    __slots__ = ("_entries", "_is_full", "_left", "_texts")

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []
        self._texts: list[dict[str, TextBuffer]] = []  # of each entry, by member
        self._left = LARGEST_CHARS
        self._is_full = False

    def add(self, details: list[Any]) -> Steps[str]:
        """Add the details of a chunk or of a plain response, in steps; returns the reasoning text in them."""
        texts_found = []
        for number, detail in enumerate(details, 1):
            if number % STEP_ENTRIES == 0:
                yield
            if detail.__class__ is dict and not (yield from _json.is_deeper_steps(detail, 8)):
                texts_found.append(_json.a_text(detail.get("text")) or _json.a_text(detail.get("summary")))
                if not self._is_full:
                    yield from self._add(detail)
        return "".join(texts_found)

    def _add(self, detail: dict[str, Any]) -> Steps[None]:
        texts = {key: detail[key] for key in _TEXTS if detail.get(key).__class__ is str}
        others = {key[:MAX_ID_CHARS]: value for key, value in detail.items() if key not in texts and value is not None}
        last = self._entries[-1] if self._entries else {}
        if not (
            last.get("type") == detail.get("type") in _STREAMED_TYPES
            and all(key not in last or key not in others or last[key] == others[key] for key in ("index", "id"))
        ):
            self._entries.append({})
            self._texts.append({})
        last = self._entries[-1]
        added = {key: value for key, value in others.items() if key not in last or last[key] != value}
        if added:
            self._left -= len((yield from _json.write_text_steps(added)))
            last.update(added)
        for key, text in texts.items():
            self._left -= len(text)
            self._texts[-1].setdefault(key, TextBuffer()).add(text)
        if self._left < 0 or len(self._entries) > MOST_ENTRIES:
            self._is_full = True
            self._entries.clear()
            self._texts.clear()

    def store(self, memory: Memory, call_id: str, renamed: Mapping[str, str]) -> None:
        """Store the details of a complete response under its first call. `renamed` maps ids of calls in the entries to
        their replacements."""
        if self._entries:
            whole = [
                entry | {key: text.text() for key, text in texts.items()}
                for entry, texts in zip(self._entries, self._texts, strict=True)
            ]
            for entry in whole:
                if (endpoint_id := _json.a_text(entry.get("id"))) in renamed:
                    entry["id"] = renamed[endpoint_id]
            memory.put(detail_key(call_id), whole)


def detail_key(call_id: str) -> str:
    """The key under which the details of the turn that begins with this call are stored."""
    return _KEY + call_id


def recall(memory: Memory, call_id: str) -> list[Any]:
    """The details of the turn that begins with this call; empty if they are unknown."""
    return _json.a_list(memory.get(detail_key(call_id)))
