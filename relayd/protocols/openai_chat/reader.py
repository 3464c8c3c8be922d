"""An endpoint's Chat Completions response, stream or plain body, to canonical events by the same code.

Laws (in addition to those of _response_reader.py):
1. Deltas are returned by the call that completed their frame. Finish, Usage and End wait for the end of the response,
   because compatible APIs send usage in any chunk and tool calls after a finish reason.
2. An end without finish reason and without [DONE] is a truncated stream. An end without a choice, and a choice with an
   unknown finish reason, are failures too: only the known reasons end a response successfully.
3. Memory is bounded, and no input from an endpoint raises.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import MAX_ID_CHARS, Allowance, ResponseTooLarge
from relayd.protocols._capabilities import CHAT
from relayd.protocols._chat_usage import read_usage
from relayd.protocols._event_pieces import tokens_of
from relayd.protocols._openai_errors import failure_of, status_in, unnamed_failure_of
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
    Usage,
)
from relayd.protocols.dialect import Memory, Options
from relayd.protocols.openai_chat.reasoning_details import ReasoningDetails
from relayd.protocols.openai_chat.tool_call_assembler import MOST_ARGUMENTS_CHARS, ToolCallAssembler
from relayd.wire.json_steps import Steps

MAX_CHOICES = 128
STEP_ENTRIES = 256  # of a list
_STEP_CALLS = 32

_FINISH = {  # in lower case: some gateways pass on the reasons of other dialects
    "stop": "stop", "end_turn": "stop", "eos": "stop", "eos_token": "stop", "end_of_text": "stop", "complete": "stop",
    "completed": "stop", "stop_sequence": "stop", "stop_str": "stop", "stop_token": "stop", "pause_turn": "stop",
    "length": "length", "max_tokens": "length", "model_length": "length", "max_output_tokens": "length",
    "max_length": "length", "token_limit": "length", "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls", "tool_call": "tool_calls", "function_call": "tool_calls", "tool_use": "tool_calls",
    "content_filter": "content_filter", "content_filtered": "content_filter", "refusal": "content_filter",
    "sensitive": "content_filter", "guardrail_intervened": "content_filter", "safety": "content_filter",
    "recitation": "content_filter", "blocklist": "content_filter", "prohibited_content": "content_filter",
    "spii": "content_filter", "language": "content_filter", "image_safety": "content_filter",
    "image_prohibited_content": "content_filter", "image_recitation": "content_filter", "model_armor": "content_filter",
}  # fmt: skip
_FAILED = {
    "error": 502, "abort": 502, "network_error": 502, "insufficient_system_resource": 503,
    "malformed_function_call": 502, "unexpected_tool_call": 502, "too_many_tool_calls": 502,
    "missing_thought_signature": 502, "malformed_response": 502,
}  # fmt: skip
_NOT_YET = ("", "null", "none")  # some endpoints send these in every chunk but the last
_MIN_LOGPROB = -9999.0
_NO_COMPLETION = "The upstream's answer is not a chat completion."


class _Choice:
    """The state of one choice; owned by the decoder."""

    __slots__ = ("calls", "details", "finish", "has_content", "stop")

    def __init__(self, calls: ToolCallAssembler) -> None:
        self.calls = calls
        self.details: ReasoningDetails | None = None
        self.finish: str | None = None
        self.has_content = False
        self.stop: str | None = None

    def reason(self) -> str:
        """The canonical finish reason, "" if it is unknown. Tool calls have priority over `stop`, not over `length` and
        `content_filter`."""
        reason = _FINISH.get(self.finish or "stop", "")
        if reason in ("stop", "tool_calls"):
            return "tool_calls" if self.calls.begun else "stop"
        return reason


class ChatDecoder:
    """Decodes one response; owned by its reader."""

    __slots__ = ("_arguments", "_choices", "_known_ids", "_memory", "_new_id", "_usage", "begun", "over")

    def __init__(
        self, memory: Memory | None = None, new_id: Callable[[], str] | None = None,
        known_ids: frozenset[str] = frozenset(),
    ) -> None:
        """`known_ids`: the ids of the conversation's calls."""
        self._known_ids = known_ids
        self._memory = memory
        self._new_id = new_id or new_call_id
        self._choices: dict[int, _Choice] = {}
        self._arguments = Allowance(MOST_ARGUMENTS_CHARS, "The upstream sent arguments that are too large.")
        self._usage: Usage | None = None
        self.begun = self.over = False

    # ---- called by the reader

    def value(self, value: Any, events: list[Event], is_error: bool) -> Steps[None] | None:
        """One chunk of a stream."""
        if is_error or _is_error(value):
            failure = failure_of(value, status_in(value, 502))
            self.fail(failure or Failure(502, "The upstream reported an error."), events)
        elif value.__class__ is dict:
            return self._chunk(value, events)
        return None

    def body(self, value: Any, events: list[Event]) -> Steps[None]:
        """A plain response."""
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if _is_error(value):
            self.value(value, events, True)
        elif isinstance(value, dict) and _json.a_list(value.get("choices")):
            yield from self._chunk(value, events, whole=True)
            yield from self.done_marker(events)
        else:
            self._malformed(events, _NO_COMPLETION)

    def end_of_stream(self, events: list[Event]) -> Steps[None]:
        """The bytes have ended without [DONE]."""
        if self._choices and all(choice.finish is not None for choice in self._choices.values()):
            yield from self.done_marker(events)
        elif not self._choices:
            self._malformed(events, _NO_COMPLETION)
        else:
            self.fail(CUT, events)

    def done_marker(self, events: list[Event]) -> Steps[None]:
        """The response is complete."""
        if self.over:
            return
        self.over = True
        if not any(choice.finish is not None or choice.has_content for choice in self._choices.values()):
            self._malformed(events, _NO_COMPLETION)
            return
        for number, choice in sorted(self._choices.items()):
            try:
                yield from choice.calls.close(events, is_cut=choice.reason() in ("length", "content_filter"))
            except ResponseTooLarge as fault:
                self._malformed(events, str(fault))
                return
            if choice.finish is None and choice.calls.is_cut:
                self.fail(CUT, events)
                return
            reason = choice.reason()
            if not reason:
                self._malformed(events, f"The upstream stopped its answer for an unknown reason: {choice.finish}.")
                return
            if reason == "stop" and _FINISH.get(choice.finish or "") == "tool_calls" and not choice.has_content:
                self._malformed(events, "The upstream announced tool calls, and sent none that can be read.")
                return
            if choice.details is not None and choice.calls.begun and self._memory is not None:
                choice.details.store(self._memory, choice.calls.first_id, choice.calls.renamed)
            events.append(Finish(reason, number, choice.stop))
        if self._usage is not None:
            events.append(self._usage)
        events.append(End())

    def fail(self, failure: Failure, events: list[Event]) -> None:
        """End the response with a failure, after the usage so far."""
        self.over = True
        if self._usage is not None:
            events.append(self._usage)
        events.append(failure)

    def _malformed(
        self, events: list[Event], message: str, status: int = 502, code: str = "upstream_malformed"
    ) -> None:
        self.fail(Failure(status, message, code), events)

    # ---- chunks

    def _chunk(self, chunk: dict[str, Any], events: list[Event], whole: bool = False) -> Steps[None]:
        choices = chunk.get("choices")
        usage = chunk.get("usage") or _json.an_object(chunk.get("x_groq")).get("usage")
        if usage.__class__ is dict:
            self._usage = read_usage(usage)
        if not self.begun and (choices or usage):  # Azure's first chunk has neither, and no id
            self.begun = True
            identity, model = (_json.a_text(chunk.get(key))[:MAX_ID_CHARS] for key in ("id", "model"))
            events.append(Begin(identity, model, _json.a_count(chunk.get("created"))))
        if choices.__class__ is not list:
            is_finished = self._choices and all(choice.finish is not None for choice in self._choices.values())
            if not usage and not is_finished and "choices" not in chunk and (failure := unnamed_failure_of(chunk)):
                self.fail(failure, events)
            return
        for position, item in enumerate(choices):
            if item.__class__ is dict:
                yield from self._choice(item, position, events, whole)
                if self.over:
                    return
                if position % _STEP_CALLS == _STEP_CALLS - 1:
                    yield

    def _choice(self, item: dict[str, Any], position: int, events: list[Event], whole: bool) -> Steps[None]:
        number = item.get("index")
        if number.__class__ is not int or number < 0:
            number = position
        choice = self._choices.get(number)
        if choice is None:
            if len(self._choices) >= MAX_CHOICES:
                self._malformed(events, "The upstream sent too many choices.")
                return
            calls = ToolCallAssembler(number, self._new_id, self._memory, self._arguments, self._known_ids)
            choice = self._choices[number] = _Choice(calls)
        delta = item.get("delta")
        if delta.__class__ is not dict:
            delta = item.get("message")
        holder = item
        if delta.__class__ is dict:
            holder = item if item.get("error") else delta
            events_before = len(events)
            try:
                yield from _delta(delta, item.get("logprobs"), number, choice, events, whole)
            except ResponseTooLarge as fault:
                self._malformed(events, str(fault))
                return
            choice.has_content |= len(events) > events_before or choice.calls.begun > 0
        elif whole and not item.get("error"):
            self._malformed(events, _NO_COMPLETION)
            return
        if error := holder.get("error"):
            failure = failure_of({"error": error}, status_in(holder, 502))
            self.fail(failure or Failure(502, "The upstream reported an error."), events)
            return
        finish = _json.a_reason(item.get("finish_reason"))
        native_reason = _json.a_reason(item.get("native_finish_reason"))
        if failed := finish if finish in _FAILED else native_reason if native_reason in _FAILED else "":
            native_text = f" ({native_reason})" if native_reason not in ("", finish) else ""
            message = f"The upstream stopped its answer: {finish or failed}{native_text}."
            self._malformed(events, message, _FAILED[failed], "")
            return
        if finish not in _NOT_YET:
            choice.finish = finish
            matched_stop = item.get("stop_reason") or item.get("matched_stop")
            if isinstance(matched_stop, str) and finish == "stop":
                choice.stop = matched_stop[:MAX_ID_CHARS]
        usage = item.get("usage")
        if usage.__class__ is dict and usage:
            self._usage = read_usage(usage)


