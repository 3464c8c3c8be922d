"""The Plan: a configuration compiled into what the data path reads; frozen, and held by an exchange until it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from relayd.access.consumers import Consumers
from relayd.config.model import Config
from relayd.config.route import Cors, Redirect, Respond, Route
from relayd.routing.table import Table
from relayd.upstream.spec import Timeouts
from relayd.upstream.upstream import Upstream
from relayd.wire.headers import FieldEdits


@dataclass(frozen=True, slots=True)
class PlannedRoute:
    """One rule, ready to be walked. `action` is proxy, redirect, respond, admin or unavailable (not in force yet).

    `take` bytes are cut from the front of the path and `put` stands in their place (`put_regex` instead, where the
    route matches by regex: a template with \\1 references). `ai` says that errors take the OpenAI shape.
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


@dataclass(frozen=True, slots=True)
class HouseFields:
    """Names of the fields that relayd writes, as bytes; b"" is off. `own` holds them all in lower case."""

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
    """Everything an exchange needs to know, of one generation (1, 2, ...)."""

    generation: int
    config: Config
    table: Table[PlannedRoute]
    routes: tuple[PlannedRoute, ...]
    upstreams: Mapping[str, Upstream]
    consumers: Consumers
    house: HouseFields
