"""Events to a Messages response: the frames of a stream, or the plain message, both by one BlockAssembler.

    message_start ping (content_block_start content_block_delta... content_block_stop)... message_delta message_stop

Laws:
1. Every frame has an `event:` line: clients skip frames without one. A stream has no [DONE].
2. A call of `render` returns the frames of all its events that are not waiting for an open call.
3. A stream begins with the estimate of input tokens that count_tokens returns; the endpoint's count comes last.
4. A failure is an `error` event and ends the stream: no block is closed, and no message_stop is sent.
"""

from __future__ import annotations

import secrets
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import TextBuffer
from relayd.protocols._tool_arguments import arguments_steps
from relayd.protocols._turns import call_ids
from relayd.protocols.anthropic_messages.block_assembler import MOST_BUFFERED_BYTES, BlockAssembler, BufferLimitExceeded
from relayd.protocols.anthropic_messages.errors import error_object, render_error
from relayd.protocols.anthropic_messages.read_request import INPUT_TOKENS
from relayd.protocols.canon import Begin, End, Event, Failure, Request, Usage
from relayd.protocols.dialect import EncodedResponse, Renderer, RequestContext
from relayd.wire.json_steps import Steps

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_COMMENT = b": keep-alive\n\n"
_TOO_MUCH = Failure(502, "The upstream's answer is too large.")


def renderer(request: Request, context: RequestContext) -> StreamRenderer | PlainRenderer:
    """The renderer for the response to this request."""
    return StreamRenderer(request, context) if request.stream else PlainRenderer(request, context)


def _usage_members(usage: Usage) -> dict[str, Any]:
    """`input_tokens` excludes tokens read from the cache and written to it."""
    members: dict[str, Any] = {
        "input_tokens": usage.uncached_input,
        "cache_creation_input_tokens": usage.cache_creation,
        "cache_read_input_tokens": usage.cached_read,
        "output_tokens": usage.output,
    }
    if usage.reasoning:
        members["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return members


def _message(identity: str, model: str, input_tokens: int) -> dict[str, Any]:
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage_members(Usage(input_tokens)),
    }


def _begun(model: str, begin: Begin, input_tokens: int = 0) -> dict[str, Any]:
    identity = begin.id if begin.id.startswith("msg_") else "msg_" + secrets.token_hex(12)
    return _message(identity, model or begin.model, input_tokens)


def _frame(kind: str, value: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), _json.write({"type": kind} | value))


class _FrameWriter:
    """A BlockWriter for a stream; owned by its renderer, which removes the bytes."""

    __slots__ = ("out",)

    def __init__(self) -> None:
        self.out = bytearray()

    def open(self, index: int, block: dict[str, Any]) -> None:
        self.out += _frame("content_block_start", {"index": index, "content_block": block})

    def delta(self, index: int, kind: str, member: str, text: str) -> None:
        # The most frequent frame: formatted without a JSON encoder, because most of its bytes never change.
        self.out += b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % index
        self.out += b'{"type":"%s","%s":%s}}\n\n' % (kind.encode(), member.encode(), _json.write_string(text))

    def close(self, index: int) -> None:
        self.out += _frame("content_block_stop", {"index": index})


