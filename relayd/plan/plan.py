"""The Plan: a configuration compiled for the data path; immutable, and held by an exchange until its end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field

from relayd.access.consumers import Consumers
from relayd.config.model import Config
from relayd.config.route import Cors, Redirect, Respond, Route, RouteTimeouts
from relayd.dataclass import dataclass
from relayd.limits.counter import Counter
from relayd.limits.gate import Gate, GateLimits
from relayd.limits.limit_set import LimitSet
from relayd.limits.prices import Prices
from relayd.protocols.dialect import Dialect
from relayd.routing.models import ModelTable
from relayd.routing.table import Table
from relayd.upstream.spec import EndpointSpec, Timeouts
from relayd.upstream.upstream import Upstream
from relayd.wire.headers import FieldEdits
from relayd.wire.path import with_one_slash


@dataclass(frozen=True, slots=True)
class Target:
    """A possible target of an attempt. `model` is the model's name at the upstream, None to keep the client's name.
    `on` holds the failure classes for which a fallback is used (`any` for all). `dialect` is the dialect of the
    endpoints, None for opaque bytes. `gate` is the upstream's gate, `limit_set` its rates and budgets.
    """

    upstream: Upstream
    model: str | None = None
    on: frozenset[str] = frozenset()
    dialect: Dialect | None = None
    gate: Gate | None = None
    limit_set: LimitSet | None = None


@dataclass(frozen=True, slots=True)
class Resilience:
    """The features of a route beyond one attempt at one upstream; None for a route without any of them.

    `dialect` is the client's dialect, None on routes of opaque bytes. `split` holds the targets that share the
    requests, with their weights; empty with `by_model`. `needs_body` is true if a body must be buffered before a target
    is chosen (with a dialect, a text body always is). `keepalive_s` is the silence after which a translated stream gets
    a comment, `passthrough_keepalive_s` the same for a stream that passes; 0 disables the comments. `serves_websocket`
    is true if the route serves the dialect's WebSocket transport. `counts_models` is true if a rate or budget of the
    route or of a target depends on the model. `mirror` gets a copy of `mirror_share` (0 to 1) of the requests.
    """

    dialect: Dialect | None = None
    by_model: bool = False
    split: tuple[tuple[float, Target], ...] = ()
    fallbacks: tuple[Target, ...] = ()
    mirror: Target | None = None
    mirror_share: float = 0.0
    gate: Gate | None = None
    needs_body: bool = False
    keepalive_s: float = 0.0
    passthrough_keepalive_s: float = 0.0
    tells_attempts: bool = False
    serves_websocket: bool = False
    counts_models: bool = False


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """`cache:` of a route, compiled. `vary` are lower-case names of fields. `version` changes with the route's edits of
    requests, which change the answers to equal requests."""

    ttl_s: float
    size_bytes: int
    largest_bytes: int
    shared: bool
    when: str
    vary: tuple[bytes, ...]
    version: str


@dataclass(frozen=True, slots=True)
class PlannedRoute:
    """One compiled route. `action` is proxy, redirect, respond, admin, sessions or unavailable (not in force yet).

    The first `strip_length` bytes of the path are replaced by `replacement`. If `replacement_template` is set, the
    whole path is instead matched by `regex` and becomes this template with \\1 references. `error_shape` is openai,
    problem or text; with `config.errors == "auto"` the writer of the error sends text to clients that accept only plain
    text. `targets` is the one target of a route without `resilience`. `rewrites_path` is true if the path that is sent
    may differ from the client's path: it is rewritten, or appended to an endpoint's base path. `keepalive_s` is the
    silence after which an event stream without a dialect gets a comment; 0 disables the comments. `uses_session` is
    true if the session of the client is found.
    """

    name: str
    config: Route
    action: str
    upstream: Upstream | None
    allow: frozenset[str] | None
    strip_length: int
    replacement: bytes
    replacement_template: bytes | None
    request_edits: FieldEdits | None
    response_edits: FieldEdits | None
    cors: Cors | None
    redirect: Redirect | None
    respond: Respond | None
    body_limit: int
    timeouts: Timeouts
    upgrade: bool
    trailers: bool
    pass_client_key: bool
    finish: bool
    error_shape: str
    admin_prefix: bytes
    admin_write: bool
    regex: re.Pattern[bytes] | None = None
    resilience: Resilience | None = None
    targets: tuple[Target, ...] = ()
    rewrites_path: bool = False
    keepalive_s: float = 0.0
    limit_set: LimitSet | None = None
    tells_rates: bool = False
    uses_session: bool = False
    cache: CachePolicy | None = None

    def rewritten(self, path: bytes) -> bytes:
        """The upstream path, without the endpoint's base path; only the configured bytes change.

        The result begins with exactly one slash: with two, the client would choose a host (RFC 3986 4.2).
        """
        if self.replacement_template is not None and self.regex is not None:
            match = self.regex.fullmatch(path)
            new = path if match is None else match.expand(self.replacement_template)
        elif self.strip_length or self.replacement:
            new = self.replacement + path[self.strip_length :]
        else:
            return path
        return with_one_slash(new)

    def path_before(self, path: bytes, asked: bytes) -> bytes | None:
        """The inverse of `rewritten`: the client's path for an upstream path. Returns None if it has none, and for
        routes with a regex. `asked` is a path of a client, from which the stripped bytes are taken."""
        if self.replacement_template is not None:
            return None
        rest = path.removeprefix(self.replacement)
        is_whole = self.replacement.endswith(b"/") or rest.startswith(b"/") or not rest  # no part of a longer segment
        return asked[: self.strip_length] + rest if path.startswith(self.replacement) and is_whole else None


def merged_timeouts(own: RouteTimeouts, theirs: Timeouts) -> Timeouts:
    """The timeouts of an upstream, overridden by those of the route."""
    if own.first_byte is None and own.idle is None and own.total is None:
        return theirs
    return Timeouts(
        connect_s=theirs.connect_s,
        first_byte_s=theirs.first_byte_s if own.first_byte is None else float(own.first_byte),
        idle_s=theirs.idle_s if own.idle is None else float(own.idle),
        total_s=theirs.total_s if own.total is None else float(own.total),
    )


@dataclass(frozen=True, slots=True)
class HeaderNames:
    """Names of the fields that relayd writes, as bytes; b"" is off.

    `custom` contains, in lower case, the names that are not defaults. Fields of the other side with these names are
    dropped. The parsers drop fields with the default names, even if these are renamed or off. The members behind it are
    made from the names: the beginning of the request id's line, the line of the processing time with a place for it,
    and the last lines of a response head.
    """

    request_id: bytes
    forwarded_for: bytes
    forwarded_proto: bytes
    forwarded_host: bytes
    real_ip: bytes
    forwarded: bytes
    via: bytes
    process_time: bytes
    proxy_by: bytes
    custom: frozenset[bytes]
    request_id_start: bytes = field(init=False)
    process_time_line: bytes = field(init=False)
    last_lines: bytes = field(init=False)

    def __post_init__(self) -> None:
        timing, by = self.process_time.replace(b"%", b"%%"), self.proxy_by
        object.__setattr__(self, "request_id_start", self.request_id + b": " if self.request_id else b"")
        object.__setattr__(self, "process_time_line", timing + b": %.4f\r\n" if timing else b"")
        object.__setattr__(self, "last_lines", by + b": relayd\r\n\r\n" if by else b"\r\n")


@dataclass(frozen=True, slots=True)
class Plan:
    """The compiled configuration of one generation (1, 2, ...), as exchanges use it.

    `key_fields` are the lower-case names of the fields, besides the usual ones, in which consumers send their keys.
    The commit applies `gate_limits` and the configured `endpoints` of the upstreams. `model_targets` has the targets of
    each entry of `models`. `created_s` is the creation time of the plan, in Unix seconds. `https_redirects` has the
    HTTPS port of each listener that redirects. `prices` is None if no prices are configured. `session_upstreams` are
    the names of the upstreams with `affinity: session`.
    """

    generation: int
    config: Config
    table: Table[PlannedRoute]
    routes: tuple[PlannedRoute, ...]
    upstreams: Mapping[str, Upstream]
    consumers: Consumers
    header_names: HeaderNames
    key_fields: frozenset[bytes] = frozenset()
    models: ModelTable | None = None
    created_s: int = 0
    dialects: Mapping[str, Dialect] = field(default_factory=dict)
    model_targets: Mapping[str, tuple[Target, ...]] = field(default_factory=dict)
    gate_limits: Mapping[str, GateLimits] = field(default_factory=dict)
    endpoints: Mapping[str, tuple[EndpointSpec, ...]] = field(default_factory=dict)
    https_redirects: Mapping[str, int] = field(default_factory=dict)
    counters: tuple[Counter, ...] = ()
    prices: Prices | None = None
    session_upstreams: frozenset[str] = frozenset()
