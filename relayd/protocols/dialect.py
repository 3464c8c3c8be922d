"""What a dialect offers: the halves that a translation is put together from, and the small things around them.

Each file of this folder that is named after a dialect defines `DIALECT = Dialect(...)`. Parts that a dialect does not
have are None: `gemini` has no reader of requests, so Gemini clients are served by pass-through only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from relayd.protocols.canon import Event, Failure, Request


class Refused(ValueError):
    """A request cannot be read, or cannot be carried: `status` 400, 404 or 422; `param` names the field at fault."""

    def __init__(self, message: str, param: str | None = None, code: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status


class Memory(Protocol):
    """What must be remembered between exchanges, bounded and with a time to live; one per consumer's name space."""

    def get(self, key: str) -> Any:
        """The value, or None when it is unknown, too old or was pushed out."""

    def put(self, key: str, value: Any) -> None:
        """Keep a value (plain JSON data); `lost` tells if that could not be done."""

    def delete(self, key: str) -> bool:
        """Forget it; whether it was there."""

    def lost(self, key: str) -> str:
        """Why a value that was put is not kept, in words for its client; empty where nothing is known."""


@dataclass(frozen=True, slots=True)
class Ask:
    """How a request arrived. `path` without query; `headers` by lower-case name; `request_id` relayd's own.

    `socket` is a mutable connection-local memory of a WebSocket transport, else None. `seal_key` is the server's secret
    for what clients keep for it unread (compaction); empty where there is none.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    request_id: str
    memory: Memory
    socket: Memory | None = None
    seal_key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Options:
    """`dialect:` of an upstream: what its endpoints need or take beyond the dialect.

    max_tokens_field: Chat's `max_tokens` or `max_completion_tokens`. developer_role: whether the endpoint knows the
    role `developer` (else it becomes system). reasoning_history: `drop` or `reasoning_content`. unanswered_calls:
    `fill` puts a short tool message where a call in the history has no answer, `refuse` answers 400.
    default_max_tokens: where the endpoint requires a limit and the client gave none. metadata, verbosity: whether the
    endpoint takes these fields.
    ask_usage: whether streams that pass ask a Chat endpoint for token counts that the client did not ask for.
    thinking: how a Messages endpoint is asked to reason: `adaptive` and an effort, a `budget` of tokens (models before
    that), or `drop`.
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
class Sending:
    """A request for the endpoint: `path` is put behind the endpoint's base, e.g. /chat/completions; `headers` lines."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """A whole answer for the client."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Reader(Protocol):
    """An endpoint's answer (status 200) to events; one per attempt."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Never raises: what cannot be read becomes a Failure, after which
        everything is ignored."""

    def end(self) -> list[Event]:
        """The endpoint's bytes have ended cleanly: the rest of the events, the last one End or Failure (truncated)."""


class Renderer(Protocol):
    """Events to the client's bytes; one per exchange. Made for `Request.stream` or for a plain answer."""

    def feed(self, events: list[Event]) -> bytes:
        """The bytes to send now: frames of a stream; b"" for a plain answer. A Failure ends a stream in the dialect's
        own words; what follows End or Failure is ignored."""

    def comment(self) -> bytes:
        """A keep-alive frame that every reader of this dialect skips; b"" for a plain answer."""

    def whole(self) -> Rendered:
        """The plain answer once End or Failure was fed."""


class Tapped(NamedTuple):
    """What a tap has seen: tokens, finish reason, model; None where the bytes did not say."""

    model: str | None = None
    finish: str | None = None
    input: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One dialect. See the Protocols above for what each half does.

    read_request: the client's body to the canonical form; raises Refused.
    renderer: for a request that read_request gave (`Request.extra` may carry what the renderer needs).
    render_error: a Failure as this dialect's plain error body, with the status and Retry-After that clients expect.
    local: answers what never goes upstream (stored responses, count_tokens, HEAD /), None where it is not for it.
    write_request: the canonical form to the endpoint's request; raises Refused for what cannot be carried.
    reader: for the endpoint's answer to what write_request gave; `stream` says how it was asked for.
    read_error: an endpoint's error answer (status, headers by lower-case name, body) to a Failure.
    paths: the request paths (a suffix behind any prefix) on which this dialect's translated requests arrive; `ends` are
    the same as bytes.
    """

    name: str
    paths: tuple[str, ...]
    render_error: Callable[[Failure, str], Rendered]
    read_error: Callable[[int, Mapping[str, str], bytes], Failure]
    read_request: Callable[[bytes, Ask], Request] | None = None
    renderer: Callable[[Request, Ask], Renderer] | None = None
    local: Callable[[Ask, bytes], Rendered | None] | None = None
    write_request: Callable[[Request, Options, Memory], Sending] | None = None
    reader: Callable[[Request, Options, Memory], Reader] | None = None
    drops: tuple[str, ...] = field(default=())  # manual: what this dialect's halves cannot carry, one sentence each
    ends: tuple[bytes, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", tuple(path.encode() for path in self.paths))
