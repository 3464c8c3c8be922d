"""Responses of /api/chat, streamed (NDJSON) and plain, to events.

Law (in addition to those of _response_reader.py): a stream's lines and a plain response's body are the same object,
decoded by the same code. The object with `done: true` is the last; bytes that end without it were truncated.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import MAX_ID_CHARS, MOST_CALLS
from relayd.protocols._event_pieces import tokens_of
from relayd.protocols._response_reader import CUT, MIB, Framing, ResponseReader
from relayd.protocols._tool_arguments import written_steps
from relayd.protocols._turns import call_ids
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Memory, Options
from relayd.protocols.ollama.errors import failure_in
from relayd.protocols.ollama.usage import facts, read_usage
from relayd.wire.json_scanner import MAX_DEPTH
from relayd.wire.json_steps import Steps

FRAMING = Framing(line_bytes=4 * MIB, frame_bytes=4 * MIB, is_lines=True)
MOST_ID = 256
_REASONS = {
    "": "stop", "stop": "stop", "tool_calls": "stop", "length": "length", "max_tokens": "length",
    "content_filter": "content_filter", "load": "stop", "unload": "stop",
}  # fmt: skip


def reader(request: Request, options: Options, memory: Memory, content_encoding: str = "") -> ResponseReader:
    """See dialect.Dialect."""
    decoder = OllamaDecoder(call_ids(request.messages))
    return ResponseReader(decoder, stream=request.stream, content_encoding=content_encoding, framing=FRAMING)


class OllamaDecoder:
    """Decodes one response; owned by its reader."""

    def __init__(self, known: frozenset[str]) -> None:
        """`known`: the ids of the conversation's calls."""
        self.over = False
        self.begun = False
        self._ids = set(known)
        self._calls = 0
        self._has_message = False

    # ---- called by the reader

    def value(self, value: Any, events: list[Event], is_error: bool, is_body: bool = False) -> Steps[None]:
        """One line of a stream, or a body."""
        failure = failure_in(value)
        if failure is not None:
            self.fail(failure, events)
            return
        if not isinstance(value, dict):
            self._malformed(events, "The upstream sent a value that is not an object.")
            return
        if not self.begun:
            self.begun = True
            events.append(Begin("", _json.a_text(value.get("model"))[:MAX_ID_CHARS], _seconds(value.get("created_at"))))
        message, done = value.get("message"), value.get("done")
        self._has_message |= isinstance(message, dict)
        yield from self._message(_json.an_object(message), value.get("logprobs"), events)
        # A truncated plain response is not valid JSON, so `done` may be missing, as some servers leave it out.
        if not self.over and (done is True or (is_body and done is None and isinstance(message, dict))):
            self._last(value, events)

    def body(self, value: Any, events: list[Event]) -> Steps[None]:
        """A plain response."""
        yield from self.value(value, events, False, is_body=True)
        if not self.over:
            self.fail(CUT, events)

    def done_marker(self, events: list[Event]) -> None:
        """Ignored: not part of this dialect."""

    def end_of_stream(self, events: list[Event]) -> None:
        """The bytes have ended without `done: true`."""
        self.fail(CUT, events)

    def fail(self, failure: Failure, events: list[Event]) -> None:
        """End the response with a failure."""
        self.over = True
        events.append(failure)

    def _malformed(self, events: list[Event], message: str) -> None:
        self.fail(Failure(502, message, code="upstream_malformed"), events)

    # ---- its parts

    def _message(self, message: dict[str, Any], logprobs: Any, events: list[Event]) -> Steps[None]:
        thought = message.get("thinking")
        if isinstance(thought, str) and thought:
            events.append(ReasoningDelta(thought))
        text = message.get("content")
        if isinstance(text, str) and text:
            events.append(TextDelta(text, 0, tokens_of(_json.a_list(logprobs), _token) or None))
        calls = message.get("tool_calls")
        for call in [calls] if isinstance(calls, dict) else _json.a_list(calls):
            yield from self._call(_json.an_object(call), events)
            if self.over:
                return

    def _call(self, call: dict[str, Any], events: list[Event]) -> Steps[None]:
        function = _json.an_object(call.get("function"))
        name, arguments = _json.a_text(function.get("name")), function.get("arguments")
        fault = ""
        if not name:
            fault = "The model called a function without a name."
        elif len(name) > MAX_ID_CHARS:
            fault = "The model called a function with a name that is too long."
        elif self._calls >= MOST_CALLS:
            fault = "The model called too many functions."
        elif (yield from _json.is_deeper_steps(arguments, MAX_DEPTH)):
            fault = "The model's call has arguments that are nested too deeply."
        if fault:
            self._malformed(events, fault)
            return
        # Some servers number the calls of each response anew; an id is kept only if it is long enough to be unique.
        call_id = _json.a_text(call.get("id"))
        if len(call_id) < 8 or call_id in self._ids or len(call_id) > MOST_ID:
            call_id = f"call_{secrets.token_hex(12)}"
        index = self._calls
        self._calls += 1
        self._ids.add(call_id)
        text = yield from written_steps(arguments)
        yield
        events.append(ToolStart(index, call_id, name))
        events.append(ToolDelta(index, text))

    def _last(self, value: dict[str, Any], events: list[Event]) -> None:
        self.over = True
        if not self._has_message:
            self._malformed(events, "The upstream's answer has no message.")
            return
        done_reason = _json.a_reason(value.get("done_reason"))
        reason = _REASONS.get(done_reason, "")
        if not reason:
            self._malformed(events, f"The upstream stopped its answer for an unknown reason: {done_reason}.")
            return
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        counts = facts(value).usage
        if counts is not None and (usage := read_usage(counts)) != _NOTHING:
            events.append(usage)
        events += (Finish(reason), End())


_NOTHING = Usage()


def _token(entry: Any) -> Any:
    return None if _json.is_deeper(entry, MAX_DEPTH) else entry


def _seconds(text: Any) -> int:
    """Unix seconds of an RFC 3339 time; 0 if it is invalid."""
    try:
        moment = datetime.fromisoformat(text)
        return max(0, int(moment.timestamp())) if moment.tzinfo is not None else 0
    except (TypeError, ValueError, OverflowError):
        return 0
