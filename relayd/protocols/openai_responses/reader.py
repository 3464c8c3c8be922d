"""Converts the answer of a Responses endpoint, an event stream or a plain body, to canonical events.

Laws (in addition to those of _response_reader.py):
1. Closing events fill in missing deltas: if the final text of an item or part is longer than its deltas, the rest
   becomes an event. No text becomes an event twice.
2. Only a terminal event completes an answer; a stream that ends without one was cut.
3. The state of an answer is bounded.
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
from relayd.protocols.openai_responses.reasoning_items import pack_native_signature
from relayd.protocols.openai_responses.state import new_id
from relayd.protocols.openai_responses.usage import read_usage
from relayd.wire.json_scanner import MAX_DEPTH
from relayd.wire.json_steps import Steps

_INPUT_MEMBERS = {"function_call": "arguments", "custom_tool_call": "input"}
_REASONING_DELTAS = (
    "response.reasoning_summary_text.delta", "response.reasoning_text.delta", "response.reasoning.delta",
)  # fmt: skip
_ARGUMENTS_DONE = {
    "response.function_call_arguments.done": "arguments", "response.custom_tool_call_input.done": "input",
}  # fmt: skip
STEP_ITEMS = 256
_MOVED = 1 << 32  # the first index of items that were added under an index in use
_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


def _token(entry: Any) -> Any:
    return None if _json.is_deeper(entry, 7) else entry


class _ItemState:
    """The progress of one output item; owned by the decoder."""

    __slots__ = ("call_index", "channel", "chars", "custom", "early_arguments", "refusal", "summary_index", "text")

    def __init__(self) -> None:
        self.call_index = -1  # canonical number of the call, -1 before its ToolStart
        self.custom = False
        self.early_arguments = ""  # complete arguments that arrived before the ToolStart
        self.channel = ""  # type of the first reasoning event; other types are ignored
        self.summary_index = 0
        self.chars = 0  # emitted characters of arguments or reasoning
        self.text: dict[int, int] = {}  # emitted characters by content_index
        self.refusal: dict[int, int] = {}


class ResponsesDecoder:
    """Decodes one answer; owned by its reader."""

    def __init__(self, used_ids: frozenset[str] = frozenset()) -> None:
        """`used_ids` are the ids of the calls in the conversation; a call that repeats one gets a new id."""
        self.over = False
        self.begun = False
        self._used_ids = set(used_ids)
        self._items: dict[int, _ItemState] = {}
        self._finished: set[int] = set()
        self._indexes_by_id: dict[str, int] = {}  # output_index by item id, for events without output_index
        self._added: set[int] = set()  # output indexes with an output_item.added event
        self._moved: dict[int, int] = {}  # the index of the latest item that was added under an index in use
        self._allowance = Allowance()
        self._part_count = 0
        self._call_count = 0
        self._events: list[Event] = []  # list of the current caller

    # ---- called by the reader

    def value(self, value: Any, events: list[Event], is_error: bool) -> Steps[None]:
        """Read one event of the stream."""
        self._events, before = events, len(events)
        event = _json.an_object(value)
        kind = _json.a_text(event.get("type"))
        response = _json.an_object(event.get("response"))
        if kind == "error" or (not kind and (is_error or event.get("error"))):
            error_body = event if event.get("error") else {"error": event}
            self._fail_once(failure_of(error_body, status_in(error_body, 502)) or _unspecified_failure())
        elif kind in _TERMINAL:
            self._begin(response)
            yield from self._terminal(response)
        elif response:
            self._begin(response)
        elif kind.startswith("response."):
            yield from self._item_event(kind, event)
        if self.over:
            self._drop_after_failure(before)

    def body(self, value: Any, events: list[Event]) -> Steps[None]:
        """Read a plain answer."""
        self._events, before = events, len(events)
        response = _json.an_object(value)
        if response.get("error") or not isinstance(response.get("output"), list):
            failure = failure_of(value, status_in(value, 502)) if response.get("error") else None
            self._fail_once(failure or Failure(502, "The upstream's answer is not a response.", "upstream_malformed"))
        else:
            self._begin(response)
            yield from self._terminal(response)
        self._drop_after_failure(before)

    def done_marker(self, events: list[Event]) -> None:
        """Ignored: only a terminal event ends an answer."""

    def end_of_stream(self, events: list[Event]) -> None:
        """Fail the answer: the bytes ended without a terminal event."""
        self.fail(CUT, events)

    def fail(self, failure: Failure, events: list[Event]) -> None:
        """End the answer with a failure."""
        self.over = True
        events.append(failure)

    def _fail_once(self, failure: Failure) -> None:
        if not self.over:
            self.fail(failure, self._events)

    def _drop_after_failure(self, start: int) -> None:
        """Remove the events of the same frame that follow a failure."""
        for output_index in range(start, len(self._events)):
            if isinstance(self._events[output_index], Failure):
                del self._events[output_index + 1 :]
                return

    # ---- events

    def _begin(self, response: dict[str, Any]) -> None:
        if not self.begun:
            self.begun = True
            identity, model = (_json.a_text(response.get(key))[:MAX_ID_CHARS] for key in ("id", "model"))
            self._events.append(Begin(identity, model, _json.a_count(response.get("created_at"))))

    def _item_event(self, kind: str, event: dict[str, Any]) -> Steps[None]:
        output_index = self._output_index(event, kind == "response.output_item.added")
        delta = _json.a_text(event.get("delta"))
        if output_index in self._finished:
            return
        if output_index not in self._items and len(self._items) + len(self._finished) >= MOST_ITEMS:
            self._fail_once(_TOO_MANY)
            return
        state = self._items.setdefault(output_index, _ItemState())
        if kind == "response.output_text.delta":
            self._text(state, _json.a_count(event.get("content_index")), delta, event.get("logprobs"))
        elif kind == "response.refusal.delta":
            self._refusal(state, _json.a_count(event.get("content_index")), delta)
        elif kind in _REASONING_DELTAS:
            if state.channel in ("", kind):
                state.channel = kind
                self._reasoning(state, _json.a_count(event.get("summary_index")), delta)
        elif kind == "response.output_item.added":
            item = _json.an_object(event.get("item"))
            self._begin_call(state, item)
            yield from self._early_arguments(state, item)
        elif kind in ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"):
            yield from self._arguments(state, delta)
        elif kind == "response.output_item.done":
            yield from self._item_done(output_index, _json.an_object(event.get("item")))
        elif kind.endswith(".done"):
            yield from self._part_done(state, kind, event)

    def _output_index(self, event: dict[str, Any], is_added: bool) -> int:
        """Return the output index of the event's item. Some endpoints send only the item's id, some only the index,
        and some the same index for several items."""
        output_index = event.get("output_index")
        identity = _json.a_text(event.get("item_id") or _json.an_object(event.get("item")).get("id"))[:MAX_ID_CHARS]
        known = self._indexes_by_id.get(identity) if identity else None
        if output_index.__class__ is not int or output_index < 0:
            output_index = known if known is not None else len(self._indexes_by_id) if identity else 0
        elif known is not None and known >= _MOVED:
            return known
        elif is_added and identity and known is None and output_index in self._added:
            self._moved[output_index] = output_index = _MOVED + len(self._indexes_by_id)
        else:
            output_index = self._moved.get(output_index, output_index) if known is None else output_index
        if is_added:
            self._added.add(output_index)
        if identity and len(self._indexes_by_id) < MOST_ITEMS:
            self._indexes_by_id.setdefault(identity, output_index)
        return int(output_index)

    def _part_done(self, state: _ItemState, kind: str, event: dict[str, Any]) -> Steps[None]:
        """A part of an item is complete: emit the text that was not sent as deltas."""
        part = _json.a_count(event.get("content_index"))
        if kind in _ARGUMENTS_DONE:
            value = event.get(_ARGUMENTS_DONE[kind])
            if not (yield from _json.is_deeper_steps(value, MAX_DEPTH)):
                yield from self._complete_arguments(state, (yield from _arguments_text(value)))
        elif kind == "response.output_text.done":
            self._text(state, part, _json.a_text(event.get("text"))[state.text.get(part, 0) :], event.get("logprobs"))
        elif kind == "response.refusal.done":
            self._refusal(state, part, _json.a_text(event.get("refusal"))[state.refusal.get(part, 0) :])
        elif kind == "response.content_part.done":
            whole = _json.an_object(event.get("part"))
            if whole.get("type") == "refusal":
                self._refusal(state, part, _json.a_text(whole.get("refusal"))[state.refusal.get(part, 0) :])
            elif whole.get("type") == "output_text":
                text = _json.a_text(whole.get("text"))[state.text.get(part, 0) :]
                self._text(state, part, text, whole.get("logprobs"))
        elif (channel := kind.removesuffix("done") + "delta") in _REASONING_DELTAS and state.channel in ("", channel):
            index = _json.a_count(event.get("summary_index"))
            if not state.chars or index > state.summary_index:
                state.channel = channel
                self._reasoning(state, index, _json.a_text(event.get("text")))

    def _early_arguments(self, state: _ItemState, item: dict[str, Any]) -> Steps[None]:
        """Keep the arguments with which a call begins, for an endpoint that does not send them again."""
        value = item.get(_INPUT_MEMBERS.get(_json.a_text(item.get("type")), ""))
        if not value or (yield from _json.is_deeper_steps(value, MAX_DEPTH)):
            return
        text = yield from _arguments_text(value)
        try:
            self._allowance.charge(len(text))
        except ResponseTooLarge as error:
            self._fail_once(Failure(502, str(error)))
        else:
            state.early_arguments = text

    def _complete_arguments(self, state: _ItemState, text: str) -> Steps[None]:
        if text.strip() == "null" and not state.custom:
            text = "{}"  # the arguments of a call without arguments
        if state.call_index >= 0:
            yield from self._arguments(state, text[state.chars :])
            return
        try:
            self._allowance.charge(len(text))
        except ResponseTooLarge as error:
            self._fail_once(Failure(502, str(error)))
        else:
            state.early_arguments = text

    def _text(self, state: _ItemState, part: int, text: str, logprobs: Any = None) -> None:
        if text and self._count_part(state.text, part):
            state.text[part] = state.text.get(part, 0) + len(text)
            tokens = tokens_of(_json.a_list(logprobs), _token)
            self._events.append(TextDelta(text, logprobs=tokens or None))

    def _count_part(self, parts: dict[int, int], part: int) -> bool:
        """Count a new part. Fails the answer and returns False if it has too many parts."""
        if part not in parts:
            self._part_count += 1
            if self._part_count > MOST_ITEMS:
                self._fail_once(_TOO_MANY)
                return False
        return True

    def _refusal(self, state: _ItemState, part: int, text: str) -> None:
        if text and self._count_part(state.refusal, part):
            state.refusal[part] = state.refusal.get(part, 0) + len(text)
            self._events.append(RefusalDelta(text))

    def _reasoning(self, state: _ItemState, part: int, text: str) -> None:
        if text:
            if part > state.summary_index:
                text = "\n\n" + text if state.chars else text
                state.summary_index = part
            state.chars += len(text)
            self._events.append(ReasoningDelta(text))

    def _begin_call(self, state: _ItemState, item: dict[str, Any]) -> None:
        name = _json.a_text(item.get("name"))
        if _json.a_text(item.get("type")) not in _INPUT_MEMBERS or state.call_index >= 0 or not name:
            return
        if self._call_count >= MOST_CALLS or len(name) > MAX_ID_CHARS:
            self._fail_once(_TOO_MANY)
            return
        state.call_index, state.custom = self._call_count, item["type"] == "custom_tool_call"
        self._call_count += 1
        identity = _json.a_text(item.get("call_id"))[:MAX_ID_CHARS]
        if not identity or identity in self._used_ids:
            identity = new_id("call")
        self._used_ids.add(identity)
        self._events.append(ToolStart(state.call_index, identity, name))
        if state.custom:
            self._events.append(ToolDelta(state.call_index, '{"input":"'))

    def _arguments(self, state: _ItemState, text: str) -> Steps[None]:
        if text and state.call_index >= 0:
            state.chars += len(text)
            if state.custom:
                text = (yield from _json.write_text_steps(text))[1:-1]
            self._events.append(ToolDelta(state.call_index, text))

    def _item_done(self, output_index: int, item: dict[str, Any]) -> Steps[None]:
        """An item is complete: emit the text that was not sent as deltas."""
        if output_index in self._finished or self.over:
            return
        if output_index not in self._items and len(self._items) + len(self._finished) >= MOST_ITEMS:
            self._fail_once(_TOO_MANY)
            return
        self._finished.add(output_index)
        state = self._items.pop(output_index, None) or _ItemState()
        kind = _json.a_text(item.get("type"))
        if kind == "message":
            for index, entry in enumerate(_json.a_list(item.get("content"))):
                part = _json.an_object(entry)
                if part.get("type") == "refusal":
                    self._refusal(state, index, _json.a_text(part.get("refusal"))[state.refusal.get(index, 0) :])
                else:
                    text = _json.a_text(part.get("text"))[state.text.get(index, 0) :]
                    self._text(state, index, text, part.get("logprobs"))
        elif kind == "reasoning":
            self._complete_reasoning(state, item)
        elif kind in _INPUT_MEMBERS:
            if (yield from _json.is_deeper_steps(item.get(_INPUT_MEMBERS[kind]), MAX_DEPTH)):
                self._fail_once(Failure(502, "The upstream sent arguments that are nested too deeply."))
                return
            self._begin_call(state, item)
            text = yield from _arguments_text(item.get(_INPUT_MEMBERS[kind]))
            yield from self._complete_arguments(state, text or ("" if state.chars else state.early_arguments))
            if state.custom and state.call_index >= 0:
                self._events.append(ToolDelta(state.call_index, '"}'))

    def _complete_reasoning(self, state: _ItemState, item: dict[str, Any]) -> None:
        if not state.chars:
            entries = _json.a_list(item.get("summary")) or _json.a_list(item.get("content"))
            for index, entry in enumerate(entries):
                self._reasoning(state, index, _json.a_text(_json.an_object(entry).get("text")))
        encrypted = _json.a_text(item.get("encrypted_content"))
        if encrypted:
            signature = pack_native_signature(_json.a_text(item.get("id")) or new_id("rs"), encrypted)
            self._events.append(ReasoningDelta(signature=signature))

    def _terminal(self, response: dict[str, Any]) -> Steps[None]:
        status, usage = _json.a_reason(response.get("status")), response.get("usage")
        if isinstance(usage, dict):
            self._events.append(read_usage(usage))
        if status in ("failed", "cancelled") or response.get("error"):
            failure = failure_of(response, status_in(response, 502)) if response.get("error") else None
            self._fail_once(failure or _unspecified_failure())
            return
        if status not in ("", "completed", "incomplete"):
            self._fail_once(Failure(502, f"The upstream's response is not complete: {status}.", "upstream_malformed"))
            return
        for output_index, entry in enumerate(_json.a_list(response.get("output"))):
            item = _json.an_object(entry)
            known = self._indexes_by_id.get(_json.a_text(item.get("id"))[:MAX_ID_CHARS], 0)
            yield from self._item_done(known if known >= _MOVED else output_index, item)
            if self.over:
                return
            if output_index % STEP_ITEMS == STEP_ITEMS - 1:
                yield
        for state in self._items.values():  # items without an output_item.done event
            if state.call_index >= 0 and not state.chars:
                yield from self._complete_arguments(state, state.early_arguments)
            if state.custom:
                self._events.append(ToolDelta(state.call_index, '"}'))
        reason = _json.an_object(response.get("incomplete_details")).get("reason")
        if status == "incomplete":
            finish = "content_filter" if reason == "content_filter" else "length"
        else:
            finish = "tool_calls" if self._call_count else "stop"
        self._events += [Finish(finish), End()]
        self.over = True


def reader(request: Request, options: Options, memory: Memory, content_encoding: str = "") -> ResponseReader:
    """See dialect.Dialect."""
    decoder = ResponsesDecoder(call_ids(request.messages))
    return ResponseReader(decoder, stream=request.stream, content_encoding=content_encoding,
                        names=RESPONSES.original_names(request), stops=RESPONSES.split_stops(request)[1])  # fmt: skip


_TOO_MANY = Failure(502, "The upstream's answer has too many items.")


def _unspecified_failure() -> Failure:
    return Failure(502, "The upstream reported a failure without a reason.")


def _arguments_text(value: Any) -> Steps[str]:
    return (yield from _json.write_text_steps(value)) if isinstance(value, dict) else _json.a_text(value)
