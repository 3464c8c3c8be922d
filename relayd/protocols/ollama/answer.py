"""/api/chat's answers, streamed (NDJSON) and plain, to events.

Laws:
1. A stream's lines and a plain answer's body are the same object, folded by the same code. The one with `done: true` is
   the last; bytes that end without it were cut.
2. Nothing raises and nothing grows, whatever the endpoint sends: what cannot be read is one Failure.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import LONGEST_WORD
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    Request,
    TextDelta,
    ThoughtDelta,
    ToolDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Memory, Options
from relayd.protocols.ollama.errors import failure_in
from relayd.wire.body import MAX_DEPTH
from relayd.wire.ndjson import LineSplitter, NdjsonError

MOST_BYTES = 64 * 1024 * 1024  # of a plain answer
MOST_LINE_BYTES = 4 * 1024 * 1024
MOST_CALLS = 1024
MOST_ID = 256


def reader(request: Request, options: Options, memory: Memory) -> Reader:
    """The reader of one attempt's answer."""
    return Reader(request)


class Reader:
    """Reads one answer; owned by the attempt."""

    def __init__(self, request: Request) -> None:
        self._splitter = LineSplitter(MOST_LINE_BYTES) if request.stream else None
        self._body = bytearray()
        self._begun = self._done = False
        self._ids: set[str] = set()

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete."""
        if self._done:
            return []
        if self._splitter is None:
            self._body += data
            return self._fail("The upstream's answer is too large.") if len(self._body) > MOST_BYTES else []
        try:
            lines = self._splitter.feed(data)
        except NdjsonError:
            return self._fail("The upstream sent a line that is too large.")
        return self._lines(lines)

    def _lines(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            events += self._line(line)
            if self._done:
                break
        return events

    def end(self) -> list[Event]:
        """The bytes have ended cleanly: the rest of the events."""
        if self._done:
            return []
        if self._splitter is None:
            events = self._line(bytes(self._body))
            self._body.clear()
        else:
            rest = self._splitter.finish()
            events = [] if rest is None else self._line(rest)
            last = events[-1] if events else None
            if isinstance(last, Failure) and last.code == "upstream_malformed":
                events[-1] = _CUT  # half a line
        return events + self._cut()

    def _cut(self) -> list[Event]:
        if self._done:
            return []
        self._done = True
        return [_CUT]

    def _line(self, line: bytes) -> list[Event]:
        try:
            value = _json.parse(line)
        except ValueError:
            what = "sent what is no JSON" if line.strip() else "answered with nothing"
            return self._fail(f"The upstream {what}.")
        failure = failure_in(value)
        if failure is not None:
            self._done = True
            return [failure]
        if not isinstance(value, dict):
            return self._fail("The upstream sent what is no object.")
        events: list[Event] = []
        if not self._begun:
            self._begun = True
            events.append(Begin("", _json.a_text(value.get("model"))[:LONGEST_WORD], _seconds(value.get("created_at"))))
        message, done = value.get("message"), value.get("done")
        self._message(_json.an_object(message), value.get("logprobs"), events)
        # A plain answer cannot be cut unseen; some servers leave `done` out of it.
        if done is True or (self._splitter is None and done is None and isinstance(message, dict)):
            events += self._last(value)
        return events

    def _message(self, message: dict[str, Any], logprobs: Any, events: list[Event]) -> None:
        thought = message.get("thinking")
        if isinstance(thought, str) and thought:
            events.append(ThoughtDelta(thought))
        text = message.get("content")
        if isinstance(text, str) and text:
            told = isinstance(logprobs, list) and logprobs and not _json.is_deeper(logprobs, MAX_DEPTH)
            events.append(TextDelta(text, 0, tuple(logprobs) if told else None))
        for call in _json.a_list(message.get("tool_calls")):
            self._call(_json.an_object(call), events)
            if self._done:
                return

    def _call(self, call: dict[str, Any], events: list[Event]) -> None:
        function = _json.an_object(call.get("function"))
        name, arguments = _json.a_text(function.get("name")), function.get("arguments")
        fault = ""
        if not name:
            fault = "The model called a function without a name."
        elif len(name) > LONGEST_WORD:
            fault = "The model called a function with a name that is too long."
        elif len(self._ids) >= MOST_CALLS:
            fault = "The model called too many functions."
        elif _json.is_deeper(arguments, MAX_DEPTH):
            fault = "The model's call has arguments that are nested too deeply."
        if fault:
            events += self._fail(fault)
            return
        # Some servers number the calls of each answer anew; an id is kept only if it cannot meet itself again.
        call_id = _json.a_text(call.get("id"))
        if len(call_id) < 8 or call_id in self._ids or len(call_id) > MOST_ID:
            call_id = f"call_{secrets.token_hex(12)}"
        index = len(self._ids)
        self._ids.add(call_id)
        text = arguments if isinstance(arguments, str) and arguments else _json.write_text(arguments or {})
        events.append(ToolStart(index, call_id, name))
        events.append(ToolDelta(index, text))

    def _last(self, value: dict[str, Any]) -> list[Event]:
        if self._done:
            return []
        self._done = True
        usage = Usage(_json.a_count(value.get("prompt_eval_count")), _json.a_count(value.get("eval_count")))
        reason = "length" if value.get("done_reason") == "length" else "tool_calls" if self._ids else "stop"
        counted: list[Event] = [usage] if usage != _NOTHING else []
        return [*counted, Finish(reason), End()]

    def _fail(self, message: str) -> list[Event]:
        self._done = True
        self._body.clear()
        return [Failure(502, message, code="upstream_malformed")]


_CUT = Failure(502, "The upstream's stream ended before its answer was complete.", code="upstream_cut")
_NOTHING = Usage()


def _seconds(text: Any) -> int:
    """Unix seconds of an RFC 3339 time; 0 for what is none."""
    try:
        moment = datetime.fromisoformat(text)
        return max(0, int(moment.timestamp())) if moment.tzinfo is not None else 0
    except (TypeError, ValueError, OverflowError):
        return 0
