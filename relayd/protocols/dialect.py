"""What a dialect offers: the halves of a translation, and every fact that other packages need about it.

Each folder of this package that holds a dialect defines `DIALECT = Dialect(...)`; relayd.protocols.registry finds it.
Parts that a dialect does not have are None: `gemini` has no reader of requests, so Gemini clients are served by
pass-through only. No other package compares with a dialect's name: it reads a field of `Dialect`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from relayd.protocols.canon import Event, Failure, Request
from relayd.usage import Usage
from relayd.wire.body import JsonBody
from relayd.wire.json_steps import Steps

T = TypeVar("T")


def run_steps(steps: Steps[T]) -> T:
    """Do the whole of a piece of work that pauses between its steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


class Refused(ValueError):
    """A request cannot be read, or cannot be carried: `status` 400, 404 or 422; `param` names the field at fault."""

    def __init__(self, message: str, param: str | None = None, code: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status


class Memory(Protocol):
    """What must be remembered between exchanges, bounded and with a time to live; one per consumer's name space."""

    def get(self, key: str) -> Any:
        """The value, or None when it is unknown, too old or was pushed out."""

    def get_steps(self, key: str) -> Steps[Any]:
        """The same in steps, for values that may be large."""

    def put(self, key: str, value: Any) -> None:
        """Keep a value (plain JSON data); `lost` tells if that could not be done."""

    def delete(self, key: str) -> bool:
        """Forget it; whether it was there."""

    def lost(self, key: str) -> str:
        """Why a value that was put is not kept, in words for its client; empty where nothing is known."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """How a request arrived. `path` without query; `headers` by lower-case name; `request_id` relayd's own.

    `socket` is a mutable connection-local memory of a WebSocket transport, else None. `seal_key` is the server's secret
    for what clients keep for it unread (compaction); empty where there is none. `large_bytes` is the size of a body
    that is read in steps, 0 for others.
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
    """`dialect:` of an upstream: what its endpoints need or take beyond the dialect.

    max_tokens_field: Chat's `max_tokens` or `max_completion_tokens`. developer_role: whether the endpoint knows the
    role `developer` (else it becomes system). reasoning_history: `drop` or `reasoning_content`. unanswered_calls:
    `fill` puts a short tool message where a call in the history has no answer, `refuse` answers 400.
    default_max_tokens: where the endpoint requires a limit and the client gave none. metadata, verbosity: whether the
    endpoint takes these fields.
    ask_usage: whether streams that pass ask a Chat endpoint for token counts that the client did not ask for.
    thinking: how a Messages endpoint is asked to reason where the name of the model does not tell: `adaptive` and an
    effort, or a `budget` of tokens (models before that). `drop` asks no endpoint to reason.
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
    """A request for the endpoint: `path` is put behind the endpoint's base, e.g. /chat/completions; `headers` lines."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedResponse:
    """A whole answer for the client."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Reader(Protocol):
    """An endpoint's answer (status 200) to events; one per attempt."""

    @property
    def has_more(self) -> bool:
        """Whether decoded bytes wait for the next call: `decode(b"")` goes on with them."""

    def decode(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Never raises: what cannot be read becomes a Failure, after which
        everything is ignored."""

    def finish(self) -> list[Event]:
        """The endpoint's bytes have ended cleanly: the rest of the events, the last one End or Failure (truncated)."""


class ReaderFactory(Protocol):
    """Makes the reader of one attempt's answer."""

    def __call__(self, request: Request, options: Options, memory: Memory, content_encoding: str = "") -> Reader:
        """`content_encoding` is the answer's Content-Encoding, which the reader takes off."""


class Renderer(Protocol):
    """Events to the client's bytes; one per exchange. Made for `Request.stream` or for a plain answer."""

    __slots__ = ()

    def set_upstream_name(self, name: str) -> None:
        """The name of the upstream whose answer is rendered from now on; a later attempt replaces an earlier one."""
        return None

    def render(self, events: list[Event]) -> bytes:
        """The bytes to send now: frames of a stream; b"" for a plain answer. A Failure ends a stream in the dialect's
        own words; what follows End or Failure is ignored."""

    def keepalive(self) -> bytes:
        """A keep-alive frame that every reader of this dialect skips; b"" for a plain answer."""

    def response(self) -> EncodedResponse:
        """The plain answer once End or Failure was fed."""


class ResponseFacts(NamedTuple):
    """What one JSON value of an answer says about the answer; empty where it says nothing.

    `usage` holds the provider's own members, because some providers report them in several events.
    """

    model: str = ""
    finish: str = ""
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TapFormat:
    """How a tap (tap.py) finds usage, finish reason and model in answers of a dialect without parsing every event.

    usage_key, finish_key, model_key: names of the JSON members to search the bytes for. finish_values: the values of
    `finish_key` that end an answer; empty means every string. usage_is_object: False where the counts stand beside
    other members. is_ndjson: streams are lines of JSON, not server-sent events.
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

    read_message: the client's message as the body of a streamed request, maybe with another model; raises Refused.
    write_error: a Failure as a message of its own. connection_limit: the Failure to send when a connection has lived
    for connection_limit_s.
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
    """Where an endpoint lists its models: `path` behind an API's base, the query of the first page, fields to send.

    read: the JSON of a page to the names in it; raises ValueError for what is no list.
    """

    path: str
    query: str
    read: Callable[[Any], Page]
    fields: tuple[bytes, ...] = ()


Listing = list[tuple[str, str]]  # names of models, and the upstream of each


@dataclass(frozen=True, slots=True)
class ModelListShape:
    """How one provider's clients read models.

    page: the part of a listing that a query asks for, as JSON data. one: one model. Both take the time at which the
    list was made, in Unix seconds. path: the end of the list's path, if it is not `/models`. client_headers: lower-case
    names of header fields that only this provider's clients send.
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
    """One dialect. See the Protocols above for what each half does.

    The halves of a translation:
    read_request: the client's body to the canonical form; raises Refused.
    renderer: for a request that read_request gave (`Request.extra` may carry what the renderer needs).
    render_error: a Failure as this dialect's plain error body, with the status and Retry-After that clients expect.
    local: answers what never goes upstream (stored responses, count_tokens, HEAD /), None where it is not for it.
    write_request: the canonical form to the endpoint's request; raises Refused for what cannot be carried.
    reader: for the endpoint's answer to what write_request gave.
    learn: remembers what an endpoint's refusal says of its model; whether write_request writes another request now.
    read_error: an endpoint's error answer (status, headers by lower-case name, body) to a Failure.
    read_steps, write_steps, local_steps: the same work as read_request (of a parsed body), write_request and local,
    with a pause behind every message, for bodies so large that one turn of the event loop would be too long.
    `max_items` bounds the lists of a body by their names.
    count_paths: the paths (suffixes) on which tokens are counted: by an endpoint of this dialect, else by `local`.

    Paths and keys:
    paths: the request paths (a suffix behind any prefix) on which this dialect's translated requests arrive; `ends` are
    the same as bytes, each also with a slash behind it. serves: names of the dialects whose other paths (embeddings,
    files ...) its endpoints serve too.
    base_has_version: an API's base URL, as SDKs take it, ends with the version (`/v1`), so that a client's `/v1` stands
    for the base. default_base_path: the path of an endpoint whose URL has none, for requests that relayd writes.
    key_header: the header field in which its clients send their key; None means `Authorization: Bearer`.

    Passing streams:
    error_frame: a Failure as one frame inside a stream that has begun. error_ends_stream: such an error is a clean end
    of the stream; False means that clients only understand a broken connection.
    take_back: the edits (from, to, other bytes) that take what relayd has invented in earlier answers out of a request
    that passes, in steps; generated_marks: bytes of which one stands in every such request.
    has_generated_parts: whether a parsed body is such a request.
    recalls: whether a short request may bring in what is remembered of earlier ones, and so be a large one.
    tap: how a tap reads its answers; other_taps: the same for paths (suffixes) on which its endpoints speak otherwise.
    can_ask_usage: a stream reports usage only if the request asks for it (`stream_options.include_usage`).

    Lists of models:
    model_list: where an endpoint lists its models. listing: how its clients read a list of models; None means as
    OpenAI's clients do.

    websocket: its transport over WebSocket. names_backend: its answers name the upstream that answered.
    title: the dialect's name for people. drops: what its halves cannot carry, one sentence each, for the manual.
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
    tap: TapFormat | None = None
    other_taps: tuple[tuple[bytes, TapFormat], ...] = ()
    can_ask_usage: bool = False
    model_list: ModelListSource | None = None
    listing: ModelListShape | None = None
    websocket: WebSocketTransport | None = None
    recalls: bool = False
    names_backend: bool = False
    ends: tuple[bytes, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", tuple(path.encode() + end for path in self.paths for end in (b"", b"/")))

    @property
    def has_clients(self) -> bool:
        """Whether requests of this dialect's clients can be translated."""
        return self.read_request is not None

    @property
    def has_endpoints(self) -> bool:
        """Whether endpoints speak this dialect."""
        return self.write_request is not None

    def translates_to(self, other: Dialect) -> bool:
        """Whether requests of this dialect's clients can be translated for endpoints of the other dialect."""
        return self.has_clients and other.has_endpoints

    def serves_paths_of(self, other: Dialect) -> bool:
        """Whether this dialect's endpoints also serve the paths of the other dialect that are never translated."""
        return other.name == self.name or other.name in self.serves

    def error_frame(self, failure: Failure, request_id: str) -> bytes:
        """A failure as one frame inside a stream that passes."""
        return self.frame_error(self.render_error(failure, request_id))

    def tap_for(self, path: bytes) -> TapFormat | None:
        """How a tap reads the answer to a request on this path."""
        for end, tap in self.other_taps:
            if path.rstrip(b"/").endswith(end):
                return tap
        return self.tap
