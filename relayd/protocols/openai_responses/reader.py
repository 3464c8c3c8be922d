"""Reads a Responses endpoint's answer, stream or plain body, into canonical events.

Laws (beside those of _response_reader.py):
1. Closing events fill in missing deltas: text that an item, or a part of one, repeats at its end and had not sent as
   deltas becomes an event then. No text becomes an event twice.
2. Only a terminal event completes an answer; an end without one is a cut stream.
3. What is kept of an answer is bounded.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import MAX_ID_CHARS, MOST_CALLS, MOST_ITEMS, Allowance, ResponseTooLarge
from relayd.protocols._capabilities import RESPONSES
from relayd.protocols._event_pieces import tokens_of
from relayd.protocols._openai_errors import failure_of, status_in
from relayd.protocols._response_reader import CUT, ResponseReader
from relayd.protocols._turns import call_ids
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    Request,
    TextDelta,
    ToolDelta,
    ToolStart,
)
from relayd.protocols.dialect import Memory, Options
from relayd.protocols.openai_responses.reasoning_items import pack_native
from relayd.protocols.openai_responses.state import new_id
from relayd.protocols.openai_responses.usage import read_usage
from relayd.wire.json_scanner import MAX_DEPTH

_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_THOUGHTS = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta", "response.reasoning.delta")
_ARGUMENTS_DONE = {
    "response.function_call_arguments.done": "arguments", "response.custom_tool_call_input.done": "input",
}  # fmt: skip
_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


def _token(entry: Any) -> Any:
    return None if _json.is_deeper(entry, 7) else entry


class _ItemState:
    """How much of an output item has been read so far; owned by the answer."""

    __slots__ = ("call", "channel", "custom", "early", "refusal", "size", "summary", "text")

    def __init__(self) -> None:
        self.call = -1  # the canonical number of a call that was begun
        self.custom = False
        self.early = ""  # whole arguments that came before the call was begun
        self.channel = ""  # the first kind of reasoning event; others are ignored
        self.summary = 0
        self.size = 0  # characters of arguments, or of thoughts
        self.text: dict[int, int] = {}  # characters by content_index
        self.refusal: dict[int, int] = {}


class ResponsesAnswer:
    """One answer; owned by its reader."""

    def __init__(self, known: frozenset[str] = frozenset()) -> None:
        """`known` are the ids of the conversation's calls."""
        self.over = False
        self.begun = False
        self._ids = set(known)
        self._items: dict[int, _ItemState] = {}
        self._finished: set[int] = set()
        self._places: dict[str, int] = {}  # of items by their id, where events do not say the place
        self._allowance = Allowance()
        self._parts = 0
        self._calls = 0
        self._events: list[Event] = []  # the caller's

    # ---- called by the reader

    def value(self, value: Any, events: list[Event], is_error: bool) -> None:
        """One event of the stream."""
        self._events, before = events, len(events)
        event = _json.an_object(value)
        kind = _json.a_text(event.get("type"))
        response = _json.an_object(event.get("response"))
        if kind == "error" or (not kind and (is_error or event.get("error"))):
            described = event if event.get("error") else {"error": event}
            self._failed(failure_of(described, status_in(described, 502)) or _unexplained())
        elif kind in _TERMINAL:
            self._begin(response)
            self._terminal(response)
        elif response:
            self._begin(response)
        elif kind.startswith("response."):
            self._item_event(kind, event)
        if self.over:
            self._drop_after_failure(before)

    def body(self, value: Any, events: list[Event]) -> None:
        """A plain answer."""
        self._events, before = events, len(events)
        response = _json.an_object(value)
        if response.get("error") or not isinstance(response.get("output"), list):
            failure = failure_of(value, status_in(value, 502)) if response.get("error") else None
            self._failed(failure or Failure(502, "The upstream's answer is no response.", "upstream_malformed"))
        else:
            self._begin(response)
            self._terminal(response)
        self._drop_after_failure(before)

    def done_marker(self, events: list[Event]) -> None:
        """No end of an answer: only a terminal event is."""

    def end_of_stream(self, events: list[Event]) -> None:
        """The bytes have ended without a terminal event."""
        self.fail(CUT, events)

    def fail(self, failure: Failure, events: list[Event]) -> None:
        """The end of an answer that is not well."""
        self.over = True
        events.append(failure)

    def _failed(self, failure: Failure) -> None:
        if not self.over:
            self.fail(failure, self._events)

    def _drop_after_failure(self, start: int) -> None:
        """Drop events of the same frame behind a failure."""
        for place in range(start, len(self._events)):
            if isinstance(self._events[place], Failure):
                del self._events[place + 1 :]
                return

    # ---- events

    def _begin(self, response: dict[str, Any]) -> None:
        if not self.begun:
            self.begun = True
            identity, model = (_json.a_text(response.get(key))[:MAX_ID_CHARS] for key in ("id", "model"))
            self._events.append(Begin(identity, model, _json.a_count(response.get("created_at"))))

    def _item_event(self, kind: str, event: dict[str, Any]) -> None:
        place = self._place(event)
        delta = _json.a_text(event.get("delta"))
        if place in self._finished:
            return
        if place not in self._items and len(self._items) + len(self._finished) >= MOST_ITEMS:
            self._failed(_TOO_MANY)
            return
        state = self._items.setdefault(place, _ItemState())
        if kind == "response.output_text.delta":
            self._text(state, _json.a_count(event.get("content_index")), delta, event.get("logprobs"))
        elif kind == "response.refusal.delta":
            self._refusal(state, _json.a_count(event.get("content_index")), delta)
        elif kind in _THOUGHTS:
            if state.channel in ("", kind):
                state.channel = kind
                self._thought(state, _json.a_count(event.get("summary_index")), delta)
        elif kind == "response.output_item.added":
            self._call(state, _json.an_object(event.get("item")))
        elif kind in ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"):
            self._arguments(state, delta)
        elif kind == "response.output_item.done":
            self._item(place, _json.an_object(event.get("item")))
        elif kind.endswith(".done"):
            self._done(state, kind, event)

    def _place(self, event: dict[str, Any]) -> int:
        """The item's place in the output; some imitators give only its id, some only the place."""
        place = event.get("output_index")
        identity = _json.a_text(event.get("item_id") or _json.an_object(event.get("item")).get("id"))[:MAX_ID_CHARS]
        if place.__class__ is not int or place < 0:
            place = self._places.get(identity, len(self._places)) if identity else 0
        if identity and len(self._places) < MOST_ITEMS:
            self._places.setdefault(identity, place)
        return int(place)

    def _done(self, state: _ItemState, kind: str, event: dict[str, Any]) -> None:
        """A part of an item is complete: emit what did not come as deltas."""
        part = _json.a_count(event.get("content_index"))
        if kind in _ARGUMENTS_DONE:
            value = event.get(_ARGUMENTS_DONE[kind])
            if not _json.is_deeper(value, MAX_DEPTH):
                self._whole_arguments(state, _written(value))
        elif kind == "response.output_text.done":
            self._text(state, part, _json.a_text(event.get("text"))[state.text.get(part, 0) :], event.get("logprobs"))
        elif kind == "response.refusal.done":
            self._refusal(state, part, _json.a_text(event.get("refusal"))[state.refusal.get(part, 0) :])
        elif (channel := kind.removesuffix("done") + "delta") in _THOUGHTS and state.channel in ("", channel):
            number = _json.a_count(event.get("summary_index"))
            if not state.size or number > state.summary:
                state.channel = channel
                self._thought(state, number, _json.a_text(event.get("text")))

    def _whole_arguments(self, state: _ItemState, text: str) -> None:
        if text.strip() == "null" and not state.custom:
            text = "{}"  # as a call without arguments has them
        if state.call >= 0:
            self._arguments(state, text[state.size :])
            return
        try:
            self._allowance.charge(len(text))
        except ResponseTooLarge as fault:
            self._failed(Failure(502, str(fault)))
        else:
            state.early = text

    def _text(self, state: _ItemState, part: int, text: str, logprobs: Any = None) -> None:
        if text and self._counted(state.text, part):
            state.text[part] = state.text.get(part, 0) + len(text)
            tokens = tokens_of(_json.a_list(logprobs), _token)
            self._events.append(TextDelta(text, logprobs=tokens or None))

    def _counted(self, parts: dict[int, int], part: int) -> bool:
        """Count a new part. False, after a failure, if there are too many."""
        if part not in parts:
            self._parts += 1
            if self._parts > MOST_ITEMS:
                self._failed(_TOO_MANY)
                return False
        return True

    def _refusal(self, state: _ItemState, part: int, text: str) -> None:
        if text and self._counted(state.refusal, part):
            state.refusal[part] = state.refusal.get(part, 0) + len(text)
            self._events.append(RefusalDelta(text))

    def _thought(self, state: _ItemState, part: int, text: str) -> None:
        if text:
            if part > state.summary:
                text = "\n\n" + text if state.size else text
                state.summary = part
            state.size += len(text)
            self._events.append(ReasoningDelta(text))

    def _call(self, state: _ItemState, item: dict[str, Any]) -> None:
        name = _json.a_text(item.get("name"))
        if _json.a_text(item.get("type")) not in _CALLS or state.call >= 0 or not name:
            return
        if self._calls >= MOST_CALLS or len(name) > MAX_ID_CHARS:
            self._failed(_TOO_MANY)
            return
        state.call, state.custom = self._calls, item["type"] == "custom_tool_call"
        self._calls += 1
        identity = _json.a_text(item.get("call_id"))[:MAX_ID_CHARS]
        if not identity or identity in self._ids:
            identity = new_id("call")
        self._ids.add(identity)
        self._events.append(ToolStart(state.call, identity, name))
        if state.custom:
            self._events.append(ToolDelta(state.call, '{"input":"'))

    def _arguments(self, state: _ItemState, text: str) -> None:
        if text and state.call >= 0:
            state.size += len(text)
            self._events.append(ToolDelta(state.call, _json.write_text(text)[1:-1] if state.custom else text))

    def _item(self, place: int, item: dict[str, Any]) -> None:
        """An item is complete: emit the text that did not come as deltas."""
        if place in self._finished or self.over:
            return
        if place not in self._items and len(self._items) + len(self._finished) >= MOST_ITEMS:
            self._failed(_TOO_MANY)
            return
        self._finished.add(place)
        state = self._items.pop(place, None) or _ItemState()
        kind = _json.a_text(item.get("type"))
        if kind == "message":
            for number, entry in enumerate(_json.a_list(item.get("content"))):
                part = _json.an_object(entry)
                if part.get("type") == "refusal":
                    self._refusal(state, number, _json.a_text(part.get("refusal"))[state.refusal.get(number, 0) :])
                else:
                    text = _json.a_text(part.get("text"))[state.text.get(number, 0) :]
                    self._text(state, number, text, part.get("logprobs"))
        elif kind == "reasoning":
            self._whole_thought(state, item)
        elif kind in _CALLS:
            if _json.is_deeper(item.get(_CALLS[kind]), MAX_DEPTH):
                self._failed(Failure(502, "The upstream sent arguments that are nested too deeply."))
                return
            self._call(state, item)
            self._whole_arguments(state, _written(item.get(_CALLS[kind])) or state.early)
            if state.custom and state.call >= 0:
                self._events.append(ToolDelta(state.call, '"}'))

    def _whole_thought(self, state: _ItemState, item: dict[str, Any]) -> None:
        if not state.size:
            entries = _json.a_list(item.get("summary")) or _json.a_list(item.get("content"))
            for number, entry in enumerate(entries):
                self._thought(state, number, _json.a_text(_json.an_object(entry).get("text")))
        encrypted = _json.a_text(item.get("encrypted_content"))
        if encrypted:
            signature = pack_native(_json.a_text(item.get("id")) or new_id("rs"), encrypted)
            self._events.append(ReasoningDelta(signature=signature))

    def _terminal(self, response: dict[str, Any]) -> None:
        status, usage = response.get("status"), response.get("usage")
        if isinstance(usage, dict):
            self._events.append(read_usage(usage))
        if status in ("failed", "cancelled") or response.get("error"):
            failure = failure_of(response, status_in(response, 502)) if response.get("error") else None
            self._failed(failure or _unexplained())
            return
        for place, item in enumerate(_json.a_list(response.get("output"))):
            self._item(place, _json.an_object(item))
            if self.over:
                return
        for state in self._items.values():
            if state.custom:  # a call whose item was never said to be complete
                self._events.append(ToolDelta(state.call, '"}'))
        reason = _json.an_object(response.get("incomplete_details")).get("reason")
        if status == "incomplete":
            finish = "content_filter" if reason == "content_filter" else "length"
        else:
            finish = "tool_calls" if self._calls else "stop"
        self._events += [Finish(finish), End()]
        self.over = True


def reader(request: Request, options: Options, memory: Memory, content_encoding: str = "") -> ResponseReader:
    """See dialect.Dialect."""
    answer = ResponsesAnswer(call_ids(request.messages))
    return ResponseReader(answer, stream=request.stream, content_encoding=content_encoding,
                        names=RESPONSES.original_names(request), stops=RESPONSES.split_stops(request)[1])  # fmt: skip


_TOO_MANY = Failure(502, "The upstream's answer has too many items.")


def _unexplained() -> Failure:
    return Failure(502, "The upstream reported a failure without saying why.")


def _written(value: Any) -> str:
    return _json.write_text(value) if isinstance(value, dict) else _json.a_text(value)
