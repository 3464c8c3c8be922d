"""The interface of a dialect: the halves of a translation, and every fact that other packages need about it.

Each package of relayd.protocols that implements a dialect defines `DIALECT = Dialect(...)`; relayd.protocols.registry
finds it. Missing parts are None: `gemini` has no reader of requests, so Gemini clients are served by pass-through only.
No other package compares with a dialect's name: it reads a field of `Dialect`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any, NamedTuple, Protocol, TypeVar

from relayd.dataclass import dataclass
from relayd.protocols.cacheable import CacheRules
from relayd.protocols.canon import Event, Failure, Request
from relayd.protocols.rate_fields import RateFields
from relayd.usage import Usage
from relayd.wire.body import JsonBody
from relayd.wire.json_steps import Steps

T = TypeVar("T")


def run_steps(steps: Steps[T]) -> T:
    """Run work that pauses between its steps to its end, and return its result. It cannot wait: data for which a store
    would have to be asked count as absent."""
    while True:
        try:
            waiting = next(steps)
            if waiting is not None:
                waiting.give_up()
        except StopIteration as end:
            result: T = end.value
            return result


class Refused(ValueError):
    """A request cannot be read or translated: `status` is 400, 404 or 422; `param` names the invalid field."""

    def __init__(self, message: str, param: str | None = None, code: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status


class Memory(Protocol):
    """State between exchanges, bounded and with a time to live; each consumer has a name space of its own."""

    def get(self, key: str) -> Any:
        """The value, or None if it is unknown, expired or evicted."""

    def get_steps(self, key: str) -> Steps[Any]:
        """The same in steps, for values that may be large."""

    @property
    def must_fetch(self) -> bool:
        """True if the store must be asked: `get` then finds only what this process has put or fetched."""

    def fetch_steps(self, keys: Iterable[str]) -> Steps[None]:
        """Fetch values that `get` shall find, in steps, which wait for the store."""

    def put(self, key: str, value: Any) -> None:
        """Store a value (plain JSON data); if that fails, `lost` has the reason."""

    def put_steps(self, key: str, value: Any) -> Steps[None]:
        """The same in steps, for values that may be large and are not changed meanwhile."""

    def delete(self, key: str) -> bool:
        """Delete a value. Returns whether it existed."""

    def lost(self, key: str) -> str:
        """Why a value was not stored, as a text for its client; empty if no reason is known."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The circumstances of a request. `path` has no query; `headers` are by lower-case name; `request_id` is relayd's.

    `socket` is the connection-local memory of a WebSocket transport, else None. `seal_key` is the server's secret for
    encrypted state that clients hold (compaction); empty if there is none. `large_bytes` is the size of a body that is
    read in steps, 0 for others.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    request_id: str
    memory: Memory
    socket: Memory | None = None
    seal_key: bytes = field(default=b"", repr=False)
    large_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """`dialect:` of an upstream: the properties of its endpoints that the dialect leaves open.

    max_tokens_field: Chat's `max_tokens` or `max_completion_tokens`. developer_role: whether the endpoint supports the
    role `developer` (else it becomes system). reasoning_history: `drop` or `reasoning_content`. unanswered_calls:
    `fill` inserts a short tool message for a call in the history without a result, `refuse` answers 400.
    default_max_tokens: the limit if the endpoint requires one and the client gave none. metadata, verbosity: whether
    the endpoint accepts these fields.
    ask_usage: whether passthrough streams request token counts from a Chat endpoint although the client did not.
    thinking: how reasoning is requested from a Messages endpoint if the model's name does not determine it: `adaptive`
    with an effort, or by a `budget` of tokens (older models). `drop` requests no reasoning from any endpoint.
    """

    max_tokens_field: str = "max_tokens"
    developer_role: bool = False
    reasoning_history: str = "drop"
    unanswered_calls: str = "fill"
    default_max_tokens: int = 4096
    metadata: bool = False
    verbosity: bool = False
    thinking: str = "adaptive"
    ask_usage: bool = True


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request for the endpoint: `path` is appended to the endpoint's base, e.g. /chat/completions."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedResponse:
    """A complete response for the client."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Reader(Protocol):
    """Decodes an endpoint's response (status 200) into events; one per attempt."""

    @property
    def has_more(self) -> bool:
        """Whether something is pending for a later turn: `decode(b"")` processes it."""

    def decode(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Never raises: unreadable data becomes a Failure, after which all input
        is ignored."""

    def finish(self) -> list[Event]:
        """The endpoint's bytes have ended cleanly. Returns the remaining events; the last one is End or Failure."""

    def begin_finish(self) -> list[Event]:
        """As `finish`, but what takes long is left to `decode(b"")`, as long as `has_more` is true."""
        return self.finish()


class ReaderFactory(Protocol):
    """Creates the reader of one attempt's response."""

    def __call__(self, request: Request, options: Options, memory: Memory, content_encoding: str = "") -> Reader:
        """`content_encoding` is the response's Content-Encoding, which the reader decodes."""


class Renderer(Protocol):
    """Renders events as the client's bytes, as a stream (`Request.stream`) or a plain response; one per exchange."""

    __slots__ = ()

    def set_upstream_name(self, name: str) -> None:
        """Set the name of the upstream whose response follows; a later attempt replaces an earlier one."""
        return None

    @property
    def has_more(self) -> bool:
        """Whether output is pending for a later turn: `render([])` continues with it."""
        return False

    def render(self, events: list[Event]) -> bytes:
        """The bytes to send now: frames of a stream; b"" for a plain response. A Failure ends a stream with an error of
        the dialect; events after End or Failure are ignored."""

    def keepalive(self) -> bytes:
        """A keep-alive frame that every client of this dialect skips; b"" for a plain response."""

    def response(self) -> EncodedResponse:
        """The plain response, once End or Failure was rendered."""
        return run_steps(self.response_steps())

    def response_steps(self) -> Steps[EncodedResponse]:
        """The same in steps, for a response that may be large."""
        yield
        return self.response()


def render_rest(renderer: Renderer) -> bytes:
    """All pending output of a renderer."""
    out = b""
    while renderer.has_more:
        out += renderer.render([])
    return out


class ResponseFacts(NamedTuple):
    """The facts in one JSON value of a response; empty where the value has none.

    `usage` holds the provider's own members, because some providers report them in several events.
    """

    model: str = ""
    finish: str = ""
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TapFormat:
    """How a tap (tap.py) finds usage, finish reason and model in responses of a dialect without parsing every event.

    usage_key, finish_key, model_key: names of the JSON members to search the bytes for. finish_values: the values of
    `finish_key` that end a response; empty means every string. usage_is_object: False if the counts are members of the
    response itself. is_ndjson: streams are lines of JSON, not server-sent events.
    facts: the model, finish reason and usage members of one JSON value. usage: merged usage members as Usage.
    """

    usage_key: str
    finish_key: str
    facts: Callable[[dict[str, Any]], ResponseFacts]
    usage: Callable[[Mapping[str, Any]], Usage]
    model_key: str = "model"
    finish_values: tuple[str, ...] = ()
    usage_is_object: bool = True
    is_ndjson: bool = False


@dataclass(frozen=True, slots=True)
class WebSocketTransport:
    """A dialect's transport over WebSocket: each text message of the client is one request.

    read_message: the client's message as the body of a streamed request, optionally with another model; raises Refused.
    write_error: a Failure as a message. connection_limit: the Failure to send when a connection reaches the age
    connection_limit_s.
    """

    read_message: Callable[[JsonBody, str | None], bytes]
    write_error: Callable[[Failure], bytes]
    connection_limit_s: float
    connection_limit: Failure


class Page(NamedTuple):
    """One page of an endpoint's list of models, and the query of the next page; "" if this is the last."""

    names: tuple[str, ...]
    next: str = ""


@dataclass(frozen=True, slots=True)
class ModelListSource:
    """Where an endpoint lists its models: `path` after an API's base, the first page's query, header fields to send.

    read: parses the JSON of a page into a Page; raises ValueError if it is not a list.
    """

    path: str
    query: str
    read: Callable[[Any], Page]
    fields: tuple[bytes, ...] = ()


Listing = list[tuple[str, str]]  # names of models, and the upstream of each


@dataclass(frozen=True, slots=True)
class ModelListShape:
    """The form in which one provider's clients read models.

    page: the part of a listing that a query requests, as JSON data. one: one model. Both take the creation time of the
    list in Unix seconds. path: the end of the list's path, if it is not `/models`. client_headers: lower-case names of
    header fields that only this provider's clients send.
    """

    page: Callable[[Listing, int, Mapping[str, str]], dict[str, Any]]
    one: Callable[[str, str, int], dict[str, Any]]
    path: str = ""
    client_headers: tuple[str, ...] = ()


def data_frame(response: EncodedResponse) -> bytes:
    """An error body as one server-sent event without a name."""
    return b"data: " + response.body.strip() + b"\n\n"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One dialect. The Protocols above define the halves.

    The halves of a translation:
    read_request: parses the client's body into the canonical form; raises Refused.
    renderer: creates the renderer for a request from read_request (`Request.extra` may carry data for the renderer).
    render_error: a Failure as this dialect's plain error body, with the status and Retry-After that clients expect.
    local: answers requests that never go upstream (stored responses, count_tokens, HEAD /); None for other requests.
    write_request: encodes the canonical form for the endpoint; raises Refused for a request that cannot be translated.
    reader: creates the reader of the endpoint's response to a request from write_request.
    learn: stores a limitation of a model that an endpoint's error reveals. Returns True if write_request would now
    write another request.
    read_error: parses an endpoint's error response (status, headers by lower-case name, body) into a Failure.
    read_steps, write_steps, local_steps: the same work as read_request (of a parsed body), write_request and local,
    with a pause after every message, for bodies too large for one turn of the event loop.
    stored_steps: what `local` answers from stored state, in steps; None for other requests.
    max_items: the maximum length of lists in a body, by name.
    count_paths: the paths (suffixes) on which tokens are counted: by an endpoint of this dialect, else by `local`.

    Paths and keys:
    paths: the request paths (a suffix after any prefix) on which this dialect's translated requests arrive; `ends` are
    the same as bytes. serves: names of the dialects whose other paths (embeddings, files ...) its endpoints serve too.
    base_has_version: an API's base URL, as SDKs use it, ends with the version (`/v1`), so that a client's `/v1` stands
    for the base. default_base_path: the path of an endpoint whose URL has none, for requests that relayd writes.
    key_header: the header field in which its clients send their key; None means `Authorization: Bearer`.

    Passthrough:
    error_frame: a Failure as one frame inside a stream that has begun. error_ends_stream: such an error is a clean end
    of the stream; False means that clients only detect a broken connection.
    strip_generated: the edits (start, end, replacement) that remove parts that relayd generated in earlier responses
    from a passthrough request, in steps. generated_marks: every such request contains one of these byte strings.
    has_generated_parts: whether a parsed body is such a request.
    continues_stored: whether a request refers to data that only relayd has; it is translated for an endpoint of its own
    dialect too. names_stored: whether its path names such data; then `local` answers it.
    stored_keys: the keys of the memory that these two look at. recalled_keys: those that `write_request` looks at.
    recalls: a short request may include stored state of earlier requests and become large.
    tap: how a tap reads its responses. other_taps: the same for paths (suffixes) with responses in another format.
    image_mark: an expression that begins with a quotation mark and matches once for each image in a request; empty if
    images are not counted.
    can_ask_usage: a stream reports usage only if the request asks for it (`stream_options.include_usage`).

    Lists of models:
    model_list: where an endpoint lists its models. listing: how its clients read a list of models; None means the form
    of OpenAI's clients.

    rate_fields: the response fields in which its clients read what they have left of their rates.
    provider, operations: the names of OpenTelemetry's conventions for GenAI: the provider of its endpoints, and the
    operation of a request by the suffix of its path.
    cache_rules: which of its requests may be answered from a cache; None means none.
    websocket: its transport over WebSocket. names_backend: its responses name the upstream that answered.
    title: the display name. drops: the content that its halves cannot translate, one sentence each, for the manual.
    """

    name: str
    title: str
    paths: tuple[str, ...]
    render_error: Callable[[Failure, str], EncodedResponse]
    read_error: Callable[[int, Mapping[str, str], bytes], Failure]
    read_request: Callable[[bytes, RequestContext], Request] | None = None
    renderer: Callable[[Request, RequestContext], Renderer] | None = None
    local: Callable[[RequestContext, bytes], EncodedResponse | None] | None = None
    write_request: Callable[[Request, Options, Memory], EncodedRequest] | None = None
    reader: ReaderFactory | None = None
    read_steps: Callable[[dict[str, Any], RequestContext], Steps[Request]] | None = None
    write_steps: Callable[[Request, Options, Memory], Steps[EncodedRequest]] | None = None
    local_steps: Callable[[dict[str, Any], RequestContext], Steps[EncodedResponse]] | None = None
    stored_steps: Callable[[RequestContext], Steps[EncodedResponse] | None] | None = None
    count_paths: tuple[bytes, ...] = ()
    max_items: Mapping[str, int] = field(default_factory=dict)
    learn: Callable[[Request, Failure, Memory], bool] | None = None
    drops: tuple[str, ...] = ()
    serves: frozenset[str] = frozenset()
    base_has_version: bool = False
    default_base_path: bytes = b""
    key_header: bytes | None = None
    frame_error: Callable[[EncodedResponse], bytes] = data_frame
    error_ends_stream: bool = True
    strip_generated: Callable[[JsonBody], Steps[list[tuple[int, int, bytes]]]] | None = None
    generated_marks: tuple[bytes, ...] = ()
    has_generated_parts: Callable[[Mapping[str, Any]], bool] | None = None
    continues_stored: Callable[[JsonBody, Callable[[], RequestContext]], bool] | None = None
    names_stored: Callable[[RequestContext], bool] | None = None
    stored_keys: Callable[[JsonBody | None, RequestContext], list[str]] | None = None
    recalled_keys: Callable[[Request], list[str]] | None = None
    tap: TapFormat | None = None
    other_taps: tuple[tuple[bytes, TapFormat], ...] = ()
    image_mark: bytes = b""
    can_ask_usage: bool = False
    model_list: ModelListSource | None = None
    listing: ModelListShape | None = None
    rate_fields: RateFields | None = None
    provider: str = ""
    operations: tuple[tuple[bytes, str], ...] = ()
    cache_rules: CacheRules | None = None
    websocket: WebSocketTransport | None = None
    recalls: bool = False
    names_backend: bool = False
    ends: tuple[bytes, ...] = field(init=False, default=())
    answers_locally: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", tuple(path.encode() for path in self.paths))
        answers = (self.local, self.local_steps, self.stored_steps)
        object.__setattr__(self, "answers_locally", any(one is not None for one in answers))

    @property
    def has_clients(self) -> bool:
        """Whether requests of this dialect's clients can be translated."""
        return self.read_request is not None

    @property
    def has_endpoints(self) -> bool:
        """Whether requests can be translated for endpoints of this dialect."""
        return self.write_request is not None

    def translates_to(self, other: Dialect) -> bool:
        """Whether requests of this dialect's clients can be translated for endpoints of the other dialect."""
        return self.has_clients and other.has_endpoints

    def serves_paths_of(self, other: Dialect) -> bool:
        """Whether this dialect's endpoints also serve the paths of the other dialect that are never translated."""
        return other.name == self.name or other.name in self.serves

    def error_frame(self, failure: Failure, request_id: str) -> bytes:
        """A failure as one frame inside a passthrough stream."""
        return self.frame_error(self.render_error(failure, request_id))

    def is_request_path(self, path: bytes) -> bool:
        """Whether translated requests arrive on this path; slashes behind it are ignored."""
        return path.rstrip(b"/").endswith(self.ends)

    def operation_of(self, path: bytes) -> str:
        """The GenAI operation of a request on this path; empty if it is unknown."""
        path = path.rstrip(b"/")
        return next((operation for end, operation in self.operations if path.endswith(end)), "")

    def tap_for(self, path: bytes) -> TapFormat | None:
        """The format in which a tap reads the response to a request on this path."""
        for end, tap in self.other_taps:
            if path.rstrip(b"/").endswith(end):
                return tap
        return self.tap
