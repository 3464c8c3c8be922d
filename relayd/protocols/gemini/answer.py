"""generateContent's answers, streamed and plain, to events.

Laws:
1. One fold for both: a stream's frames and a plain answer's body are the same object, folded by the same code.
2. A finish reason is told at the end of the bytes: Gemini may send parts behind it, and only then is known whether
   there were calls. A stream in which a candidate has no finish reason was cut.
3. Nothing raises and nothing grows, whatever the endpoint sends: what cannot be read is one Failure.
"""

from __future__ import annotations

import secrets
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
from relayd.protocols.gemini.errors import failure_in
from relayd.protocols.gemini.names import names_back
from relayd.protocols.gemini.signatures import keep
from relayd.wire.body import MAX_DEPTH
from relayd.wire.sse import Event as Frame
from relayd.wire.sse import SseError, SseSplitter

MOST_BYTES = 64 * 1024 * 1024  # of a plain answer
MOST_FRAME_BYTES = 16 * 1024 * 1024  # an image drawn by a model is one line
MOST_CALLS = 1024
MOST_CHOICES = 128
MOST_ID = 256

_FILTERED = (
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR",
)  # fmt: skip
_REASONS = {"MAX_TOKENS": "length"} | dict.fromkeys(_FILTERED, "content_filter")
_BROKEN = {
    "MALFORMED_FUNCTION_CALL": "The model's function call could not be read.",
    "UNEXPECTED_TOOL_CALL": "The model called a tool that was not offered.",
    "TOO_MANY_TOOL_CALLS": "The model called too many tools.",
    "MISSING_THOUGHT_SIGNATURE": "A thought signature is missing in the history.",
    "MALFORMED_RESPONSE": "The model's answer was malformed.",
}


def reader(request: Request, options: Options, memory: Memory) -> Reader:
    """The reader of one attempt's answer."""
    return Reader(request, memory)


