"""Translates a body from the endpoint's dialect to the client's: one reader per attempt, one renderer per exchange.

1. While another attempt may follow, no event of an attempt reaches the renderer before its first content.
2. Text, reasoning, a refusal and a tool call are content; a comment, a role and a token count are not.
3. One call reads at most STEP_BYTES, independently of the amount of received data and its compression. Large frames and
   bodies are read and rendered in steps, over several calls.
4. Every error becomes a Failure, which the renderer reports in the client's dialect. The response never ends cleanly
   then.
"""

from __future__ import annotations

from dataclasses import replace

from relayd import clock
from relayd.protocols.canon import End, Event, Failure, Finish
from relayd.protocols.dialect import EncodedResponse, Reader, render_rest
from relayd.proxy.account import record_translated
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.filters.filter import Filter
from relayd.proxy.filters.hold_first_content import CONTENT
from relayd.telemetry.outcome import Record
from relayd.usage import Usage
from relayd.wire.json_steps import TURN_S, Steps
from relayd.wire.key_filter import KeyFilter
from relayd.wire.response import ResponseHead

STEP_BYTES = 4096
_FORWARDED_FIELDS = (b"x-ratelimit-", b"anthropic-ratelimit-", b"retry-after", b"x-request-id", b"openai-processing-ms")


class Translate(Filter):
    """The last filter, except for keep-alive comments."""

    __slots__ = (
        "_ai_request", "_done", "_events", "_input", "_input_ended", "_keys", "_plain", "_position", "_reader",
        "_rendered", "_renders_on", "finish_reason", "usage",
    )

    def __init__(
        self, ai_request: AiRequest, reader: Reader, holds: bool, keys: KeyFilter | None = None
    ) -> None:
        """`holds`: another attempt may follow, so nothing is sent before the first content. `keys` removes the
        upstream's keys from errors in the body."""
        super().__init__()
        self.holds = holds
        self._ai_request, self._reader, self._keys = ai_request, reader, keys
        self._input, self._position = b"", 0
        self._events: list[Event] = []
        self._done = False
        self._input_ended = False
        self._renders_on = False  # the renderer has more output
        self._plain: Steps[None] | None = None  # the rendering of a plain response
        self._rendered: EncodedResponse | None = None
        self.usage: Usage | None = None
        self.finish_reason = ""

    def process(self, data: bytes) -> bytes:
        """Translate into frames of the client's dialect."""
        if data:
            self._input = self._input[self._position :] + data if self._position < len(self._input) else data
            self._position = 0
        if self._plain is not None:
            self._render_plain()
            return b""
        reader = self._reader
        if not self._renders_on:
            self._add_events(reader.decode(b"" if reader.has_more or self._input_ended else self._next_piece()))
        out = self._render()
        self.unfinished = self._renders_on or self._reads_on
        return out

    @property
    def _reads_on(self) -> bool:
        """True if input is left that is needed."""
        return (bool(self._input) or self._reader.has_more) and self.failure is None and not self._done

    def _render_plain(self) -> None:
        """Continue to render a plain response, as far as there is time in this turn of the event loop."""
        assert self._plain is not None
        end_s = clock.monotonic() + TURN_S
        for _ in self._plain:
            if clock.monotonic() > end_s:
                self.unfinished = True
                return
        self.unfinished, self._plain = False, None

    def _plain_steps(self) -> Steps[None]:
        self._rendered = yield from self._ai_request.renderer.response_steps()

    def _next_piece(self) -> bytes:
        """The input of the next step. It ends at the end of a frame if one is within STEP_BYTES."""
        data, start = self._input, self._position
        if len(data) - start <= STEP_BYTES:
            self._input, self._position = b"", 0
            return data[start:] if start else data
        end = data.rfind(b"\n\n", start, start + STEP_BYTES) + 2
        self._position = end = end if end > 1 else start + STEP_BYTES
        return data[start:end]

    def finish(self) -> bytes:
        """The rest of a stream, or a complete plain response. If this is `unfinished`, `process` continues with it."""
        if not self._input_ended and self.failure is None and not self._done:
            self._input_ended = True
            self._add_events(self._reader.begin_finish())
            if self._reads_on:
                self.unfinished = True
                return self._render()
        if self.failure is None and not self._done:
            self._fail(Failure(502, "The upstream's answer was cut.", code="upstream_cut"))
        if self.failure is None:
            self.holds = False
        out = self._render()
        self.unfinished = self._renders_on
        if out or self.unfinished or self.failure is not None or self._ai_request.content_rendered:
            return out
        if self._rendered is None:
            self._plain = self._plain_steps()
            self._render_plain()
        return b"" if self._rendered is None else self._rendered.body

    def head(self, response: ResponseHead) -> ResponseHead:
        """The head of the stream or plain response, with the endpoint's fields that remain valid."""
        rendered = self._rendered
        if rendered is None:
            return stream_head(response)
        head = ResponseHead(rendered.status, b"")
        head.keep = [f"Content-Type: {rendered.content_type}\r\n".encode(), *forwarded_fields(response)]
        head.keep += [f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in rendered.headers]
        head.length = len(rendered.body)
        return head

    def account(self, record: Record) -> None:
        """Record usage and finish reason from the events."""
        record_translated(record, self.usage, self.finish_reason)

    def _add_events(self, events: list[Event]) -> None:
        for event in events:
            if self.failure is not None or self._done:
                return
            if isinstance(event, Failure) and self._keys is not None:
                event = redact_keys(self._keys, event)
            self._events.append(event)
            kind = type(event)
            if kind in CONTENT:
                self.holds = False
            elif kind is Failure:
                self.failure = event  # type: ignore[assignment]
            elif kind is Usage:
                self.usage = event  # type: ignore[assignment]
            elif kind is Finish:
                self.finish_reason = self.finish_reason or event.reason  # type: ignore[union-attr]
            elif kind is End:
                self._done = True
                self.holds = False

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self._events.append(failure)

    def _render(self) -> bytes:
        """Render all pending events. A failure before any content is not rendered here: the error response may still
        have its own status."""
        if not self._renders_on and (
            self.holds or not self._events or (self.failure is not None and not self._ai_request.content_rendered)
        ):
            return b""
        events, self._events = self._events, []
        renderer = self._ai_request.renderer
        out = renderer.render(events)
        self._renders_on = renderer.has_more
        if self.failure is not None:
            out += render_rest(renderer)
            self._renders_on = False
            self._ai_request.failure_rendered = True
        self._ai_request.content_rendered = self._ai_request.content_rendered or bool(out)
        return out


def redact_keys(keys: KeyFilter, failure: Failure) -> Failure:
    """Remove relayd's keys from the texts of a failure."""
    param = None if failure.param is None else keys.text(failure.param)
    return replace(
        failure, message=keys.text(failure.message), code=keys.text(failure.code), type=keys.text(failure.type),
        param=param,
    )


def forwarded_fields(response: ResponseHead | None) -> list[bytes]:
    """The fields of an endpoint's head that are valid for a translated response."""
    if response is None:
        return []
    return [line for line in response.keep if line.lower().startswith(_FORWARDED_FIELDS)]


def stream_head(response: ResponseHead | None) -> ResponseHead:
    """The head of a translated stream, or of a stream that starts before its endpoint has responded."""
    head = ResponseHead(200, b"")
    head.keep = [
        b"Content-Type: text/event-stream; charset=utf-8\r\n", b"Cache-Control: no-cache\r\n",
        b"X-Accel-Buffering: no\r\n", *forwarded_fields(response),
    ]
    return head
