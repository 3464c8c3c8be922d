"""Responses of generateContent, streamed and plain, to events.

Laws (in addition to those of _response_reader.py):
1. A stream's frames and a plain response's body are the same object, decoded by the same code.
2. Finish events are emitted at the end of the bytes: Gemini may send parts after a finish reason, and only then all
   calls are known. A stream in which a candidate has no finish reason was truncated.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import MAX_ID_CHARS, MOST_CALLS
from relayd.protocols._capabilities import GEMINI
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
    RefusalDelta,
    Request,
    TextDelta,
    ToolDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Memory, Options
from relayd.protocols.gemini.errors import failure_in
from relayd.protocols.gemini.signatures import store
from relayd.protocols.gemini.usage import read_usage
from relayd.wire.json_scanner import MAX_DEPTH
from relayd.wire.json_steps import Steps

FRAMING = Framing(line_bytes=16 * MIB, frame_bytes=16 * MIB)  # a generated image is one line
MOST_CHOICES = 128
MOST_ID = 256
STEP_ENTRIES = 256  # of a list

_FILTERED = (
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR",
)  # fmt: skip
_REASONS = {"": "stop", "STOP": "stop", "MAX_TOKENS": "length"} | dict.fromkeys(_FILTERED, "content_filter")
_BROKEN = {
    "MALFORMED_FUNCTION_CALL": "The model's function call could not be read.",
    "UNEXPECTED_TOOL_CALL": "The model called a tool that was not offered.",
    "TOO_MANY_TOOL_CALLS": "The model called too many tools.",
    "MISSING_THOUGHT_SIGNATURE": "A thought signature is missing in the history.",
    "MALFORMED_RESPONSE": "The model's answer was malformed.",
}


def reader(request: Request, options: Options, memory: Memory, content_encoding: str = "") -> ResponseReader:
    """See dialect.Dialect."""
    decoder = GeminiDecoder(memory, call_ids(request.messages))
    return ResponseReader(decoder, stream=request.stream, content_encoding=content_encoding, framing=FRAMING,
                        names=GEMINI.original_names(request), stops=GEMINI.split_stops(request)[1])  # fmt: skip


class GeminiDecoder:
    """Decodes one response; owned by its reader. A stream without `alt=sse` is one JSON list, read as a body."""

    def __init__(self, memory: Memory, known: frozenset[str]) -> None:
        """`known`: the ids of the conversation's calls."""
        self._memory = memory
        self.over = False
        self.begun = False
        self._whole = False  # the response is one body, whose truncation is always detected
        self._finish: dict[int, tuple[str, str]] = {}  # by choice: reason ("" if unknown so far) and message
        self._calls: dict[int, int] = {}  # by choice: the number of calls
        self._ids = set(known)
        self._blocked = ""  # why the prompt was blocked
        self._usage: Usage | None = None

    # ---- called by the reader

    def value(self, value: Any, events: list[Event], is_error: bool) -> Steps[None]:
        """One frame of a stream."""
        for number, one in enumerate(value if isinstance(value, list) else (value,), 1):
            if number % STEP_ENTRIES == 0:
                yield
            if not isinstance(one, dict):
                self._malformed(events, "The upstream sent a frame that is not an object.")
            elif (failure := failure_in(one)) is not None:
                self.fail(failure, events)
            else:
                yield from self._chunk(one, events)
            if self.over:
                return

    def body(self, value: Any, events: list[Event]) -> Steps[None]:
        """A plain response."""
        self._whole = True
        yield from self.value(value, events, False)
        if not self.over:
            self.end_of_stream(events)

    def done_marker(self, events: list[Event]) -> None:
        """Ignored: not part of this dialect, but some gateways write one."""

    def end_of_stream(self, events: list[Event]) -> None:
        """The bytes have ended; the finish reasons determine whether the response is complete."""
        if self._finish:
            self._finished(events)
        elif self._blocked:
            self.over = True
            events += (RefusalDelta(self._blocked), Finish("content_filter"), End())
        elif self._whole:
            self._malformed(events, "The upstream's answer has no candidates.")
        else:
            self.fail(CUT, events)

    def fail(self, failure: Failure, events: list[Event]) -> None:
        """End the response with a failure."""
        self.over = True
        events.append(failure)

    def _malformed(self, events: list[Event], message: str) -> None:
        self.fail(Failure(502, message, code="upstream_malformed"), events)

    def _finished(self, events: list[Event]) -> None:
        collected: list[Event] = []
        for choice, (reason, message) in sorted(self._finish.items()):
            if not reason and not self._whole and not self._blocked:
                self.fail(CUT, events)
                return
            if reason in _BROKEN:
                self.fail(Failure(502, message or _BROKEN[reason], code=reason.lower(), type=reason), events)
                return
            finish = _REASONS.get(reason)
            if finish is None:
                self._malformed(events, message or f"The upstream stopped its answer for an unknown reason: {reason}.")
                return
            if self._blocked:
                collected.append(RefusalDelta(self._blocked, choice))
                finish = "content_filter"
            if finish == "stop" and self._calls.get(choice):
                finish = "tool_calls"
            collected.append(Finish(finish, choice))
        self.over = True
        events += (*collected, End())

    # ---- chunks

    def _chunk(self, chunk: dict[str, Any], events: list[Event]) -> Steps[None]:
        if not self.begun:
            self.begun = True
            identity, model = (_json.a_text(chunk.get(key))[:MAX_ID_CHARS] for key in ("responseId", "modelVersion"))
            events.append(Begin(identity, model))
        for position, candidate in enumerate(_json.a_list(chunk.get("candidates"))[:MOST_CHOICES]):
            if not isinstance(candidate, dict):
                continue
            index = candidate.get("index")
            choice = index if index.__class__ is int and 0 <= index < MOST_CHOICES else position
            yield from self._candidate(candidate, choice, events)
            if self.over:
                return
        feedback = chunk.get("promptFeedback")
        if isinstance(feedback, dict) and feedback.get("blockReason"):
            reason_text = _json.a_text(feedback["blockReason"])[:MAX_ID_CHARS] or "for an unknown reason"
            detail = _json.a_text(feedback.get("blockReasonMessage"))[:MAX_ID_CHARS]
            self._blocked = f"The upstream blocked the prompt: {reason_text}." + (f" {detail}" if detail else "")
        counts = chunk.get("usageMetadata")
        if isinstance(counts, dict) and counts:
            usage = read_usage(counts)
            if usage != self._usage:
                self._usage = usage
                events.append(usage)

    def _candidate(self, candidate: dict[str, Any], choice: int, events: list[Event]) -> Steps[None]:
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        logprobs = _logprobs(candidate.get("logprobsResult"))
        for number, part in enumerate(_json.a_list(parts), 1):
            if number % STEP_ENTRIES == 0:
                yield
            if not isinstance(part, dict):
                continue
            text = part.get("text")
            if isinstance(text, str) and text:
                if part.get("thought") is True:
                    events.append(ReasoningDelta(text, choice))
                else:
                    events.append(TextDelta(text, choice, logprobs))
                    logprobs = None
            call = part.get("functionCall")
            if isinstance(call, dict):
                yield from self._call(call, part.get("thoughtSignature"), choice, events)
                if self.over:
                    return
            drawn = part.get("inlineData")
            if isinstance(drawn, dict) and part.get("thought") is not True:
                kind, data = _json.a_text(drawn.get("mimeType")), _json.a_text(drawn.get("data"))
                if kind.startswith("image/") and data:
                    events.append(TextDelta(f"![image](data:{kind};base64,{data})", choice))
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason:
            message = _json.a_text(candidate.get("finishMessage"))[:MAX_ID_CHARS]
            self._finish[choice] = (reason[:MAX_ID_CHARS].upper(), message)
        else:
            self._finish.setdefault(choice, ("", ""))

    def _call(self, call: dict[str, Any], part_signature: Any, choice: int, events: list[Event]) -> Steps[None]:
        name = _json.a_text(call.get("name"))
        if not name:
            self._malformed(events, "The model called a function without a name.")
            return
        if len(name) > MAX_ID_CHARS:
            self._malformed(events, "The model called a function with a name that is too long.")
            return
        if sum(self._calls.values()) >= MOST_CALLS:
            self._malformed(events, "The model called too many functions.")
            return
        arguments = call.get("args")
        if (yield from _json.is_deeper_steps(arguments, MAX_DEPTH)):
            self._malformed(events, "The model's call has arguments that are nested too deeply.")
            return
        call_id = _json.a_text(call.get("id"))
        if not call_id or call_id in self._ids or len(call_id) > MOST_ID:
            call_id = f"call_{secrets.token_hex(12)}"
        self._ids.add(call_id)
        signature = part_signature if isinstance(part_signature, str) and part_signature else None
        store(self._memory, call_id, signature)
        index = self._calls.get(choice, 0)
        self._calls[choice] = index + 1
        events.append(ToolStart(index, call_id, name, choice, signature))
        text = yield from written_steps(arguments)
        events.append(ToolDelta(index, text, choice))


def _logprobs(result: Any) -> Sequence[Any] | None:
    """Gemini's two lists of log probabilities as Chat's single list."""
    if not isinstance(result, dict):
        return None
    alternatives = _json.a_list(result.get("topCandidates"))
    chosen = _json.a_list(result.get("chosenCandidates"))

    def read(position: int) -> dict[str, Any]:
        top = _json.an_object(alternatives[position]).get("candidates") if position < len(alternatives) else None
        token = _token(chosen[position])
        token["top_logprobs"] = [_token(one) for one in _json.a_list(top)]
        return token

    return tokens_of(range(len(chosen)), read) or None


def _token(chosen: Any) -> dict[str, Any]:
    members = _json.an_object(chosen)
    text, log = _json.a_text(members.get("token")), members.get("logProbability")
    is_number = isinstance(log, int | float) and log.__class__ is not bool and abs(log) < 1e300
    number = log if is_number else -9999.0
    return {"token": text, "logprob": number, "bytes": list(text.encode("utf-8", "replace"))}
