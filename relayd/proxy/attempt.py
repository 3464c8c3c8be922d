"""One attempt whose answer is judged before the client gets it: retried, translated, tapped or passed on.

The common exchange is its own sink and knows nothing of this file; a course (proxy/course.py) makes attempts.

Laws:
1. Until the first content goes to the client the attempt may be given up for another one; afterwards never.
2. What is held back to be judged is bounded: at HELD bytes the answer is passed on as it is.
3. An answer that passes is passed byte for byte; what looks at it (tap, watch) has a copy and never delays a byte.
"""

from __future__ import annotations

from typing import Protocol

from relayd import clock
from relayd.errors import ExchangeError
from relayd.protocols.canon import Failure, RefusalDelta, TextDelta, ThoughtDelta, ToolStart
from relayd.protocols.dialect import Reader
from relayd.protocols.tap import Tap
from relayd.proxy.exchange import Exchange
from relayd.proxy.translation import Translation
from relayd.upstream.transport.faults import code_of
from relayd.upstream.transport.slot import Slot
from relayd.wire.response import ResponseHead

HELD = 64 * 1024
_CONTENT = (TextDelta, RefusalDelta, ThoughtDelta, ToolStart)
JUDGING, PASSING, HOLDING, TRANSLATING, REFUSING = range(5)


class Remover(Protocol):
    """Takes something out of a stream that passes."""

    def feed(self, data: bytes) -> bytes:
        """The bytes for the client."""

    def end(self) -> bytes:
        """What was held back."""


class Course(Protocol):
    """Who made the attempt, and decides what becomes of it."""

    def wants_translation(self, response: ResponseHead) -> Translation | None:
        """How the answer is to be translated; None passes it on."""

    def watch(self, response: ResponseHead) -> Reader | None:
        """Who looks for the first content, where another attempt could still take this one's place."""

    def remover(self, response: ResponseHead) -> Remover | None:
        """Who takes out of the stream what only relayd asked for."""

    def tap(self, response: ResponseHead) -> Tap | None:
        """Who counts tokens in what passes."""

    def holds_error(self, response: ResponseHead) -> bool:
        """Whether this status is a failure that is read before it is decided on."""

    def doubts(self, response: ResponseHead) -> ExchangeError | None:
        """Why an answer of status 2xx cannot be the one that was asked for."""

    def may_go_on(self) -> bool:
        """Whether another attempt could still be made."""

    def failed(self, fault: ExchangeError, response: ResponseHead | None, body: bytes, failure: Failure | None) -> None:
        """The attempt failed before its first content."""

    def said(self, data: bytes) -> None:
        """Bytes have gone to the client."""

    def said_whole(self) -> None:
        """Whole frames have gone to the client."""

    def accepted(self) -> None:
        """The head of a good answer has come."""

    def committed(self) -> None:
        """There will be no other attempt."""

    def mark(self, head: ResponseHead) -> None:
        """Add to the client's head what the route tells of attempts."""

    def ends_early(self, attempt: Attempt, response: ResponseHead) -> bool:
        """Whether what has ended by the closing of its connection should have said more."""

    def ended(self, attempt: Attempt) -> None:
        """The answer is whole."""