class Reader:
    """Reads one answer; owned by the attempt."""

    def __init__(self, request: Request, memory: Memory) -> None:
        self._memory = memory
        self._names = names_back(tool.name for tool in request.tools)
        self._splitter = SseSplitter(MOST_FRAME_BYTES, MOST_FRAME_BYTES) if request.stream else None
        self._sniffed = not request.stream
        self._body = bytearray()
        self._begun = self._done = False
        self._whole = not request.stream  # the answer is one body, which cannot be cut unseen
        self._finish: dict[int, tuple[str, str]] = {}  # by choice: the reason ("" until it is told), the message
        self._calls: dict[int, int] = {}  # by choice: how many
        self._ids: set[str] = set()
        self._blocked = False
        self._usage: Usage | None = None

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete."""
        if self._done or not data:
            return []
        if not self._sniffed:
            # Without alt=sse, or through a proxy that collects streams, the answer is one JSON value.
            start = data.lstrip()[:1]
            if start:
                self._sniffed = True
                if start in (b"{", b"["):
                    self._splitter = None
        if self._splitter is None:
            self._body += data
            return self._fail("The upstream's answer is too large.") if len(self._body) > MOST_BYTES else []
        return self._split(self._splitter, data)

    def _split(self, splitter: SseSplitter, data: bytes) -> list[Event]:
        try:
            frames = splitter.feed(data)
        except SseError:
            return self._fail("The upstream sent a frame that is too large.")
        events: list[Event] = []
        for frame in frames:
            events += self._frame(frame)
            if self._done:
                break
        return events

    def _frame(self, frame: Frame) -> list[Event]:
        data = frame.data
        if data is None:
            # An error may stand in the stream without `data:`.
            if b'"error"' not in frame.raw:
                return []
            data = frame.raw
        if not data or data.isspace() or data == b"[DONE]":
            return []
        try:
            value = _json.parse(data)
        except ValueError:
            return [] if frame.data is None else self._fail("The upstream sent a frame that is no JSON.")
        return self._value(value)

    def _value(self, value: Any) -> list[Event]:
        events: list[Event] = []
        for one in value if isinstance(value, list) else (value,):
            if not isinstance(one, dict):
                return events + self._fail("The upstream sent a frame that is no object.")
            failure = failure_in(one)
            if failure is not None:
                self._done = True
                return [*events, failure]
            self._chunk(one, events)
            if self._done:
                break
        return events

    def _chunk(self, chunk: dict[str, Any], events: list[Event]) -> None:
        if not self._begun:
            self._begun = True
            identity, model = (_json.a_text(chunk.get(key))[:LONGEST_WORD] for key in ("responseId", "modelVersion"))
            events.append(Begin(identity, model))
        for place, candidate in enumerate(_json.a_list(chunk.get("candidates"))[:MOST_CHOICES]):
            if not isinstance(candidate, dict):
                continue
            index = candidate.get("index")
            choice = index if index.__class__ is int and 0 <= index < MOST_CHOICES else place
            self._candidate(candidate, choice, events)
            if self._done:
                return
        feedback = chunk.get("promptFeedback")
        if isinstance(feedback, dict) and feedback.get("blockReason"):
            self._blocked = True
        counts = chunk.get("usageMetadata")
        if isinstance(counts, dict) and counts:
            usage = _usage(counts)
            if usage != self._usage:
                self._usage = usage
                events.append(usage)

    def _candidate(self, candidate: dict[str, Any], choice: int, events: list[Event]) -> None:
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        logprobs = _logprobs(candidate.get("logprobsResult"))
        for part in _json.a_list(parts):
            if not isinstance(part, dict):
                continue
            text = part.get("text")
            if isinstance(text, str) and text:
                if part.get("thought") is True:
                    events.append(ThoughtDelta(text, choice))
                else:
                    events.append(TextDelta(text, choice, logprobs))
                    logprobs = None
            call = part.get("functionCall")
            if isinstance(call, dict):
                self._call(call, part.get("thoughtSignature"), choice, events)
                if self._done:
                    return
            drawn = part.get("inlineData")
            if isinstance(drawn, dict) and part.get("thought") is not True:
                kind, data = _json.a_text(drawn.get("mimeType")), _json.a_text(drawn.get("data"))
                if kind.startswith("image/") and data:
                    events.append(TextDelta(f"![image](data:{kind};base64,{data})", choice))
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason:
            self._finish[choice] = (reason[:LONGEST_WORD], _json.a_text(candidate.get("finishMessage"))[:LONGEST_WORD])
        else:
            self._finish.setdefault(choice, ("", ""))

    def _call(self, call: dict[str, Any], proof: Any, choice: int, events: list[Event]) -> None:
        told = _json.a_text(call.get("name"))
        if not told:
            events += self._fail("The model called a function without a name.")
            return
        if len(told) > LONGEST_WORD:
            events += self._fail("The model called a function with a name that is too long.")
            return
        if len(self._ids) >= MOST_CALLS:
            events += self._fail("The model called too many functions.")
            return
        arguments = call.get("args")
        if _json.is_deeper(arguments, MAX_DEPTH):
            events += self._fail("The model's call has arguments that are nested too deeply.")
            return
        call_id = _json.a_text(call.get("id"))
        if not call_id or call_id in self._ids or len(call_id) > MOST_ID:
            call_id = f"call_{secrets.token_hex(12)}"
        self._ids.add(call_id)
        signature = proof if isinstance(proof, str) and proof else None
        keep(self._memory, call_id, signature)
        index = self._calls.get(choice, 0)
        self._calls[choice] = index + 1
        events.append(ToolStart(index, call_id, self._names.get(told, told), choice, signature))
        events.append(ToolDelta(index, "{}" if arguments is None else _json.write_text(arguments), choice))

    def end(self) -> list[Event]:
        """The bytes have ended cleanly: the rest of the events."""
        if self._done:
            return []
        if self._splitter is None:
            self._whole = True
            return self._end_of_body()
        return self._last_frame(self._splitter) + self._end()

    def _last_frame(self, splitter: SseSplitter) -> list[Event]:
        """The last blank line may be missing; what is no JSON then is half a frame."""
        if not splitter.rest or splitter.rest.isspace():
            return []
        events = self._split(splitter, b"\n\n")
        last = events[-1] if events else None
        if isinstance(last, Failure) and last.code == "upstream_malformed":
            events[-1] = _CUT
        return events

    def _end_of_body(self) -> list[Event]:
        try:
            value = _json.parse(bytes(self._body))
        except ValueError:
            what = "is empty" if not self._body.strip() else "is no JSON"
            return self._fail(f"The upstream's answer {what}.")
        self._body.clear()
        return self._value(value) + self._end()

    def _end(self) -> list[Event]:
        if self._done:
            return []
        self._done = True
        if not self._finish:
            if self._blocked:
                return [Finish("content_filter"), End()]
            if self._whole:
                return [Failure(502, "The upstream's answer has no candidates.", code="upstream_malformed")]
            return [_CUT]
        events: list[Event] = []
        for choice, (reason, message) in sorted(self._finish.items()):
            if not reason and not self._whole:
                return [_CUT]
            if reason in _BROKEN:
                return [Failure(502, message or _BROKEN[reason], code=reason.lower(), type=reason)]
            finish = _REASONS.get(reason, "stop")
            if finish == "stop" and self._calls.get(choice):
                finish = "tool_calls"
            events.append(Finish(finish, choice))
        return [*events, End()]

    def _fail(self, message: str) -> list[Event]:
        self._done = True
        self._body.clear()
        return [Failure(502, message, code="upstream_malformed")]


_CUT = Failure(502, "The upstream's stream ended before its answer was complete.", code="upstream_cut")


def _usage(counts: dict[str, Any]) -> Usage:
    """Gemini counts thoughts beside the candidates' tokens."""
    thoughts = _json.a_count(counts.get("thoughtsTokenCount"))
    return Usage(
        input=_json.a_count(counts.get("promptTokenCount")),
        output=_json.a_count(counts.get("candidatesTokenCount")) + thoughts,
        cached_read=_json.a_count(counts.get("cachedContentTokenCount")),
        reasoning=thoughts,
    )


def _logprobs(result: Any) -> tuple[Any, ...] | None:
    """Gemini's two lists as Chat's one."""
    if not isinstance(result, dict):
        return None
    others = _json.a_list(result.get("topCandidates"))
    found = []
    for place, chosen in enumerate(_json.a_list(result.get("chosenCandidates"))):
        top = _json.an_object(others[place]).get("candidates") if place < len(others) else None
        token = _token(chosen)
        token["top_logprobs"] = [_token(one) for one in _json.a_list(top)]
        found.append(token)
    return tuple(found) or None


def _token(chosen: Any) -> dict[str, Any]:
    members = _json.an_object(chosen)
    text, log = _json.a_text(members.get("token")), members.get("logProbability")
    is_number = isinstance(log, int | float) and log.__class__ is not bool and abs(log) < 1e300
    number = log if is_number else -9999.0
    return {"token": text, "logprob": number, "bytes": list(text.encode("utf-8", "replace"))}
