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

from relayd.errors import ExchangeError
from relayd.plan.plan import PlannedRoute, Target
from relayd.protocols.canon import Failure, Request
from relayd.protocols.dialect import Ask, Dialect, Memory, Refused, Rendered, Renderer, Sending, TapFormat
from relayd.protocols.include_usage import UsageChunkRemover, with_include_usage
from relayd.protocols.multipart import ModelFinder, ModelReplacer, MultipartError, boundary_of
from relayd.proxy.respond import Answer, answer
from relayd.wire.body import flag_member, model_of, replace_member
from relayd.wire.http1 import RequestHead

_LISTING = re.compile(r"(?:.*/)?(?:models(?:/(.+))?|api/tags)")
_IN_PATH = re.compile(rb".*/models/([^/:?]+):[A-Za-z]+")


def model_in_path(path: bytes) -> str | None:
    """The model that a Gemini request names in its path."""
    match = _IN_PATH.fullmatch(path) if b"/models/" in path else None
    return None if match is None else match[1].decode("latin-1")


def model_in_body(head: RequestHead, body: bytes) -> str | None:
    """The model that a request names in its JSON or in its form; None where it names none, or two."""
    finder = form_finder(head)
    if finder is None:
        return model_of(body)
    finder.feed(body)
    return finder.model


class FormFinder:
    """Reads a form in passing until its model is known, or cannot be there any more."""

    __slots__ = ("_finder",)

    def __init__(self, boundary: bytes) -> None:
        self._finder = ModelFinder(boundary)

    @property
    def model(self) -> str | None:
        return self._finder.model

    @property
    def value_bytes(self) -> int:
        """How long the model's name is in the form."""
        return self._finder.value_bytes

    def feed(self, data: bytes) -> bool:
        """Whether enough is known. Raises ExchangeError for what is no form."""
        try:
            return self._finder.feed(data) is not None or self._finder.is_over
        except MultipartError as fault:
            raise ExchangeError("bad_body", f"form: {fault.rule}") from None


def form_finder(head: RequestHead) -> FormFinder | None:
    """For a form, who looks for its model."""
    boundary = boundary_of((head.get(b"content-type") or b"").decode("latin-1"))
    return None if boundary is None else FormFinder(boundary)


class FormFilter:
    """Puts another model's name into a form that is passing."""

    __slots__ = ("_replacer",)

    def __init__(self, head: RequestHead, model: str) -> None:
        self._replacer = ModelReplacer(boundary_of((head.get(b"content-type") or b"").decode("latin-1")) or b"", model)

    def feed(self, data: bytes, last: bool) -> bytes:
        """The bytes to send on. Raises ExchangeError for a form that cannot be read to its end."""
        try:
            return self._replacer.feed(data) + (self._replacer.end() if last else b"")
        except MultipartError as fault:
            raise ExchangeError("bad_body", f"form: {fault.rule}") from None


class Call:
    """Owned by the exchange's course, or by its passage."""

    __slots__ = (
        "_ask", "_asking", "_head", "_renderer", "_request", "asks_usage", "body", "dialect", "is_form", "is_socket",
        "model", "stream", "translates",
    )

    def __init__(
        self, dialect: Dialect, head: RequestHead, body: bytes | None, asking: Callable[[], Ask], *,
        is_socket: bool = False,
    ) -> None:
        """`asking` makes the request as dialects read it; most that pass never need that."""
        self._head, self._asking = head, asking
        self._ask: Ask | None = None
        kind = head.type_line.partition(b":")[2]
        self.is_form = kind.strip(b" \t")[:19].lower() == b"multipart/form-data"
        self.dialect, self.body, self.is_socket = dialect, body, is_socket
        self.stream = is_socket or (body is not None and flag_member(body, "stream"))
        self.translates = head.method == b"POST" and head.path.endswith(dialect.ends)
        self.asks_usage = False  # whether usage that the client did not ask for will come, and has to be taken out
        self._request: Request | None = None
        self._renderer: Renderer | None = None
        self.model = head.model or model_in_path(head.path) or ""
        if not self.model and body:
            self.model = (model_in_body(head, body) if self.is_form else model_of(body)) or ""

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
        if self._request is None:
            if self.dialect.read_request is None or self.body is None:
                raise Refused(f"This back-end cannot be reached in the dialect {self.dialect.name}.", status=400)
            self._request = self.dialect.read_request(self.body, self.ask)
            self.stream = self._request.stream
        return self._request

    def check(self) -> None:
        """Say what is wrong with the body, or which model a dialect without the field asks for. Raises Refused."""
        if self.dialect.read_request is not None:
            self.model = self.model or self.dialect.read_request(self.body or b"", self.ask).model

    @property
    def renderer(self) -> Renderer:
        """The one renderer of the exchange."""
        if self._renderer is None:
            assert self.dialect.renderer is not None
            self._renderer = self.dialect.renderer(self.request, self.ask)
        return self._renderer

    def let_go(self) -> None:
        """The answer has begun: the request is not needed any more, and streams may last for hours."""
        self.body = self._request = None

    @property
    def rendering(self) -> Renderer | None:
        """The renderer, if there is one already."""
        return self._renderer

    def remover(self) -> UsageChunkRemover | None:
        """Who takes the usage out again that relayd itself asked for."""
        return UsageChunkRemover() if self.asks_usage else None

    def sending(self, target: Target) -> tuple[Request, Sending]:
        """The request as this endpoint's dialect has it. Raises Refused for what cannot be carried."""
        theirs = target.dialect
        if theirs is None or theirs.write_request is None:
            raise Refused(f"Nothing is translated from {self.dialect.name} for this back-end.", status=400)
        request = replace(self.request, model=target.model or self.model or self.request.model)
        return request, theirs.write_request(request, target.upstream.spec.dialect, self.ask.memory)

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
        body = self.body
        if body is not None and self.is_socket:
            assert self.dialect.websocket is not None
            body = self.dialect.websocket.read_message(body)
        if body is not None and target.model is not None and target.model != self.model:
            if self.is_form:
                return FormFilter(self._head, target.model).feed(body, True)
            body = replace_member(body, "model", target.model) or body
        self.asks_usage = False
        if body is not None and self.stream and self._may_ask_usage(target):
            asking = with_include_usage(body)
            self.asks_usage = asking is not None
            body = asking or body
        return body

    def _may_ask_usage(self, target: Target) -> bool:
        same = target.dialect is self.dialect and self.dialect.can_ask_usage
        return same and self.translates and target.upstream.spec.dialect.ask_usage


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
    return failure_answer(route, failure, request_id)


def failure_answer(route: PlannedRoute, failure: Failure, request_id: str) -> Answer:
    """A failure as a whole answer in the client's dialect."""
    resilience = route.resilience
    if resilience is None or resilience.dialect is None:
        raise ExchangeError("internal", "a failure on a route without a dialect")
    return rendered_answer(resilience.dialect.render_error(failure, request_id))


def rendered_answer(rendered: Rendered) -> Answer:
    """What a dialect has rendered."""
    return answer(rendered.status, rendered.content_type, rendered.body, rendered.headers)