class Attempt:
    """The sink of one transfer; owned by its course."""

    __slots__ = ("_course", "_exchange", "_held", "_mode", "_remover", "_size", "_watch", "began_s", "shown", "tap",
                 "translation")

    def __init__(self, exchange: Exchange, course: Course) -> None:
        self._exchange, self._course = exchange, course
        self._mode = JUDGING
        self._held: list[bytes] = []
        self._size = 0
        self._watch: Reader | None = None
        self._remover: Remover | None = None
        self.shown = False  # whether the client has content of this attempt
        self.translation: Translation | None = None
        self.tap: Tap | None = None
        self.began_s = clock.monotonic()

    def go_on(self, tap: Tap | None, remover: Remover | None) -> None:
        """Take over an answer that is passing already, with those that look at it."""
        self._mode, self.shown = PASSING, True
        self.tap, self._remover = tap, remover

    # ---- the transport's side

    def on_progress(self, slot: Slot) -> None:
        """Bytes from the endpoint, or room for more of the request body."""
        response = self._exchange.arrived(slot)
        if response is None:
            return
        if self._mode == JUDGING and not self._judge(response):
            return
        if not self._take(slot, response):
            slot.hold = True

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The transfer has ended, well or not."""
        exchange = self._exchange
        if slot is not exchange.slot or exchange.over:
            return
        response = slot.response
        if response is not None and not slot.bad and self._mode == JUDGING and not self._judge(response):
            return
        whole = not errno and not slot.bad
        if response is not None and (whole or self.shown) and not self._take_rest(slot, response):
            return
        if errno or response is None or slot.bad:
            self._broken(slot, errno, message)
        elif self._mode == REFUSING:
            self._refused(response)
        elif self._mode == TRANSLATING:
            self._translated(response, slot)
        else:
            if self._mode == HOLDING and not self._settle(slot, ended=True):
                return
            self._end(slot, response)

    def _take_rest(self, slot: Slot, response: ResponseHead) -> bool:
        """Take what came last; False while some of it waits for a later turn, or where the attempt ended by it."""
        if self._mode != PASSING and (slot.chunks or slot.unfinished):
            slot.hold = not self._take(slot, response)
        return slot is self._exchange.slot and not self._exchange.over and not slot.unfinished

    def _end(self, slot: Slot, response: ResponseHead) -> None:
        """An answer that passes is whole: its last bytes leave together with the end of its framing."""
        exchange = self._exchange
        self._look(slot)
        if self._remover is not None and (rest := self._remover.end()):
            self._remover = None
            slot.chunks.append(rest)
        if self._course.ends_early(self, response):
            exchange.deliver_slot(slot)
            exchange.fail(ExchangeError("upstream_cut", "the stream ended without saying so"))
            return
        self._course.ended(self)
        if not exchange.over:
            exchange.on_done(slot, 0, "")

    def on_broken(self) -> None:
        """A fault of relayd's own."""
        self._exchange.fail(ExchangeError("internal"))

    def is_late(self, slot: Slot, since_s: float) -> bool:
        """Whether an answer was wanted that has not begun, and it began before this moment."""
        return slot.response is None and self.began_s < since_s and not self._exchange.muted

    # ---- judging

    def _judge(self, response: ResponseHead) -> bool:
        """What kind of answer this is; False when it was given up at once."""
        course = self._course
        if response.status >= 400 and course.holds_error(response):
            self._mode = REFUSING
            return True
        if response.status < 400:
            course.accepted()
        if response.status < 300:
            doubt = course.doubts(response)
            if doubt is not None:
                course.failed(doubt, response, b"", None)
                return False
            self.translation = course.wants_translation(response)
            if self.translation is not None:
                self._mode = TRANSLATING
                return True
            self.tap = course.tap(response)
            self._remover = course.remover(response)
            self._watch = course.watch(response)
            if self._watch is not None:
                self._mode = HOLDING
                return True
        self._mode = PASSING
        self._commit()
        course.mark(response)
        return True

    def _commit(self) -> None:
        """The client gets content of this attempt: no other one will take its place."""
        self.shown = True
        self._course.committed()

    def _take(self, slot: Slot, response: ResponseHead) -> bool:
        """New chunks, by mode; False when the client is behind."""
        if self._mode == PASSING:
            return self._pass(slot)
        chunks, slot.chunks = slot.chunks, []
        if self._mode == TRANSLATING:
            return self._translate(slot, response, chunks)
        self._held += chunks
        self._size += sum(map(len, chunks))
        if self._mode == HOLDING:
            if self._watch is not None:
                for chunk in chunks:
                    if self._seen(self._watch, chunk):
                        return True
            if self._size > HELD:
                return self._settle(slot, ended=False)
        elif self._size > HELD:  # an error of this size is no error object: the client gets it as it is
            return self._release(slot)
        return True

    def _seen(self, watch: Reader, chunk: bytes) -> bool:
        """Look for the first content in a copy; True when the attempt was given up."""
        for event in watch.feed(chunk):
            if isinstance(event, Failure):
                self._course.failed(_fault_of(event), None, b"", event)
                return True
            if isinstance(event, _CONTENT):
                self._watch = None
                slot = self._exchange.slot
                if slot is not None and not self._release(slot):
                    slot.hold = True
                return True
        return False

    def _settle(self, slot: Slot, *, ended: bool) -> bool:
        """Held back and still without content: at the end of the stream, or at the bound, it goes as it is."""
        if ended and self._watch is not None:
            for event in self._watch.end():
                if isinstance(event, Failure):
                    self._course.failed(_fault_of(event), None, b"", event)
                    return False
        self._watch = None
        return self._release(slot)

    def _release(self, slot: Slot) -> bool:
        """Pass on what was held back, and from now on everything."""
        self._mode = PASSING
        self._commit()
        if slot.response is not None:
            self._course.mark(slot.response)
        slot.chunks[:0] = self._held
        self._held = []
        return self._pass(slot)

    def _pass(self, slot: Slot) -> bool:
        self._look(slot)
        return True if self._exchange.muted else self._exchange.deliver_slot(slot)

    def _look(self, slot: Slot) -> None:
        """Count what is about to pass, and take out what only relayd asked for."""
        data = b"".join(slot.chunks)
        if self.tap is not None and data:
            self.tap.feed(data)
        if self._exchange.muted:
            slot.chunks.clear()
            return
        if self._remover is not None and data:
            data = self._remover.feed(data)
            slot.chunks = [data] if data else []
        if data:
            self._course.said(data)

    # ---- translating

    def _translate(self, slot: Slot, response: ResponseHead, chunks: list[bytes]) -> bool:
        translation, course = self.translation, self._course
        assert translation is not None
        translation.take(b"".join(chunks))
        slot.unfinished = translation.unfinished
        failure = translation.failure
        if failure is not None and not self.shown:
            course.failed(_fault_of(failure), None, b"", failure)
            return True
        if not translation.content and not translation.done and course.may_go_on():
            return True
        out = translation.render()
        if not out:
            return True
        if translation.content and not self.shown:
            self._commit()
        held = self._deliver(out, slot)
        if failure is not None and not self._exchange.over:
            self._exchange.fail(_fault_of(failure))  # the words have been said; this ends it
        return held

    def _deliver(self, out: bytes, slot: Slot) -> bool:
        self._course.said_whole()
        return self._exchange.deliver(self._head(slot), slot, out)

    def _head(self, slot: Slot) -> ResponseHead:
        """The head of a translated stream; whatever it is, where that has been sent."""
        if self._exchange.begun and slot.response is not None:
            return slot.response
        head = stream_head(slot.response)
        self._course.mark(head)
        return head

    def _translated(self, response: ResponseHead, slot: Slot) -> None:
        translation, course, exchange = self.translation, self._course, self._exchange
        assert translation is not None
        translation.end()
        failure = translation.failure
        if failure is not None and not self.shown:
            course.failed(_fault_of(failure), None, b"", failure)
            return
        out = translation.render()
        if failure is not None:
            if out:
                self._deliver(out, slot)
            if not exchange.over:
                exchange.fail(_fault_of(failure))
            return
        course.ended(self)
        if out or exchange.begun:
            course.said_whole()
            exchange.deliver_last(self._head(slot), slot, out)
        else:
            self._plain(translation, response)

    def _plain(self, translation: Translation, response: ResponseHead) -> None:
        rendered, exchange = translation.whole(), self._exchange
        head = ResponseHead(rendered.status, b"")
        head.keep = [f"Content-Type: {rendered.content_type}\r\n".encode(), *passed_on(response)]
        head.keep += [f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in rendered.headers]
        head.length = len(rendered.body)
        self._course.mark(head)
        exchange.deliver_last(head, exchange.slot, rendered.body)

    # ---- endings

    def _broken(self, slot: Slot, errno: int, message: str) -> None:
        """The transfer broke: nothing that was held back is shown, what was shown ends broken."""
        if slot.bad:
            code = "upstream_malformed"
        else:
            code = code_of(errno) if errno else "upstream_closed"
        fault = ExchangeError(code, slot.bad or f"curl {errno}: {message}")
        if self._mode in (JUDGING, HOLDING, REFUSING):
            self._course.failed(fault, None, b"", None)
            return
        if slot.chunks and self.shown:
            assert slot.response is not None
            self._take(slot, slot.response)
        exchange = self._exchange
        if not self.shown:
            self._course.failed(fault, None, b"", None)
        elif not exchange.over:
            exchange.fail(ExchangeError("upstream_cut", fault.detail) if code == "upstream_closed" else fault)

    def _refused(self, response: ResponseHead) -> None:
        body = b"".join(self._held)
        self._course.failed(ExchangeError("upstream_refused", f"status {response.status}"), response, body, None)


def _fault_of(failure: Failure) -> ExchangeError:
    code = failure.code if failure.code in ("upstream_malformed", "upstream_cut") else "upstream_failed"
    return ExchangeError(code, failure.message[:200])


_KEPT = (b"x-ratelimit-", b"anthropic-ratelimit-", b"retry-after", b"x-request-id", b"openai-processing-ms")


def passed_on(response: ResponseHead | None) -> list[bytes]:
    """The fields of an endpoint's head that are true of a translated answer too."""
    if response is None:
        return []
    return [line for line in response.keep if line.lower().startswith(_KEPT)]


def stream_head(response: ResponseHead | None) -> ResponseHead:
    """The head of a translated stream, or of one that begins before its endpoint has answered."""
    head = ResponseHead(200, b"")
    head.keep = [
        b"Content-Type: text/event-stream; charset=utf-8\r\n", b"Cache-Control: no-cache\r\n",
        b"X-Accel-Buffering: no\r\n", *passed_on(response),
    ]
    return head
