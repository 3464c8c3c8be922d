"""The Plan: a configuration compiled into what the data path reads; frozen, and held by an exchange until it leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from relayd.access.consumers import Consumers
from relayd.config.model import Config
from relayd.config.route import Cors, Redirect, Respond, Route, RouteTimeouts
from relayd.limits.gate import Gate, GateLimits
from relayd.protocols.dialect import Dialect
from relayd.routing.models import ModelTable
from relayd.routing.table import Table
from relayd.upstream.spec import EndpointSpec, Timeouts
from relayd.upstream.upstream import Upstream
from relayd.wire.headers import FieldEdits
from relayd.wire.path import rooted


@dataclass(frozen=True, slots=True)
class Target:
    """Where an attempt may go. `model` is the name there, None for the client's own; `on` the classes of fault for
    which a fallback is taken (`any` for all). `dialect` is what its endpoints speak, None for opaque bytes. `gate` is
    the upstream's.
    """

    upstream: Upstream
    model: str | None = None
    on: frozenset[str] = frozenset()
    dialect: Dialect | None = None
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class Resilience:
    """What a route needs beyond one attempt at one upstream; a route that needs nothing of it has None instead.

    `dialect` is the client's, None on routes of opaque bytes. `split` are the targets among which requests are shared
    out, with their weights; empty with `by_model`. `needs_body` says that a body must be gathered before a target
    is chosen (where there is a dialect, a body of text always is).
    `keepalive_s` is after how much silence a translated stream gets a comment, `keepalive_passing_s` one that passes; 0
    is never. `sockets` says that the dialect's WebSocket
    transport is served here. `mirror` gets a copy of `mirror_share` (0 to 1) of the requests.
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
    keepalive_passing_s: float = 0.0
    tells_attempts: bool = False
    sockets: bool = False


@dataclass(frozen=True, slots=True)
class PlannedRoute:
    """One rule, ready to be walked. `action` is proxy, redirect, respond, admin or unavailable (not in force yet).

    `take` bytes are cut from the front of the path and `put` stands in their place; where `put_regex` is given, the
    whole path is instead matched by `regex` and becomes this template with \\1 references. `error_shape` is openai,
    problem or text; whether a client that accepts only plain text gets that instead is for `config.errors == "auto"`
    and decided where the error is written. `targets` is the one target of a route without `resilience`.
    `knows_consumers` says that the configuration has consumers. `moves_path` says that what is sent is not the
    client's path as it stands: it is rewritten, or put behind an endpoint's base path. `keepalive_s` is the silence
    after which an event stream gets a comment although no dialect says that it is a stream; 0 is never.
    """

    name: str
    config: Route
    action: str
    upstream: Upstream | None
    allow: frozenset[str] | None
    take: int
    put: bytes
    put_regex: bytes | None
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
    knows_consumers: bool = False
    moves_path: bool = False
    keepalive_s: float = 0.0

    def rewritten(self, path: bytes) -> bytes:
        """The path that goes upstream, before the endpoint's base path is put in front; only the named bytes change.

        What is left begins with exactly one slash: with two, the client would choose a host (RFC 3986 4.2).
        """
        if self.put_regex is not None and self.regex is not None:
            match = self.regex.fullmatch(path)
            new = path if match is None else match.expand(self.put_regex)
        elif self.take or self.put:
            new = self.put + path[self.take :]
        else:
            return path
        return rooted(new)

    def path_before(self, path: bytes, asked: bytes) -> bytes | None:
        """The client's path that `rewritten` makes this one of; None where there is none, or a regex decides. `asked`
        is a path of a client, which has the bytes that are cut off."""
        if self.put_regex is not None:
            return None
        rest = path.removeprefix(self.put)
        is_whole = self.put.endswith(b"/") or rest.startswith(b"/") or not rest  # no part of a longer segment
        return asked[: self.take] + rest if path.startswith(self.put) and is_whole else None


def merged_timeouts(own: RouteTimeouts, theirs: Timeouts) -> Timeouts:
    """An upstream's limits of time, those of the route before them."""
    return Timeouts(
        connect_s=theirs.connect_s,
        first_byte_s=theirs.first_byte_s if own.first_byte is None else float(own.first_byte),
        idle_s=theirs.idle_s if own.idle is None else float(own.idle),
        total_s=theirs.total_s if own.total is None else float(own.total),
    )


@dataclass(frozen=True, slots=True)
class HouseFields:
    """Names of the fields that relayd writes, as bytes; b"" is off.

    `own` holds in lower case those that are not the usual ones: what the other side sent under these names is dropped,
    as the parsers drop it under the usual names, also where these are renamed or off.
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
    own: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything an exchange needs to know, of one generation (1, 2, ...).

    `key_fields` are the lower-case names of fields, beside the usual ones, in which consumers send their keys.
    `consumer_gates` and `priorities` have only the consumers that are limited, or not of priority 0. `gate_limits` and
    the `endpoints` of the upstreams are put in force by the commit.
    `model_targets` has the targets of each entry of `models`; `made_s` is when the plan was made, in Unix seconds.
    """

    generation: int
    config: Config
    table: Table[PlannedRoute]
    routes: tuple[PlannedRoute, ...]
    upstreams: Mapping[str, Upstream]
    consumers: Consumers
    house: HouseFields
    key_fields: frozenset[bytes] = frozenset()
    models: ModelTable | None = None
    made_s: int = 0
    dialects: Mapping[str, Dialect] = field(default_factory=dict)
    model_targets: Mapping[str, tuple[Target, ...]] = field(default_factory=dict)
    gate_limits: Mapping[str, GateLimits] = field(default_factory=dict)
    endpoints: Mapping[str, tuple[EndpointSpec, ...]] = field(default_factory=dict)
    consumer_gates: Mapping[str, Gate] = field(default_factory=dict)
    priorities: Mapping[str, int] = field(default_factory=dict)