class StreamRenderer(Renderer):
    """Renders one stream; owned by its exchange."""

    def __init__(self, request: Request, context: RequestContext) -> None:
        self._model, self._context = request.model, context
        self._estimate = int(request.extra.get(INPUT_TOKENS, 0))
        self._frames = _FrameWriter()
        self._assembler = BlockAssembler(self._frames, call_ids(request.messages))
        self._started = self._ended = False
        self._failure: Failure | None = None

    def render(self, events: list[Event]) -> bytes:
        """The frames of these events."""
        for event in events:
            if self._ended:
                break
            if isinstance(event, Failure):
                self._fail(event)
            elif not self._started:
                self._start(event if isinstance(event, Begin) else Begin())
            if event.__class__ is End:
                self._end()
            elif not self._ended:
                try:
                    self._assembler.add(event)
                except BufferLimitExceeded:
                    self._fail(_TOO_MUCH)
        frames = bytes(self._frames.out)
        self._frames.out.clear()
        return frames

    def _start(self, begin: Begin) -> None:
        self._started = True
        self._frames.out += _frame("message_start", {"message": _begun(self._model, begin, self._estimate)})
        self._frames.out += _PING

    def _end(self) -> None:
        self._ended = True
        try:
            self._assembler.end()
        except BufferLimitExceeded:
            self._fail(_TOO_MUCH)
            return
        reason, sequence = self._assembler.stop()
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        known = self._assembler.usage
        usage = _usage_members(known if known != Usage() else Usage(self._estimate))
        self._frames.out += _frame("message_delta", {"delta": delta, "usage": usage}) + _frame("message_stop", {})

    def _fail(self, failure: Failure) -> None:
        self._ended, self._failure = True, failure
        body = error_object(failure, self._context.request_id)
        self._frames.out += b"event: error\ndata: %s\n\n" % _json.write(body)

    def keepalive(self) -> bytes:
        """The dialect's ping; before message_start a comment, which every client skips."""
        return _PING if self._started and not self._ended else _COMMENT

    def response(self) -> EncodedResponse:
        """The error response for a stream that failed before it began; else only the content type of a stream."""
        if self._failure is not None and not self._started:
            return render_error(self._failure, self._context.request_id)
        return EncodedResponse(200, b"", "text/event-stream")


class _MessageWriter:
    """A BlockWriter that collects a plain message; owned by its renderer."""

    __slots__ = ("_pieces", "content", "size_bytes")

    def __init__(self) -> None:
        self.content: list[dict[str, Any]] = []
        self._pieces = TextBuffer()
        self.size_bytes = 0

    def open(self, index: int, block: dict[str, Any]) -> None:
        self.content.append(block)
        self._pieces = TextBuffer()
        self._count(len(block.get("data", "")))

    def delta(self, index: int, kind: str, member: str, text: str) -> None:
        if kind == "signature_delta":
            self.content[index]["signature"] = text
        else:
            self._pieces.add(text)
        self._count(len(text))

    def _count(self, chars: int) -> None:
        self.size_bytes += chars
        if self.size_bytes > MOST_BUFFERED_BYTES:
            raise BufferLimitExceeded

    def close(self, index: int) -> None:
        block = self.content[index]
        text = self._pieces.text()
        if block["type"] == "tool_use":
            block["input"] = text  # `response_steps` makes an object of it
        elif block["type"] != "redacted_thinking":
            block[block["type"]] = text


class PlainRenderer(Renderer):
    """Collects one plain response; owned by its exchange."""

    def __init__(self, request: Request, context: RequestContext) -> None:
        self._model, self._context = request.model, context
        self._blocks = _MessageWriter()
        self._assembler = BlockAssembler(self._blocks, call_ids(request.messages))
        self._begin = Begin()
        self._failure: Failure | None = None
        self._ended = False

    def render(self, events: list[Event]) -> bytes:
        """Collect the events; no bytes before the end."""
        for event in events:
            if self._ended:
                break
            try:
                self._add(event)
            except BufferLimitExceeded:
                self._failure, self._ended = _TOO_MUCH, True
        return b""

    def _add(self, event: Event) -> None:
        if isinstance(event, Failure):
            self._failure, self._ended = event, True
        elif isinstance(event, End):
            self._assembler.end()
            self._ended = True
        elif isinstance(event, Begin):
            self._begin = event
        else:
            self._assembler.add(event)

    def keepalive(self) -> bytes:
        """A plain response has no keep-alive."""
        return b""

    def response_steps(self) -> Steps[EncodedResponse]:
        """The message, or the error that ended it."""
        failure = self._failure
        if failure is None and not self._ended:
            failure = Failure(502, "The upstream's answer was cut.")
        if failure is not None:
            return render_error(failure, self._context.request_id)
        message = _begun(self._model, self._begin)
        for block in self._blocks.content:
            if block["type"] == "tool_use" and isinstance(block["input"], str):
                block["input"] = yield from arguments_steps(block["input"])
                yield
        message["content"] = self._blocks.content
        message["stop_reason"], message["stop_sequence"] = self._assembler.stop()
        message["usage"] = _usage_members(self._assembler.usage)
        headers = (("request-id", self._context.request_id),) if self._context.request_id else ()
        body = yield from _json.write_sized_steps(message, self._blocks.size_bytes)
        return EncodedResponse(200, body, headers=headers)
