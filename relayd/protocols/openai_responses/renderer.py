"""Renders the events of an answer as an event stream, as WebSocket messages, or as one Response object.

Laws:
1. The same code produces all three forms, so that they agree.
2. One output item is open at a time. Events for another item wait until the open one is complete: a message or a
   reasoning item is complete when another item begins, a call when its JSON is closed, every item at the end.
3. Clients execute a tool when its call is closed. So no item is closed after a failure: the output contains only items
   that were closed before.
4. The text kept for the closing events and the store is bounded: a larger answer fails.
5. A finished response is stored before its last bytes are sent, so that a client can continue from it immediately.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from relayd import clock
from relayd.protocols import _json
from relayd.protocols._bounds import MOST_ITEMS, PIECE_CHARS, Allowance, ResponseTooLarge
from relayd.protocols._openai_errors import render_error
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
from relayd.protocols.dialect import EncodedResponse, Renderer, RequestContext, render_rest, run_steps
from relayd.protocols.openai_responses import state
from relayd.protocols.openai_responses.event_writer import KEEP_ALIVE, EventWriter
from relayd.protocols.openai_responses.output_items import (
    TOKEN_CHARS,
    MessageItem,
    OutputItem,
    ReasoningItem,
    ToolCallItem,
    ToolSearchItem,
)
from relayd.protocols.openai_responses.response import error_in_response, response_object
from relayd.protocols.openai_responses.response_settings import settings_of
from relayd.protocols.openai_responses.tools import SEARCH, ClientTool
from relayd.protocols.openai_responses.websocket import error_event
from relayd.wire.json_steps import LONG_CHARS, Steps, write_members_into
from relayd.wire.tool_list_cache import memoised

SHORT_OUTPUT = 16  # items of an answer that is stored in one turn of the event loop
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _echo_bytes(echo: Mapping[str, Any]) -> bytes:
    """Serialise the Response members that repeat the request; the JSON of repeated tool lists is cached."""
    if "tools" not in echo:
        return _json.write(echo)
    others = {key: value for key, value in echo.items() if key != "tools"}
    return _json.write_with(others, "tools", memoised(echo["tools"], "written", _json.write))


class ResponsesRenderer(Renderer):
    """See dialect.Renderer; owned by the exchange."""

    def __init__(self, request: Request, context: RequestContext) -> None:
        self._context, self._settings = context, settings_of(request)
        self._form = "text" if context.socket is not None else "sse" if request.stream else "none"
        self._writer = EventWriter(self._form)
        self._id, self._created_s = state.new_id("resp"), int(clock.wall())
        self._items: deque[OutputItem] = deque()  # the first item is open, the others wait
        self._calls: dict[int, ToolCallItem | ToolSearchItem] = {}
        self._allowance = Allowance()
        self._output: list[dict[str, Any]] = []
        self._usage: Usage | None = None
        self._reason: str | None = None
        self._begun = self._over = False
        self._final: dict[str, Any] | None = None
        self._echo = b""
        self._is_large = request.large or bool(self._settings.echo_json)  # the conversation
        self._failure: Failure | None = None

    def render(self, events: list[Event]) -> bytes:
        """See dialect.Renderer. For a WebSocket, each event is one line (`messages` returns them one by one)."""
        for event in events:
            self._render(event)
        return self._writer.flush()

    @property
    def has_more(self) -> bool:
        """See dialect.Renderer."""
        return self._writer.has_more

    def messages(self, events: list[Event]) -> list[bytes]:
        """Return the WebSocket messages to send now, one event each."""
        return (self.render(events) + render_rest(self)).splitlines()

    def keepalive(self) -> bytes:
        """Return a keep-alive comment; b"" for a plain answer and for a WebSocket, which has pings."""
        return KEEP_ALIVE if self._form == "sse" else b""

    def response_steps(self) -> Steps[EncodedResponse]:
        """Return the plain answer."""
        while self._writer.has_more:
            self._writer.flush()
            yield
        if self._final is None:
            failure = self._failure or Failure(502, "The upstream's answer is incomplete.")
            return render_error(failure, self._context.request_id)
        echo = self._echo or self._settings.echo_json or _echo_bytes(self._settings.echo)
        members = {key: value for key, value in self._final.items() if key not in self._settings.echo}
        if self._allowance.charged <= LONG_CHARS:
            return EncodedResponse(200, b"%b,%b" % (_json.write(members)[:-1], echo[1:]))
        pieces: list[bytes] = []
        yield from write_members_into(pieces, members)
        pieces.append(b"," + echo[1:])
        return EncodedResponse(200, b"".join(pieces))

    def _render(self, event: Event) -> None:
        if self._over:
            return
        if not self._begun and not (isinstance(event, Failure) and self._form == "text"):
            self._begin()
        try:
            self._dispatch(event)
        except ResponseTooLarge as error:
            self._fail(Failure(502, str(error)))

    def _dispatch(self, event: Event) -> None:
        match event:
            case TextDelta(choice=0) | RefusalDelta(choice=0):
                self._text(event)
            case ReasoningDelta(choice=0):
                self._reasoning(event)
            case ToolStart(choice=0):
                self._begin_call(event)
            case ToolDelta(choice=0):
                self._arguments(event)
            case Usage():
                self._usage = event
            case Finish(choice=0):
                self._reason = _INCOMPLETE.get(event.reason)
            case End():
                self._end()
            case Failure():
                self._fail(event)
            case Begin() | _:
                pass

    def _begin(self) -> None:
        self._begun = True
        if not self._writer.discards_events:
            self._echo = self._settings.echo_json or _echo_bytes(self._settings.echo)
            response = self._members("in_progress")
            self._writer.lifecycle("response.created", response, self._echo)
            self._writer.lifecycle("response.in_progress", response, self._echo)

    def _text(self, event: TextDelta | RefusalDelta) -> None:
        if not event.text:
            return
        last = self._items[-1] if self._items else None
        if not isinstance(last, MessageItem):
            last = MessageItem(self._writer, self._settings.logprobs)
            self._append(last)
        tokens = len(getattr(event, "logprobs", None) or ()) if self._settings.logprobs else 0
        self._charge(last, len(event.text) + TOKEN_CHARS * tokens)
        last.add(event)

    def _charge(self, item: OutputItem, chars: int) -> None:
        """Charge the allowance for an item's text; deltas that wait for their item to open cost more."""
        self._allowance.charge(chars if item.index >= 0 else chars + PIECE_CHARS)

    def _reasoning(self, event: ReasoningDelta) -> None:
        has_signature = event.signature is not None or event.redacted is not None
        last = self._items[-1] if self._items else None
        if not isinstance(last, ReasoningItem) or last.signed:
            if not event.text and not (has_signature and self._settings.encrypted_reasoning):
                return
            last = ReasoningItem(self._writer, self._settings.encrypted_reasoning)
            self._append(last)
        self._charge(last, len(event.text) + len(event.signature or "") + len(event.redacted or ""))
        last.add(event)

    def _begin_call(self, event: ToolStart) -> None:
        allowed = self._settings.allowed
        if allowed is not None and event.name not in allowed:
            return
        client_tool = self._settings.names.client_tool(event.name) or ClientTool(None, event.name, "function")
        call: ToolCallItem | ToolSearchItem
        if client_tool.kind == SEARCH:
            call = ToolSearchItem(self._writer, event.id)
        else:
            call = ToolCallItem(self._writer, event.id, client_tool)
        self._calls[event.index] = call
        self._append(call)

    def _arguments(self, event: ToolDelta) -> None:
        call = self._calls.get(event.index)
        if call is not None and event.arguments and call in self._items:
            self._charge(call, len(event.arguments))
            call.add(event.arguments)
            if len(self._items) > 1:
                self._advance()

    def _append(self, item: OutputItem) -> None:
        if len(self._items) + len(self._output) >= MOST_ITEMS:
            raise ResponseTooLarge("The upstream's answer has too many items.")
        self._items.append(item)
        if len(self._items) == 1:
            item.open(len(self._output))
        else:
            self._advance()

    def _advance(self) -> None:
        """Close the open item if it is complete and others wait; repeat for the next one."""
        while len(self._items) > 1 and self._items[0].complete:
            self._close("completed")

    def _close(self, status: str) -> None:
        self._output.append(self._items.popleft().close(status))
        if self._items:
            self._items[0].open(len(self._output))

    def _end(self) -> None:
        if not self._items and not self._output:
            self._append(MessageItem(self._writer, False))
        while self._items:
            last = len(self._items) == 1
            self._close("incomplete" if last and self._reason is not None else "completed")
        self._over = True
        if self._is_large or self._allowance.charged > LONG_CHARS or len(self._output) > SHORT_OUTPUT:
            self._writer.work(self._complete(True))
        else:
            run_steps(self._complete(False))

    def _complete(self, is_large: bool) -> Steps[None]:
        members = self._members("completed" if self._reason is None else "incomplete")
        final = {**members, **self._settings.echo}
        settings = self._settings
        if not (yield from state.store_steps(self._context, final, settings.items, settings.store, is_large)):
            final["store"] = False
            self._echo = _echo_bytes({**settings.echo, "store": False})
        self._final = final
        self._writer.lifecycle(f"response.{members['status']}", members, self._echo, self._allowance.charged)
        self._writer.done()

    def _fail(self, failure: Failure) -> None:
        self._over, self._failure = True, failure
        state.delete_latest(self._context, self._settings.previous_response_id)
        if not self._begun:
            self._writer.unnumbered(error_event(failure))
        elif not self._writer.discards_events:
            self._writer.lifecycle("response.failed", self._members("failed", failure), self._echo)
            self._writer.done()

    def _members(self, status: str, failure: Failure | None = None) -> dict[str, Any]:
        """Return the Response members that do not repeat the request.

        The other members are serialised once and sent three times.
        """
        return response_object(
            {},
            self._id,
            self._created_s,
            status,
            list(self._output),
            self._usage,
            completed_s=int(clock.wall()) if status == "completed" else None,
            reason=self._reason if status == "incomplete" else None,
            error=error_in_response(failure) if failure is not None else None,
        )
