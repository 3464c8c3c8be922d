"""The AI request of one exchange: the client's dialect, the requested model, and the encoding for each target.

Rules:
1. A body is read into the canonical form only for a target of another dialect. Otherwise its bytes pass through.
2. The inspection of the body (model, stream) and the full read agree: a body with more than one possible reading is
   refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from relayd.errors import ExchangeError
from relayd.plan.plan import PlannedRoute, Resilience, Target
from relayd.protocols._json import read_object, write_string
from relayd.protocols.canon import Failure, Request
from relayd.protocols.dialect import (
    Dialect,
    EncodedRequest,
    EncodedResponse,
    Refused,
    Renderer,
    RequestContext,
    TapFormat,
    render_rest,
    run_steps,
)
from relayd.protocols.include_usage import usage_edit
from relayd.proxy.cache_use import CacheUse
from relayd.proxy.filters.keepalive import KeepAlive
from relayd.proxy.model_names import edits_of
from relayd.proxy.request_model import (
    FormFinder,
    FormTransform,
    form_finder,
    is_form,
    model_key,
    probable_model,
)
from relayd.proxy.respond import Answer, answer
from relayd.proxy.stored_data import after_stored_keys, must_recall, recall_steps
from relayd.wire.body import PARSED_BYTES, JsonBody, edited, inspect_json
from relayd.wire.http1 import RequestHead
from relayd.wire.json_steps import Steps, parse_steps
from relayd.wire.response import ResponseHead

SLOW_BYTES = 96 * 1024
SINGLE_TURN_BYTES = 16 * 1024  # a shorter body is translated in one turn of the loop
_NO_NAMES: Mapping[str, str] = {}
MAX_TRANSLATED_VALUES = 1 << 17  # a request with 1,000 tools and 1,000 conversation items has half of that


class AiRequest:
    """Owned by its exchange; created in the phase `select`, and reduced when the response starts.

    `reports_usage`: the response may report token usage; that of any POST may (embeddings, images, transcriptions).
    `is_token_count`: the client only requests the token count of a request. `is_slow_to_inspect`: to parse the body in
    one step may have used much of the current turn.
    """

    __slots__ = (
        "_adapted", "_answer", "_context", "_continues_stored", "_generated_parts", "_head", "_is_short",
        "_make_context", "_prepared", "_read_error", "_renderer", "_request", "backend_names", "body", "cache_use",
        "content_rendered", "cost_text", "counts_text", "dialect", "failure_rendered", "first_content_s", "form",
        "images", "is_form", "is_slow_to_inspect", "is_socket", "is_token_count", "is_translatable", "json_body",
        "keepalive", "last_piece", "lists_only", "model", "output_characters", "reports_usage", "requests_usage",
        "sent_model", "stream",
    )  # fmt: skip

    def __init__(
        self, dialect: Dialect, head: RequestHead, body: bytes | None, make_context: Callable[[], RequestContext], *,
        is_socket: bool = False, json_body: JsonBody | None = None, form: FormFinder | None = None,
    ) -> None:
        """`make_context` creates the context for dialects on first use; most passthrough requests need none. `body` is
        the whole body, `json_body` the result of its inspection, `form` the reader of a form or of its beginning."""
        self._head, self._make_context = head, make_context
        self._context: RequestContext | None = None
        self.is_form = json_body is None and is_form(head)
        self.dialect, self.body, self.is_socket, self.form = dialect, body, is_socket, form
        if json_body is None and body and not self.is_form:
            json_body = inspect_json(body)
        self.json_body = json_body
        self.stream = is_socket or (json_body is not None and json_body.flag("stream"))
        self.reports_usage = head.method == b"POST"
        self.is_translatable = self.reports_usage and dialect.is_request_path(head.path)
        self.is_token_count = (
            self.reports_usage and not self.is_translatable and head.path.rstrip(b"/").endswith(dialect.count_paths)
        )
        size = 0 if body is None else len(body)
        self.is_slow_to_inspect = SLOW_BYTES < size <= PARSED_BYTES
        # One turn of the event loop suffices for the body and for stored data that it refers to.
        self._is_short = body is not None and size <= SINGLE_TURN_BYTES and not dialect.recalls
        self.requests_usage = False  # relayd requested token usage; it is removed from the response
        self._request: Request | None = None
        self._renderer: Renderer | None = None
        self._answer: EncodedResponse | None = None
        self._read_error: Refused | None = None  # set if the request is known to be unreadable
        self._prepared: dict[int, tuple[Target, tuple[Request, EncodedRequest] | Refused]] = {}
        self._adapted: tuple[Target, ...] = ()
        self._generated_parts: tuple[tuple[int, int, bytes], ...] | None = None  # the edits that remove them
        self._continues_stored: bool | None = None
        self.last_piece = b""  # of the response, as sent to the client
        self.keepalive: KeepAlive | None = None
        self.cache_use: CacheUse | None = None  # if the route has a cache
        self.lists_only: Callable[[str], bool] | None = None  # of the models of an endpoint's list
        self.cost_text: Callable[[], str] | None = None  # the value of X-Relayd-Cost, if the route tells it
        self.sent_model = ""  # in the translated request
        self.images = -1  # in the request, or requested; negative until they are counted
        self.content_rendered = self.failure_rendered = False  # the renderer returned content; it rendered an error
        self.counts_text = False  # the text of the response is counted
        self.output_characters = 0  # of the text that the client got
        self.first_content_s = -1.0  # clock time of the first piece of the response; negative before it
        self.backend_names = _NO_NAMES  # upstream names for responses that name their back-end
        self.model = head.model if head.model is not None else probable_model(head, body, json_body)

    @property
    def context(self) -> RequestContext:
        """The request's context for dialects."""
        if self._context is None:
            self._context = self._make_context()
        return self._context

    def differs_in_dialect(self, target: Target) -> bool:
        """True if the target speaks another dialect than the client."""
        return target.dialect is not None and target.dialect is not self.dialect

    def needs_translation(self, target: Target) -> bool:
        """True if this request must be translated for the target: its dialect differs, or it cannot know data that the
        request refers to."""
        if not self.is_translatable or target.dialect is None:
            return False
        return target.dialect is not self.dialect or (self.dialect.continues_stored is not None and self._continues())

    def _continues(self) -> bool:
        """True if the request continues a conversation that only relayd has."""
        if self._continues_stored is None:
            look, continues_stored = self.json_body, self.dialect.continues_stored
            is_clear = look is not None and not look.fault and not look.ambiguity
            self._continues_stored = bool(
                is_clear and look and continues_stored and continues_stored(look, lambda: self.context)
            )
        return self._continues_stored

    @property
    def names_stored(self) -> bool:
        """True if the path names data that relayd has stored."""
        return self.dialect.names_stored is not None and self.dialect.names_stored(self.context)

    @property
    def accepts_chunks(self) -> bool:
        """True if the client understands chunked bodies and trailers (HTTP/1.1)."""
        return self._head.version == 11

    @property
    def may_cost(self) -> bool:
        """False for requests that providers answer without a charge: lists, stored data, token counts."""
        return self.reports_usage and bool(self.model or self.sent_model) and not self.is_token_count

    @property
    def tap_format(self) -> TapFormat | None:
        """The format for the usage tap of a passthrough response."""
        dialect = self.dialect
        return dialect.tap_for(self._head.path) if dialect.other_taps else dialect.tap

    @property
    def request(self) -> Request:
        """The request in the canonical form. Raises Refused."""
        if self._read_error is not None:
            raise without_traceback(self._read_error)
        if self._request is None:
            if self.dialect.read_request is None or self.body is None:
                raise Refused(f"This back-end cannot be reached in the dialect {self.dialect.name}.", status=400)
            self._require_one_reading()
            self._request = self.dialect.read_request(self.body, self.context)
            self.stream = self._request.stream
        return self._request

    def _require_one_reading(self) -> None:
        """Raises Refused if the inspection found the body ambiguous."""
        if self.json_body is not None and self.json_body.ambiguity:
            raise Refused(f"The request body is ambiguous: {self.json_body.ambiguity}.", code="ambiguous_body")

    def require_model(self) -> None:
        """Read the body to find the model if the inspection found none. Raises Refused for an invalid body."""
        if self.dialect.read_request is not None:
            self.model = self.model or self.request.model

    # ---- in steps

    def selection_steps(self, is_counted_here: bool) -> Steps[None] | None:
        """The steps before a target can be selected, or None. `is_counted_here`: relayd itself counts the tokens."""
        dialect = self.dialect
        steps: Steps[None] | None = None
        if not (self._is_short or self.body is None or self.is_form):
            if is_counted_here and dialect.local_steps is not None:
                steps = self._local_answer_steps()
            elif not self.model and self.is_translatable:
                steps = self._read_steps(None)
        stores = dialect.stored_keys is not None
        return after_stored_keys(dialect, self.json_body, self.context, steps) if stores else steps

    def preparation_steps(self, target: Target, *, reads: bool = False) -> Steps[None] | None:
        """The steps before the request can be sent to this target (`reads`: before `request` can be used), or None."""
        if self.body is None or self._read_error is not None:
            return None
        if self._is_short or self.dialect.read_steps is None:
            if reads or target.dialect is None or target.dialect.recalled_keys is None:
                return None
            recalls = self.needs_translation(target) and must_recall(target, self.context.memory)
            return self._recall_steps(target) if recalls else None
        needs_translation = self.needs_translation(target)
        if not needs_translation and not reads and self._may_bring_own_parts(target):
            return self._take_back_steps()
        is_unread = reads and self.is_translatable and self._request is None
        is_needed = is_unread or (needs_translation and id(target) not in self._prepared)
        return self._read_steps(target if needs_translation else None) if is_needed else None

    def _recall_steps(self, target: Target) -> Steps[None]:
        try:
            request = replace(self.request, model=target.model or self.model or self.request.model)
        except Refused as refused:
            self._read_error = without_traceback(refused)
            return
        yield from recall_steps(target, request, self.context.memory)

    def _may_bring_own_parts(self, target: Target) -> bool:
        """True if values that relayd invented in earlier responses must be removed before the body passes through."""
        body, dialect = self.body, self.dialect
        if self._generated_parts is not None or not dialect.generated_marks or body is None or not self.is_translatable:
            return False
        if target.dialect is not dialect or self.json_body is None or self.json_body.ambiguity or self.json_body.fault:
            return False
        value = self.json_body.value
        if value is not None and dialect.has_generated_parts is not None:
            brings = dialect.has_generated_parts(value)
        else:
            brings = any(body.rfind(mark) >= 0 for mark in dialect.generated_marks)  # twice as fast as `in`
        if brings:
            return True
        self._generated_parts = ()
        return False

    def _take_back_steps(self) -> Steps[None]:
        assert self.dialect.strip_generated is not None and self.json_body is not None
        self._generated_parts = tuple((yield from self.dialect.strip_generated(self.json_body)))

    def _local_answer_steps(self) -> Steps[None]:
        assert self.dialect.local_steps is not None
        try:
            self._answer = yield from self.dialect.local_steps((yield from self._parse_steps()), self.context)
        except Refused as refused:
            failure = Failure(refused.status, refused.message, code=refused.code, param=refused.param)
            self._answer = self.dialect.render_error(failure, self.context.request_id)

    def _read_steps(self, target: Target | None) -> Steps[None]:
        assert self.dialect.read_steps is not None
        size = 0 if self.body is None or len(self.body) <= PARSED_BYTES else len(self.body)
        try:
            request = self._request
            if request is None:
                members = yield from self._parse_steps()
                context = replace(self.context, large_bytes=size)
                request = self._request = yield from self.dialect.read_steps(members, context)
                self.stream = request.stream
        except Refused as refused:
            self._read_error = without_traceback(refused)
            return
        if target is None:
            return
        other = target.dialect
        try:
            if other is None or other.write_steps is None:
                raise Refused(f"Nothing is translated from {self.dialect.name} for this back-end.", status=400)
            large = size > 0 or request.large
            request = replace(request, model=target.model or self.model or request.model, large=large)
            options, memory = target.upstream.spec.dialect, self.context.memory
            yield from recall_steps(target, request, memory)
            encoded = yield from other.write_steps(request, options, memory)
            self._prepared[id(target)] = target, (request, encoded)
        except Refused as refused:
            self._prepared[id(target)] = target, without_traceback(refused)

    def _parse_steps(self) -> Steps[dict[str, Any]]:
        """Parse the body into an object. Raises Refused."""
        body, json_body = self.body, self.json_body
        assert body is not None
        self._require_one_reading()
        if json_body is None or json_body.scanner is None:
            members = read_object(body)
            yield
            return members
        if json_body.fault:
            raise Refused(f"The request body is not valid JSON: {json_body.fault}.", code="invalid_json")
        for name, most in self.dialect.max_items.items():
            if json_body.scanner.items.get(name, 0) > most:
                raise Refused(f"'{name}' has {json_body.scanner.items[name]} items; at most {most} can be sent.", name,
                              "array_too_long")  # fmt: skip
        if json_body.scanner.values > MAX_TRANSLATED_VALUES:
            raise Refused(f"The request body holds {json_body.scanner.values} values; at most {MAX_TRANSLATED_VALUES} "
                          "can be translated for this model.", code="too_many_values")  # fmt: skip
        try:
            return (yield from parse_steps(json_body))
        except ValueError as fault:
            raise Refused(f"The request body cannot be translated: {fault}.", code="invalid_json") from None

    def stored_answer_steps(self) -> Steps[None] | None:
        """The steps after which `local_answer` is one from stored data; None if stored data are not requested."""
        steps = None if self.dialect.stored_steps is None else self.dialect.stored_steps(self.context)
        return None if steps is None else self._keep_answer(steps)

    def _keep_answer(self, steps: Steps[EncodedResponse]) -> Steps[None]:
        self._answer = yield from steps

    @property
    def has_local_answer(self) -> bool:
        """True once steps have determined the response."""
        return self._answer is not None

    def local_answer(self) -> EncodedResponse | None:
        """The response that the client's dialect gives from relayd's own data, None if it has none."""
        if self._answer is not None or self.dialect.local is None:
            return self._answer
        return self.dialect.local(self.context, self.body or b"")

    @property
    def renderer(self) -> Renderer:
        """The renderer of the exchange, shared by all attempts."""
        if self._renderer is None:
            assert self.dialect.renderer is not None
            self._renderer = self.dialect.renderer(self.request, self.context)
        return self._renderer

    def release_request(self) -> None:
        """Release the request when the response starts: streams may last for hours."""
        self.body = self._request = self.json_body = None

    def backend_name(self, target: Target) -> str:
        """The name of the target's upstream in a response that names its back-end."""
        name = target.upstream.name
        return self.backend_names.get(name, name)

    def apply_keepalive(self, target: Target, resilience: Resilience | None) -> None:
        """Set the keep-alive interval of a stream for the next target."""
        if resilience is None or not self.is_translatable:
            return
        every_s = resilience.keepalive_s if self.differs_in_dialect(target) else resilience.passthrough_keepalive_s
        if self.keepalive is not None:
            self.keepalive.every_s = every_s
        elif every_s:
            self.keepalive = KeepAlive(every_s)

    def in_band_error(
        self, failure: Failure, target: Target, response: ResponseHead | None, request_id: str
    ) -> tuple[bytes, bool] | None:
        """The error frame for a started stream, and True if the frame also ends the stream for clients. None if the
        response is not a stream."""
        if not self.stream:
            return None
        ends_stream = self.dialect.error_ends_stream
        if self.failure_rendered:
            return b"", ends_stream
        if self.needs_translation(target) or self._renderer is not None:
            return self.renderer.render([failure]) + render_rest(self.renderer), ends_stream
        if response is not None and not response.media.is_stream:
            return None
        frame = self.dialect.error_frame(failure, request_id)
        at_boundary = not self.last_piece or self.last_piece.endswith((b"\n\n", b"\r\n\r\n"))
        return (frame if at_boundary else b"\n\n" + frame), False

    def encode_for(self, target: Target) -> tuple[Request, EncodedRequest]:
        """The canonical request and its encoding for the target. Raises Refused if it cannot be translated."""
        _, prepared = self._prepared.pop(id(target), (target, None))
        if isinstance(prepared, Refused):
            raise without_traceback(prepared)
        if prepared is not None:
            self.sent_model = prepared[0].model
            return prepared
        other = target.dialect
        if other is None or other.write_request is None:
            raise Refused(f"Nothing is translated from {self.dialect.name} for this back-end.", status=400)
        request = replace(self.request, model=target.model or self.model or self.request.model)
        self.sent_model = request.model
        return request, other.write_request(request, target.upstream.spec.dialect, self.context.memory)

    def adapt_to_failure(self, target: Target, failure: Failure | None) -> bool:
        """True if this error changed how the request is encoded for the target; at most once per target."""
        learn = None if target.dialect is None else target.dialect.learn
        if failure is None or learn is None or self._request is None or not self.needs_translation(target):
            return False
        if any(one is target for one in self._adapted):
            return False
        self._adapted = (*self._adapted, target)
        request = replace(self._request, model=target.model or self.model or self._request.model)
        return learn(request, failure, self.context.memory)

    def validate_passthrough(self, target: Target) -> None:
        """Raises Refused if the target's dialect does not serve this path and the request is not translated."""
        other = target.dialect
        if other is None or other is self.dialect or other.serves_paths_of(self.dialect):
            return
        raise Refused("This path is not served for this model.", code="unsupported_endpoint", status=404)

    def passthrough_body(self, target: Target) -> bytes | None:
        """The client's body for a passthrough, with the target's model name and the other required edits."""
        body, json_body = self.body, self.json_body
        self.requests_usage = False
        if body is None:
            return None
        renames = target.model is not None and target.model != self.model
        if self.is_form or json_body is None:
            return self._renamed_form(body, target.model or "") if renames else body
        if self.is_socket:
            assert self.dialect.websocket is not None
            edits = [*(edits_of(json_body, target.model or "") if renames else ()), *self._edits_of_own_parts(target)]
            if edits:
                json_body = inspect_json(edited(body, edits))
            return self.dialect.websocket.read_message(json_body, target.model if renames else None)
        edits = self._edits_of_own_parts(target) if self.dialect.generated_marks else []
        if renames and (span := json_body.span(model_key(self._head, json_body))) is not None:
            edits.append((*span, write_string(target.model or "")))
        if renames:
            edits += edits_of(json_body, target.model or "")
        if self.stream and self._may_request_usage(target) and (edit := usage_edit(json_body)) is not None:
            self.requests_usage = True
            edits.append(edit)
        return edited(body, edits) if edits else body

    def _edits_of_own_parts(self, target: Target) -> list[tuple[int, int, bytes]]:
        """The edits that remove what relayd invented in earlier responses."""
        if self._may_bring_own_parts(target):
            run_steps(self._take_back_steps())
        return list(self._generated_parts or ()) if target.dialect is self.dialect else []

    def _renamed_form(self, form: bytes, model: str) -> bytes:
        """Replace the model name in a whole form."""
        if self.form is None:
            self.form = form_finder(self._head)
            if self.form is not None:
                self.form.feed(form)
        return form if self.form is None or self.form.model is None else self.form.renamed(form, model)

    def form_transform(self, target: Target) -> FormTransform | None:
        """The transform for a form that is read only up to its model, if the model decides; else None."""
        if self.form is None or not self.form.refuses:
            return None
        return FormTransform(self.form, target.model if target.model != self.model else None)

    def _may_request_usage(self, target: Target) -> bool:
        same = target.dialect is self.dialect and self.dialect.can_ask_usage
        return same and self.is_translatable and target.upstream.spec.dialect.ask_usage


def without_traceback(refused: Refused) -> Refused:
    """Copy a refusal without its traceback, which references the body."""
    return Refused(refused.message, refused.param, refused.code, refused.status)


def refused_answer(route: PlannedRoute, refused: Refused, request_id: str) -> Answer:
    """The error response to a request that the client's dialect or a translation refused."""
    failure = Failure(
        refused.status, refused.message, code=refused.code or "invalid_request", param=refused.param,
        type="invalid_request_error" if refused.status != 404 else "not_found_error",
    )
    code = "unknown_model" if refused.code == "model_not_found" else "bad_body"
    return replace(failure_answer(route, failure, request_id), code=code, detail=refused.message)


def failure_answer(route: PlannedRoute, failure: Failure, request_id: str) -> Answer:
    """A complete error response in the client's dialect."""
    resilience = route.resilience
    if resilience is None or resilience.dialect is None:
        raise ExchangeError("internal", "a failure on a route without a dialect")
    return rendered_answer(resilience.dialect.render_error(failure, request_id))


def rendered_answer(rendered: EncodedResponse) -> Answer:
    """Convert a response that a dialect encoded."""
    return answer(rendered.status, rendered.content_type, rendered.body, rendered.headers)
