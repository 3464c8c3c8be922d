"""`routes:` an ordered list of rules; the first match wins, no match is 404."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from relayd.config.cache import Cache
from relayd.config.fields import (
    FRAMING,
    KEY_FIELDS,
    field_name_fault,
    field_value_fault,
    method_fault,
    written_fields,
)
from relayd.config.limits import Limits, idle_queue
from relayd.config.patterns import (
    fault_of_host,
    fault_of_location,
    fault_of_origin,
    fault_of_path,
    fault_of_regex,
    normal_path,
    not_normal,
)
from relayd.config.rates import Budget, Rate, rates_faults
from relayd.config.resilience import Canary, Fallback, Mirror, fallback_faults, share_faults
from relayd.lazy_regex import lazy_regex
from relayd.protocols import registry
from relayd.schema import Duration, Size, section, setting

ONLY_UPSTREAM = (
    "fallbacks", "canary", "mirror", "keepalive", "tells_attempts", "tells_queue", "pass_client_key", "upgrade", "strip_prefix", "rewrite",
    "trailers", "rates", "budget", "tells_rates", "session", "cache",
)
PLACEHOLDER = lazy_regex(r"\{([^{}]*)\}")
GROUP = lazy_regex(r"\\([0-9]{1,2})")


@section()
class Match:
    """Conditions on a request; all of them must hold. Without conditions every request matches."""

    path: str | None = setting(default=None, doc="The whole path, exactly. Paths are compared in their normal form: without `//`, `.` and `..` segments and `;` parameters, and with bytes other than printable ASCII as %XX. A request whose path a server could interpret as a path of another route is answered 400 (ambiguous_path), also if a field such as X-Original-URL or X-Rewrite-URL names it.", example="/v1/models", pattern="/.*")
    prefix: str | None = setting(default=None, doc="The beginning of the path, in its normal form like `path`.", example="/v1/", pattern="/.*")
    regex: str | None = setting(default=None, doc="A regular expression that the whole path must match. Matching must provably take linear time: no repetitions that can match the same text, no lookarounds and no back references. A path of more than 8192 bytes is answered 414 if it is matched against a regex.", example="/users/[0-9]+")
    host: tuple[str, ...] = setting(default=(), doc="Host names without port, case-insensitive; `*.example.org` matches all names below example.org.", example=["*.example.org"])
    method: tuple[str, ...] = setting(default=(), doc="Methods. A request for which X-HTTP-Method-Override, or the parameter `_method` of a POST, changes the result is answered 400.", example=["GET", "POST"])
    header: Mapping[str, str] = setting(factory=dict, doc="Field names and their required values; `*` matches any value. A request with the value and another one, in several lines or as a list (`blue, red`), is rejected with 400.", example={"X-Team": "blue"})
    model: tuple[str, ...] = setting(default=(), doc="Model names; `*` matches any text, and case is ignored. relayd reads them from the body, from the paths of Gemini, Azure and similar APIs, and from the parameter `model` of the query. A request that names several models, or whose model relayd cannot read, is answered 400; relayd-security(7) lists these requests, batches among them. To allow them, write a route for their path before this one.", example=["mistral-*"])

    def check(self) -> Iterable[tuple[str, str]]:
        if sum(key is not None for key in (self.path, self.prefix, self.regex)) > 1:
            yield "", "only one of path, prefix and regex can be used"
        for key, text in (("path", self.path), ("prefix", self.prefix)):
            if text is not None and (fault := fault_of_path(text, whole=key == "path")):
                yield key, fault
        if self.regex is not None and (fault := fault_of_regex(self.regex)):
            yield "regex", fault
        for index, host in enumerate(self.host):
            if fault := fault_of_host(host):
                yield f"host[{index}]", fault
        for index, method in enumerate(self.method):
            if fault := method_fault(method):
                yield f"method[{index}]", fault
            elif method in ("CONNECT", "TRACE"):
                yield f"method[{index}]", "is never forwarded; every such request is answered 405"
        names: dict[str, str] = {}
        for name, value in self.header.items():
            if fault := field_name_fault(name) or field_value_fault(value):
                yield f"header.{name}", fault
            elif names.setdefault(name.lower(), name) != name:
                yield f"header.{name}", f"is the same field as {names[name.lower()]}, and cannot have both values"
        for index, model in enumerate(self.model):
            if not model:
                yield f"model[{index}]", "is empty; no request names an empty model"

    def caution(self) -> Iterable[tuple[str, str]]:
        for key, text in (("path", self.path), ("prefix", self.prefix)):
            if text is not None and (fault := not_normal(text, whole=key == "path")):
                yield key, fault


@section()
class HeaderEdits:
    """Changes to header fields, in this order: remove, set, add."""

    remove: tuple[str, ...] = setting(default=(), doc="Field names to remove.", example=["Cookie"])
    set: Mapping[str, str] = setting(factory=dict, doc="Fields that replace all fields of the same name.", example={"X-Team": "blue"})
    add: Mapping[str, str] = setting(factory=dict, doc="Fields to append.", example={"X-Seen": "relayd"})

    def check(self) -> Iterable[tuple[str, str]]:
        for index, name in enumerate(self.remove):
            if fault := field_name_fault(name):
                yield f"remove[{index}]", fault
            elif name.lower() in FRAMING:
                yield f"remove[{index}]", "belongs to the framing of the message; relayd writes it"
        yield from written_fields("set", self.set)
        yield from written_fields("add", self.add)

    def caution(self) -> Iterable[tuple[str, str]]:
        for path, fields in (("set", self.set), ("add", self.add)):
            for name in fields:
                if name.lower() in KEY_FIELDS:
                    yield f"{path}.{name}", "a key in the configuration is shown by status and diff; use the upstream's auth"


@section()
class Cors:
    """Cross-origin requests of browsers. Preflights are answered by relayd and never reach the upstream."""

    origins: tuple[str, ...] = setting(default=("*",), doc="Permitted origins; `*` means all.", example=["https://app.example.org"])
    methods: tuple[str, ...] = setting(default=("*",), doc="Permitted methods; `*` means the requested method.")
    headers: tuple[str, ...] = setting(default=("*",), doc="Permitted request fields; `*` means the requested fields.")
    expose: tuple[str, ...] = setting(default=(), doc="Response fields that scripts may read.", example=["X-Request-ID"])
    credentials: bool = setting(default=False, doc="Permit cookies and keys in cross-origin requests.")
    max_age: Duration = setting(default=Duration(600), doc="How long a browser may cache the response.", minimum=0, maximum=86400)

    def check(self) -> Iterable[tuple[str, str]]:
        if self.credentials and "*" in self.origins:
            yield "credentials", "cannot be combined with origins: \"*\"; name the origins"
        for index, origin in enumerate(self.origins):
            if fault := fault_of_origin(origin):
                yield f"origins[{index}]", fault
        for index, method in enumerate(self.methods):
            if method != "*" and (fault := method_fault(method)):
                yield f"methods[{index}]", fault
        for path, names in (("headers", self.headers), ("expose", self.expose)):
            for index, name in enumerate(names):
                if fault := field_name_fault(name):
                    yield f"{path}[{index}]", fault


@section(shorthand="location")
class Redirect:
    """A redirect response."""

    location: str = setting(doc="The target URL. {path}, {query} (with its ?) and {host} are replaced by those of the request.", example="https://{host}{path}{query}")
    status: Literal[301, 302, 303, 307, 308] = setting(default=308, doc="The status.")

    def check(self) -> Iterable[tuple[str, str]]:
        if fault := fault_of_location(self.location):
            yield "location", fault
        for name in PLACEHOLDER.findall(self.location):
            if name not in ("path", "query", "host"):
                yield "location", f"unknown placeholder {{{name[:40]}}}; known: {{path}}, {{query}}, {{host}}"

    def caution(self) -> Iterable[tuple[str, str]]:
        if re.match(r"[a-z][a-z0-9+.\-]*:|/|\{path\}|\?|\{query\}", self.location, re.IGNORECASE) is None:
            yield "location", "is read as relative to the request's path; begin with https:// or with /"


@section(shorthand="status")
class Respond:
    """A fixed response."""

    status: int = setting(default=200, doc="The status.", minimum=200, maximum=599)
    body: str = setting(default="", doc="The body.", multiline=True)
    content_type: str = setting(default="text/plain; charset=utf-8", doc="The Content-Type of the body.")
    headers: Mapping[str, str] = setting(factory=dict, doc="Additional header fields.")

    def check(self) -> Iterable[tuple[str, str]]:
        if fault := field_value_fault(self.content_type):
            yield "content_type", fault
        yield from written_fields("headers", self.headers)
        if self.status in (204, 205, 304) and self.body:
            yield "body", f"a response of status {self.status} has no body"


@section()
class RouteTimeouts:
    """Timeouts of this route, instead of the upstream's."""

    first_byte: Duration | None = setting(default=None, doc="As in upstreams.", zero_is_off=True)
    idle: Duration | None = setting(default=None, doc="As in upstreams.", zero_is_off=True)
    total: Duration | None = setting(default=None, doc="As in upstreams.", zero_is_off=True)


