"""The AI side of one exchange: in which dialect the client speaks, which model it asks for, and where that leads.

Laws:
1. A body is read into the canonical form only when an endpoint of another dialect is to get it; else its bytes pass.
2. What is found by a peek (model, stream) and what is read agree: a body that two readers could read in two ways is
   refused, not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from relayd import clock
from relayd.errors import ExchangeError
from relayd.plan.plan import PlannedRoute, Resilience, Target
from relayd.protocols._json import read_object, write_string
from relayd.protocols.canon import Failure, Request
from relayd.protocols.dialect import Ask, Dialect, Memory, Refused, Rendered, Renderer, Sending, TapFormat, at_once
from relayd.protocols.include_usage import usage_edit
from relayd.proxy.filters.keepalive import KeepAlive
from relayd.proxy.model_of_request import (
    FormFinder,
    FormTransform,
    form_finder,
    is_form,
    model_key,
    probable_model,
)
from relayd.proxy.respond import Answer, answer
from relayd.wire.body import PARSED_BYTES, JsonBody, edited, inspect_json
from relayd.wire.http1 import RequestHead
from relayd.wire.json_steps import Steps, parse_steps
from relayd.wire.response import ResponseHead

_LISTING = re.compile(r"(?:.*/)?(?:models(?:/(.+?))?|api/tags)/?")
LONG_BYTES = 96 * 1024
AT_ONCE_BYTES = 16 * 1024  # a body so short is read and written in one turn of the event loop, whatever it holds
MOST_TRANSLATED = 1 << 17  # values; a thousand tools and as many items of a conversation have half of that


class Call:
    """Owned by its exchange; made when the target is selected, let go when the response has begun."""

    __slots__ = (
        "_adapted", "_answer", "_ask", "_asking", "_head", "_last", "_own_parts", "_prepared", "_renderer", "_request",
        "_unread", "asks_usage", "backend_names", "body", "dialect", "failure_rendered", "first_content_s", "form",
        "is_form", "is_socket", "keepalive", "look", "model", "rendered", "stream", "translates",
    )

    def __init__(
        self, dialect: Dialect, head: RequestHead, body: bytes | None, asking: Callable[[], Ask], *,
        is_socket: bool = False, look: JsonBody | None = None, form: FormFinder | None = None,
    ) -> None:
        """`asking` makes the request as dialects read it; most that pass never need that. `body` is the whole body,
        `look` what is known of it, `form` who has read a form or its beginning."""
        self._head, self._asking = head, asking
        self._ask: Ask | None = None
        self.is_form = is_form(head)
        self.dialect, self.body, self.is_socket, self.form = dialect, body, is_socket, form
        if look is None and body and not self.is_form:
            look = inspect_json(body)
        self.look = look
        self.stream = is_socket or (look is not None and look.flag("stream"))
        self.translates = head.method == b"POST" and head.path.endswith(dialect.ends)
        self.asks_usage = False  # whether usage that the client did not ask for will come, and has to be taken out
        self._request: Request | None = None
        self._renderer: Renderer | None = None
        self._answer: Rendered | None = None
        self._unread: Refused | None = None  # why the request cannot be read, where that is known
        self._prepared: dict[int, tuple[Target, tuple[Request, Sending] | Refused]] = {}
        self._adapted: tuple[Target, ...] = ()
        self._own_parts: tuple[tuple[int, int, bytes], ...] | None = None  # edits that take them out
        self._last = b""  # the last piece of the response that the client was sent
        self.keepalive: KeepAlive | None = None
        self.rendered = self.failure_rendered = False  # whether the renderer has given content, or an error in it
        self.first_content_s = -1.0  # the moment of the first piece of the response
        self.backend_names: Mapping[str, str] = {}  # what responses call an upstream, where that is not its name
        self.model = head.model if head.model is not None else probable_model(head, body, look)

    @property
    def ask(self) -> Ask:
        """The request as dialects read it."""
        if self._ask is None:
            self._ask = self._asking()
        return self._ask

    def crosses_dialects(self, target: Target) -> bool:
        """Whether this endpoint speaks another dialect."""
        return target.dialect is not None and target.dialect is not self.dialect

    def crosses(self, target: Target) -> bool:
        """Whether this request must be translated for it."""
        return self.translates and self.crosses_dialects(target)

    @property
    def counts(self) -> bool:
        """Whether the answer tells tokens; of dialects that only pass, every answer may."""
        return self.translates or (not self.dialect.paths and self.ask.method == "POST")

    @property
    def tap_format(self) -> TapFormat | None:
        """How a tap reads the answer if it passes."""
        return self.dialect.tap_for(self._head.path)

    @property
    def request(self) -> Request:
        """The request in the canonical form. Raises Refused."""
        if self._unread is not None:
            raise again(self._unread)
        if self._request is None:
            if self.dialect.read_request is None or self.body is None:
                raise Refused(f"This back-end cannot be reached in the dialect {self.dialect.name}.", status=400)
            self._require_one_reading()
            self._request = self.dialect.read_request(self.body, self.ask)
            self.stream = self._request.stream
        return self._request

    def _require_one_reading(self) -> None:
        """What is read must be what the look at the body has found. Raises Refused."""
        if self.look is not None and self.look.ambiguity:
            raise Refused(f"The request body is ambiguous: {self.look.ambiguity}.", code="ambiguous_body")

    def check(self) -> None:
        """Say what is wrong with the body, or which model a dialect without the field asks for. Raises Refused."""
        if self.dialect.read_request is not None:
            self.model = self.model or self.request.model

    # ---- in steps

    @property
    def is_long(self) -> bool:
        """Whether the look at the body, which was parsed in one go, may have taken much of a turn."""
        return self.body is not None and LONG_BYTES < len(self.body) <= PARSED_BYTES

    @property
    def _is_short(self) -> bool:
        """Whether one turn of the event loop is enough for the body and for all that it brings in."""
        return self.body is not None and len(self.body) <= AT_ONCE_BYTES and not self.dialect.recalls

    @property
    def counts_tokens(self) -> bool:
        """Whether the request asks for nothing but the number of its tokens."""
        paths = self.dialect.count_paths
        head = self._head
        return not self.translates and head.method == b"POST" and head.path.rstrip(b"/").endswith(paths)

    def early_steps(self, is_counted_here: bool) -> Steps[None] | None:
        """What a large body needs before a target can be chosen; None for nothing. `is_counted_here` is whether relayd
        itself counts its tokens."""
        body, dialect = self.body, self.dialect
        if body is None or self._is_short or self.is_form:
            return None
        if is_counted_here and dialect.local_steps is not None:
            return self._answering()
        return self._reading(None) if not self.model and self.translates else None

    def steps_to(self, target: Target, *, reads: bool = False) -> Steps[None] | None:
        """What must be done before this target can be sent to, or, with `reads`, before the request can be asked for,
        where that may be too much for one turn of the event loop; None for nothing."""
        body = self.body
        if body is None or self._is_short or self.dialect.read_steps is None or self._unread is not None:
            return None
        crosses = self.crosses(target)
        if not crosses and not reads and self._brings_own_parts(target):
            return self._taking_back()
        if (crosses and id(target) not in self._prepared) or (reads and self.translates and self._request is None):
            return self._reading(target if crosses else None)
        return None

    def _brings_own_parts(self, target: Target) -> bool:
        """Whether something that relayd has invented may have to be taken out before the body passes to this target."""
        body, dialect = self.body, self.dialect
        if self._own_parts is not None or not dialect.own_marks or body is None or not self.translates:
            return False
        if target.dialect is not dialect or self.look is None or self.look.ambiguity or self.look.fault:
            return False
        value = self.look.value
        if value is not None and dialect.brings_own_parts is not None:
            brings = dialect.brings_own_parts(value)
        else:
            brings = any(body.rfind(mark) >= 0 for mark in dialect.own_marks)  # twice as fast as `in`
        if brings:
            return True
        self._own_parts = ()
        return False

    def _taking_back(self) -> Steps[None]:
        assert self.dialect.take_back is not None and self.look is not None
        self._own_parts = tuple((yield from self.dialect.take_back(self.look)))

    def _answering(self) -> Steps[None]:
        assert self.dialect.local_steps is not None
        try:
            self._answer = yield from self.dialect.local_steps((yield from self._parsing()), self.ask)
        except Refused as refused:
            failure = Failure(refused.status, refused.message, code=refused.code, param=refused.param)
            self._answer = self.dialect.render_error(failure, self.ask.request_id)

    def _reading(self, target: Target | None) -> Steps[None]:
        assert self.dialect.read_steps is not None
        size = 0 if self.body is None or len(self.body) <= PARSED_BYTES else len(self.body)
        try:
            request = self._request
            if request is None:
                members = yield from self._parsing()
                ask = replace(self.ask, large_bytes=size)
                request = self._request = yield from self.dialect.read_steps(members, ask)
                self.stream = request.stream
        except Refused as refused:
            self._unread = again(refused)
            return
        if target is None:
            return
        theirs = target.dialect
        try:
            if theirs is None or theirs.write_steps is None:
                raise Refused(f"Nothing is translated from {self.dialect.name} for this back-end.", status=400)
            large = size > 0 or request.large
            request = replace(request, model=target.model or self.model or request.model, large=large)
            options, memory = target.upstream.spec.dialect, self.ask.memory
            sending = yield from theirs.write_steps(request, options, memory)
            self._prepared[id(target)] = target, (request, sending)
        except Refused as refused:
            self._prepared[id(target)] = target, again(refused)

    def _parsing(self) -> Steps[dict[str, Any]]:
        """The object that the body is. Raises Refused."""
        body, look = self.body, self.look
        assert body is not None
        self._require_one_reading()
        if look is None or look.scanner is None:
            members = read_object(body)
            yield
            return members
        if look.fault:
            raise Refused(f"The request body is not valid JSON: {look.fault}.", code="invalid_json")
        for name, most in self.dialect.most_items.items():
            if look.scanner.items.get(name, 0) > most:
                raise Refused(f"'{name}' has {look.scanner.items[name]} items; at most {most} can be sent.", name,
                              "array_too_long")  # fmt: skip
        if look.scanner.values > MOST_TRANSLATED:
            raise Refused(f"The request body holds {look.scanner.values} values; at most {MOST_TRANSLATED} can be "
                          "translated for this model.", code="too_many_values")  # fmt: skip
        try:
            return (yield from parse_steps(look))
        except ValueError as fault:
            raise Refused(f"The request body cannot be translated: {fault}.", code="invalid_json") from None

    def local_answer(self) -> Rendered | None:
        """What the client's dialect keeps by itself."""
        if self._answer is not None or self.dialect.local is None:
            return self._answer
        return self.dialect.local(self.ask, self.body or b"")

    @property
    def renderer(self) -> Renderer:
        """The one renderer of the exchange."""
        if self._renderer is None:
            assert self.dialect.renderer is not None
            self._renderer = self.dialect.renderer(self.request, self.ask)
        return self._renderer

    def let_go(self) -> None:
        """The answer has begun: the request is not needed any more, and streams may last for hours."""
        self.body = self._request = self.look = None

    def backend_name(self, target: Target) -> str:
        """What a response that names its back-end says."""
        name = target.upstream.name
        return self.backend_names.get(name, name)

    def enters(self, target: Target, resilience: Resilience | None) -> None:
        """This target is tried next: how long its stream may be silent."""
        if resilience is None or not self.stream or not self.translates:
            return
        every_s = resilience.keepalive_s if self.crosses_dialects(target) else resilience.passthrough_keepalive_s
        if self.keepalive is not None:
            self.keepalive.every_s = every_s
        elif every_s:
            self.keepalive = KeepAlive(every_s)

    def delivered(self, data: bytes) -> None:
        """The client is sent this piece of the response."""
        self._last = data
        if self.first_content_s < 0:
            self.first_content_s = clock.monotonic()

    def in_band_error(
        self, failure: Failure, target: Target, response: ResponseHead | None, request_id: str
    ) -> tuple[bytes, bool] | None:
        """How a stream that has begun says in its own dialect that it failed, and whether readers take that for its
        end. None for what is no stream."""
        if not self.stream:
            return None
        ends_stream = self.dialect.error_ends_stream
        if self.failure_rendered:
            return b"", ends_stream
        if self.crosses(target) or self._renderer is not None:
            return self.renderer.feed([failure]), ends_stream
        if response is not None and not response.media.is_stream:
            return None
        frame = self.dialect.error_frame(failure, request_id)
        at_boundary = not self._last or self._last.endswith((b"\n\n", b"\r\n\r\n"))
        return (frame if at_boundary else b"\n\n" + frame), False

    def sending(self, target: Target) -> tuple[Request, Sending]:
        """The request as this endpoint's dialect has it. Raises Refused for what cannot be carried."""
        _, prepared = self._prepared.pop(id(target), (target, None))
        if isinstance(prepared, Refused):
            raise again(prepared)
        if prepared is not None:
            return prepared
        theirs = target.dialect
        if theirs is None or theirs.write_request is None:
            raise Refused(f"Nothing is translated from {self.dialect.name} for this back-end.", status=400)
        request = replace(self.request, model=target.model or self.model or self.request.model)
        return request, theirs.write_request(request, target.upstream.spec.dialect, self.ask.memory)

    def adapts(self, target: Target, failure: Failure | None) -> bool:
        """Whether this refusal makes the next request to the target another one; once per target."""
        learn = None if target.dialect is None else target.dialect.learn
        if failure is None or learn is None or self._request is None or not self.crosses(target):
            return False
        if any(one is target for one in self._adapted):
            return False
        self._adapted = (*self._adapted, target)
        request = replace(self._request, model=target.model or self.model or self._request.model)
        return learn(request, failure, self.ask.memory)

    def check_passing(self, target: Target) -> None:
        """A request that is not translated makes sense only to an endpoint of its own dialect. Raises Refused."""
        theirs = target.dialect
        if theirs is None or not self.crosses_dialects(target):
            return
        if theirs.serves_paths_of(self.dialect):
            return
        raise Refused("This path is not served for this model.", code="unsupported_endpoint", status=404)

    def passing(self, target: Target) -> bytes | None:
        """The body as it is, but for the model's name where the configuration gives it another one."""
        body, look = self.body, self.look
        self.asks_usage = False
        if body is None:
            return None
        renames = target.model is not None and target.model != self.model
        if self.is_form or look is None:
            return self._renamed_form(body, target.model or "") if renames else body
        if self.is_socket:
            assert self.dialect.websocket is not None
            return self.dialect.websocket.read_message(look, target.model if renames else None)
        if self._brings_own_parts(target):
            at_once(self._taking_back())
        edits = list(self._own_parts or ()) if target.dialect is self.dialect else []
        if renames and (span := look.span(model_key(self._head, look))) is not None:
            edits.append((*span, write_string(target.model or "")))
        if self.stream and self._may_ask_usage(target) and (edit := usage_edit(look)) is not None:
            self.asks_usage = True
            edits.append(edit)
        return edited(body, edits) if edits else body

    def _renamed_form(self, form: bytes, model: str) -> bytes:
        """A whole form with this name of the model."""
        if self.form is None:
            self.form = form_finder(self._head)
            if self.form is not None:
                self.form.feed(form)
        return form if self.form is None or self.form.model is None else self.form.renamed(form, model)

    def form_transform(self, target: Target) -> FormTransform | None:
        """For a form of which only the beginning was read, and whose model decides: what lets it pass."""
        if self.form is None or not self.form.refuses:
            return None
        return FormTransform(self.form, target.model if target.model != self.model else None)

    def _may_ask_usage(self, target: Target) -> bool:
        same = target.dialect is self.dialect and self.dialect.can_ask_usage
        return same and self.translates and target.upstream.spec.dialect.ask_usage