def _delta(
    delta: dict[str, Any], logprobs: Any, number: int, choice: _Choice, events: list[Event], whole: bool
) -> Steps[None]:
    thought = delta.get("reasoning_content") or delta.get("reasoning")
    details = delta.get("reasoning_details")
    if details.__class__ is list and details:
        choice.details = choice.details or ReasoningDetails()
        texts = yield from choice.details.add(details)
        thought = thought or texts
    if thought.__class__ is str and thought:
        events.append(ReasoningDelta(thought, number))
    content = delta.get("content")
    tokens = _json.a_list(logprobs.get("content")) if logprobs.__class__ is dict else None
    if tokens:
        events.append(TextDelta(_json.a_text(content), number, tokens_of(tokens, _token)))
    elif content.__class__ is str:
        if content:
            events.append(TextDelta(content, number))
    elif content.__class__ is list:
        yield from _parts(content, number, events)
    refusal = delta.get("refusal")
    if refusal.__class__ is str and refusal:
        events.append(RefusalDelta(refusal, number))
    fragments = delta.get("tool_calls")
    if fragments.__class__ is dict:
        fragments = [fragments]
    if fragments.__class__ is list:
        for position, fragment in enumerate(fragments):
            if fragment.__class__ is dict:
                yield from choice.calls.add(fragment, position, events, whole)
                if position % _STEP_CALLS == _STEP_CALLS - 1:
                    yield
    legacy = delta.get("function_call")
    if legacy.__class__ is dict:
        yield from choice.calls.add({"function": legacy}, -1, events, whole)