@section()
class Route:
    """One rule: a match, and the action for matching requests."""

    name: str = setting(doc="The name of the route in logs, metrics and errors.", pattern=r"[A-Za-z0-9_.\-]{1,64}")
    match: Match = setting(factory=Match, doc="Conditions on a request; without them every request matches.")
    protocol: str | None = setting(default=None, choices=registry.Protocols(), doc="The dialect of the clients; it determines the shape of errors, and the translation for upstreams of another dialect. Default is the upstream's dialect. `simple_chat` and `dialogflow` are separate, small front ends.")
    upstream: str | None = setting(default=None, doc="Name of an upstream; `by_model` chooses by the model in the request (see models, and match.model for bodies that are refused); `admin` serves relayd's own health, status, metrics and live events, `sessions` the JSON document of the client's session (see sessions), `demo` the built-in demonstration.")
    redirect: Redirect | None = setting(default=None, doc="Respond with a redirect instead.")
    respond: Respond | None = setting(default=None, doc="Respond with a fixed response instead.")
    allow: tuple[str, ...] = setting(default=(), doc="Consumers and groups that may use this route; without it no key is needed. A consumer with `routes` of its own or of its group may use those, whatever `allow` says.")
    backend_names: Mapping[str, str] = setting(factory=dict, doc="With `protocol: simple_chat`: the values of `backend` in responses, by upstream name, as in `{ollama: local}`; without an entry, `backend` is the name of the upstream that responded.")
    pass_client_key: bool = setting(default=False, doc="Forward the client's own key to the upstream (which then must not have `auth`). Otherwise, if consumers are configured, no client key reaches the upstream, not even on a route without `allow`.")
    strip_prefix: str | None = setting(default=None, doc="Removed from the beginning of the path.", pattern="/.*")
    rewrite: str | None = setting(default=None, doc="Replaces the matched path or prefix; with `regex`, \\1 stands for a group.", pattern="/.*")
    request_headers: HeaderEdits = setting(factory=HeaderEdits, doc="Changes to the request before it goes upstream.")
    response_headers: HeaderEdits = setting(factory=HeaderEdits, doc="Changes to the response before it goes to the client.")
    cors: Cors | None = setting(default=None, doc="Cross-origin requests.")
    body_limit: Size = setting(default=Size(32 * 1024 * 1024), doc="Bytes of a request body; above it 413. 0 means no limit.", minimum=0)
    timeouts: RouteTimeouts = setting(factory=RouteTimeouts, doc="Timeouts instead of the upstream's.")
    limits: Limits = setting(factory=Limits, doc="Concurrent and waiting exchanges on this route.")
    rates: tuple[Rate, ...] = setting(default=(), doc="Requests and tokens per time of all requests on this route.", example=[{"requests": 60, "per": "1m"}])
    budget: tuple[Budget, ...] = setting(default=(), doc="Money per time of all requests on this route; needs `prices`.", example=[{"amount": "5", "per": "day"}])
    cache: Cache | None = setting(default=None, doc="Answer equal requests from `store`: see relayd-cache(7). Only with a dialect whose requests relayd reads.", example={"ttl": "1h"})
    upgrade: bool = setting(default=False, doc="Tunnel WebSocket and other Upgrade requests.")
    trailers: bool = setting(default=False, doc="Forward the trailer fields of responses, and the field Trailer that announces them.")
    fallbacks: tuple[Fallback, ...] = setting(default=(), doc="Upstreams that are tried in order after the previous one failed, only before the client has received any content.")
    canary: Canary | None = setting(default=None, doc="Another upstream for a part of the requests.")
    mirror: Mirror | None = setting(default=None, doc="Another upstream that gets a copy of requests; its responses are discarded.")
    keepalive: Duration | None = setting(default=None, doc="Interval of silence after which a stream gets a comment that clients ignore, also before the first token and while the request waits in a queue. Default is 15s for translated streams and off for streams that pass; 0 is off. With `protocol: plain`, a response of type text/event-stream gets comments after its head has arrived. A response that passes compressed, with a Content-Length or as JSON lines gets no comments.", zero_is_off=True)
    tells_attempts: bool = setting(default=False, doc="Add a field X-Relayd-Attempts to the response with the endpoints that were tried and the results.")
    tells_cost: bool = setting(default=False, doc="Add a field X-Relayd-Cost to the responses of AI endpoints with the cost of the request and its currency, as in `0.0125 USD`, if `prices` has one. The cost is known at the end of a response: a plain response of up to 256 KiB is held until it is complete and has the field in its head; a longer one and a stream have it in their trailer, which not every client reads.")
    tells_queue: bool = setting(default=False, doc="Add a field X-Relayd-Queue to the response of a request that waited or was rejected: its queue position and the number of waiting requests (itself included) on arrival, and the total seconds of waiting, as in `place=2, depth=5, waited=1.204`. A request that was rejected immediately has no queue position. A request that met no queue has no such field.")
    tells_rates: bool | None = setting(default=None, doc="Tell clients what they have left of the rates of their consumer, group and route: RateLimit and RateLimit-Policy (IETF draft), and the fields that the SDKs of the dialect read (`x-ratelimit-*` of OpenAI, `anthropic-ratelimit-*`), of each kind for the counter of which the smallest share is left. The endpoint's own fields of these names are then dropped. Default is true for routes with a dialect; a request without rates gets no such fields.")
    session: bool = setting(default=False, doc="Find the client's session (see sessions), renew it, and create one with the first response of an endpoint to a client that has none. An Upgrade and the messages of a WebSocket use a session but create none. Without it, requests of this route have no session. `upstream: sessions` includes it.")
    on_disconnect: Literal["cancel", "finish"] = setting(default="cancel", doc="What happens upstream when the client disconnects: cancel the request at once, or finish it and discard the rest.")
    errors: Literal["auto", "openai", "problem", "text"] = setting(default="auto", doc="Shape of relayd's own error bodies: auto is openai on AI routes and problem+json elsewhere, and text for clients that accept only plain text.")
    admin_prefix: str = setting(default="", doc="With `upstream: admin`: the prefix of this route before the admin paths.")
    admin_write: bool = setting(default=False, doc="With `upstream: admin`: also permit actions that change state (reload, upgrade, endpoints, breakers, the end of a stream).")

    def check(self) -> Iterable[tuple[str, str]]:
        ways = [key for key in ("upstream", "redirect", "respond") if getattr(self, key) is not None]
        if len(ways) != 1:
            yield "", "needs exactly one of upstream, redirect and respond" + (f", not {' and '.join(ways)}" if ways else "")
        if self.strip_prefix is not None and self.rewrite is not None:
            yield "rewrite", "cannot be combined with strip_prefix"
        if self.strip_prefix is not None and (fault := fault_of_path(self.strip_prefix, whole=False)):
            yield "strip_prefix", fault
        elif self.strip_prefix is not None and self.match.prefix is not None:
            begins, strip = normal_path(self.match.prefix, whole=False), normal_path(self.strip_prefix, whole=False)
            if begins is not None and strip is not None and not begins.startswith(strip.rstrip("/")):
                yield "strip_prefix", f"paths of this route begin with {self.match.prefix}"
        if self.rewrite is not None and self.match.regex is not None:
            groups = re.compile(self.match.regex).groups
            for number in GROUP.findall(self.rewrite):
                if int(number) > groups:
                    yield "rewrite", f"\\{number} stands for a group that match.regex does not have"
        for key in ("admin_prefix", "admin_write"):
            if getattr(self, key) and self.upstream != "admin":
                yield key, "has a meaning only with upstream: admin"
        if self.admin_prefix and normal_path(self.admin_prefix, whole=True) != self.admin_prefix:
            yield "admin_prefix", fault_of_path(self.admin_prefix, whole=True) or "is not in the normal form of request paths"
        if self.upstream is None:
            for key in ONLY_UPSTREAM:
                if getattr(self, key):
                    yield key, "has a meaning only with an upstream"
        if self.cache is not None and self.pass_client_key:
            yield "cache", "cannot be combined with pass_client_key: the upstream decides which key is valid, and an answer from the cache would not ask it"
        yield from rates_faults(self.rates, self.budget)
        if self.upstream is not None:
            yield from fallback_faults(self.upstream, None, self.fallbacks)
            yield from share_faults(self.upstream, self.mirror, self.canary)

    def caution(self) -> Iterable[tuple[str, str]]:
        yield from idle_queue(self.limits)
        if self.admin_write and not self.allow:
            yield "admin_write", "EVERY CLIENT THAT REACHES THIS ROUTE CAN CHANGE STATE; name consumers in allow"
