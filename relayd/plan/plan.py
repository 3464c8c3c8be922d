"""The Plan: a configuration compiled into what the data path reads; frozen, and held by an exchange until it leaves."""

from __future__ import annotations

import re
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

    `take` bytes are cut from the front of the path and `put` stands in their place; where `put_regex` is given, the
    whole path is instead matched by `regex` and becomes this template with \\1 references. `error_shape` is openai,
    problem or text; whether a client that accepts only plain text gets that instead is for `config.errors == "auto"`
    and decided where the error is written.
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

    def rewritten(self, path: bytes) -> bytes:
        """The path that goes upstream, before the endpoint's base path is put in front; only the named bytes change."""
        if self.put_regex is not None and self.regex is not None:
            match = self.regex.fullmatch(path)
            new = path if match is None else match.expand(self.put_regex)
        elif self.take or self.put:
            new = self.put + path[self.take :]
        else:
            return path
        return new if new.startswith(b"/") else b"/" + new


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
    """

    generation: int
    config: Config
    table: Table[PlannedRoute]
    routes: tuple[PlannedRoute, ...]
    upstreams: Mapping[str, Upstream]
    consumers: Consumers
    house: HouseFields
    key_fields: frozenset[bytes] = frozenset()