def again(refused: Refused) -> Refused:
    """The same refusal without the stack on which it was raised, which holds the body."""
    return Refused(refused.message, refused.param, refused.code, refused.status)


class Fields(Mapping[str, str]):
    """A request's fields by their lower-case names; of a repeated one the first counts. Read when somebody asks."""

    __slots__ = ("_found", "_head")

    def __init__(self, head: RequestHead) -> None:
        self._head = head
        self._found: dict[str, str] | None = None

    def _fields(self) -> dict[str, str]:
        found = self._found
        if found is None:
            found = self._found = {}
            for line in self._head.lines:
                name, _, value = line.partition(b":")
                found.setdefault(name.decode("latin-1").lower(), value.strip().decode("latin-1"))
        return found

    def __getitem__(self, name: str) -> str:
        return self._fields()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields())

    def __len__(self) -> int:
        return len(self._fields())


def ask_of(
    head: RequestHead, request_id: bytes, memory: Memory, seal_key: bytes, socket: Memory | None = None
) -> Ask:
    """The request as dialects read it; of a repeated field the first one counts."""
    return Ask(
        method=head.method.decode("latin-1"), path=head.path.decode("latin-1"), query=head.query[1:].decode("latin-1"),
        headers=Fields(head), request_id=request_id.decode("latin-1"), memory=memory, seal_key=seal_key,
        socket=socket,
    )


def listing_asked(path: str) -> str | None:
    """For a path of the model list: "" for the list, else the model that is asked after; None for other paths."""
    match = _LISTING.fullmatch(path)
    return None if match is None else match[1] or ""


def refused_answer(route: PlannedRoute, refused: Refused, request_id: str) -> Answer:
    """A request that the dialect cannot take, in the dialect's own words."""
    failure = Failure(
        refused.status, refused.message, code=refused.code or "invalid_request", param=refused.param,
        type="invalid_request_error" if refused.status != 404 else "not_found_error",
    )
    code = "unknown_model" if refused.code == "model_not_found" else "bad_body"
    return replace(failure_answer(route, failure, request_id), code=code, detail=refused.message)


def failure_answer(route: PlannedRoute, failure: Failure, request_id: str) -> Answer:
    """A failure as a whole answer in the client's dialect."""
    resilience = route.resilience
    if resilience is None or resilience.dialect is None:
        raise ExchangeError("internal", "a failure on a route without a dialect")
    return rendered_answer(resilience.dialect.render_error(failure, request_id))


def rendered_answer(rendered: Rendered) -> Answer:
    """What a dialect has rendered."""
    return answer(rendered.status, rendered.content_type, rendered.body, rendered.headers)