def _token(token: Any) -> Any:
    """A token with a finite log probability: an endpoint's -Infinity becomes OpenAI's value for a tiny probability."""
    if token.__class__ is not dict:
        return None if token.__class__ is list else token
    if _json.is_deeper(token, 7):
        return {"token": _json.a_text(token.get("token")), "logprob": _MIN_LOGPROB}
    top = token.get("top_logprobs")
    if top.__class__ is list and any(one.__class__ is dict and one.get("logprob") is None for one in top):
        token = {**token, "top_logprobs": [_token(one) for one in top]}
    return {**token, "logprob": _MIN_LOGPROB} if token.get("logprob", 0) is None else token


def _parts(parts: list[Any], number: int, events: list[Event]) -> Steps[None]:
    """Content in parts, as some providers' reasoning models send it: text, and thinking with nested parts."""
    for position, part in enumerate(parts, 1):
        if position % STEP_ENTRIES == 0:
            yield
        kind = _json.an_object(part).get("type")
        if kind == "text" and _json.a_text(part.get("text")):
            events.append(TextDelta(part["text"], number))
        elif kind == "thinking":
            inner = part.get("thinking")
            pieces = [_json.a_text(_json.an_object(one).get("text")) for one in _json.a_list(inner)]
            if text := _json.a_text(inner) or "".join(pieces):
                events.append(ReasoningDelta(text, number))


def _is_error(chunk: Any) -> bool:
    if isinstance(chunk, list):
        chunk = chunk[0] if chunk else None
    return isinstance(chunk, dict) and bool(chunk.get("error") or chunk.get("object") == "error")


def new_call_id() -> str:
    """A new id for a call without one."""
    return f"call_{secrets.token_hex(12)}"


def reader(request: Request, options: Options, memory: Memory, content_encoding: str = "") -> ResponseReader:
    """See dialect.Dialect."""
    decoder = ChatDecoder(memory, None, call_ids(request.messages))
    return ResponseReader(decoder, stream=request.stream, content_encoding=content_encoding,
                        names=CHAT.original_names(request), stops=CHAT.split_stops(request)[1])  # fmt: skip
