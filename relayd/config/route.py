"""`routes:` an ordered list of rules; the first match wins, no match is 404."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from relayd.config.fields import (
    FRAMING,
    KEY_FIELDS,
    field_name_fault,
    field_value_fault,
    host_fault,
    method_fault,
    written_fields,
)
from relayd.config.limits import HIGHEST_PRIORITY, Limits, idle_queue
from relayd.config.patterns import fault_of_regex
from relayd.config.resilience import Canary, Fallback, Mirror, fallback_faults, share_faults
from relayd.config.upstream import HeaderKey, bearer_faults
from relayd.protocols import registry
from relayd.schema import Duration, Secret, Size, section, setting

ONLY_UPSTREAM = (
    "fallbacks", "canary", "mirror", "keepalive", "tells_attempts", "tells_queue", "pass_client_key", "upgrade", "strip_prefix", "rewrite",
    "trailers",
)
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.\-]*://[A-Za-z0-9.\-_\[\]:]+")
GROUP = re.compile(r"\\([0-9]{1,2})")


@section()
class Match:
    """What a request must have; everything written here must hold. Nothing written matches every request."""

    path: str | None = setting(default=None, doc="The whole path, exactly.", example="/v1/models", pattern="/.*")
    prefix: str | None = setting(default=None, doc="How the path begins.", example="/v1/", pattern="/.*")
    regex: str | None = setting(default=None, doc="A regular expression that the whole path must match.", example="/users/[0-9]+")
    host: tuple[str, ...] = setting(default=(), doc="Host names, without port, any case; `*.example.org` for all names below one.", example=["*.example.org"])
    method: tuple[str, ...] = setting(default=(), doc="Methods.", example=["GET", "POST"])
    header: Mapping[str, str] = setting(factory=dict, doc="Field names and the values they must have; `*` means present.", example={"X-Team": "blue"})
    model: tuple[str, ...] = setting(default=(), doc="Model names in the request body (or in the path, for Gemini); `*` stands for anything. The body is read to know it.", example=["mistral-*"])

    def check(self) -> Iterable[tuple[str, str]]:
        if sum(word is not None for word in (self.path, self.prefix, self.regex)) > 1:
            yield "", "only one of path, prefix and regex can be used"
        if self.regex is not None and (fault := fault_of_regex(self.regex)):
            yield "regex", fault
        for place, host in enumerate(self.host):
            if fault := host_fault(host):
                yield f"host[{place}]", fault
        for place, method in enumerate(self.method):
            if fault := method_fault(method):
                yield f"method[{place}]", fault
        for name, value in self.header.items():
            if fault := field_name_fault(name) or field_value_fault(value):
                yield f"header.{name}", fault


@section()
class HeaderEdits:
    """Changes to header fields, in this order: remove, set, add."""

    remove: tuple[str, ...] = setting(default=(), doc="Field names to take away.", example=["Cookie"])
    set: Mapping[str, str] = setting(factory=dict, doc="Fields that replace all of the same name.", example={"X-Team": "blue"})
    add: Mapping[str, str] = setting(factory=dict, doc="Fields put behind what is there.", example={"X-Seen": "relayd"})

    def check(self) -> Iterable[tuple[str, str]]:
        for place, name in enumerate(self.remove):
            if fault := field_name_fault(name):
                yield f"remove[{place}]", fault
            elif name.lower() in FRAMING:
                yield f"remove[{place}]", "belongs to the framing of the message; relayd writes it"
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

    origins: tuple[str, ...] = setting(default=("*",), doc="Origins that may ask; `*` means all.", example=["https://app.example.org"])
    methods: tuple[str, ...] = setting(default=("*",), doc="Methods allowed; `*` means the one asked for.")
    headers: tuple[str, ...] = setting(default=("*",), doc="Request fields allowed; `*` means those asked for.")
    expose: tuple[str, ...] = setting(default=(), doc="Response fields that scripts may read.", example=["X-Request-ID"])
    credentials: bool = setting(default=False, doc="Whether cookies and keys may be sent.")
    max_age: Duration = setting(default=Duration(600), doc="How long a browser may remember the answer.", minimum=0, maximum=86400)

    def check(self) -> Iterable[tuple[str, str]]:
        if self.credentials and "*" in self.origins:
            yield "credentials", "cannot be combined with origins: \"*\"; name the origins"
        for place, origin in enumerate(self.origins):
            if ORIGIN.fullmatch(origin) is None:
                yield f"origins[{place}]", "is not an origin (scheme://host, without a path)"
        for place, method in enumerate(self.methods):
            if method != "*" and (fault := method_fault(method)):
                yield f"methods[{place}]", fault
        for path, names in (("headers", self.headers), ("expose", self.expose)):
            for place, name in enumerate(names):
                if fault := field_name_fault(name):
                    yield f"{path}[{place}]", fault


@section(shorthand="location")
class Redirect:
    """An answer that sends the client elsewhere."""

    location: str = setting(doc="The new place. {path} and {query} stand for the request's (with its ?), {host} for its host.", example="https://{host}{path}{query}")
    status: Literal[301, 302, 303, 307, 308] = setting(default=308, doc="The status.")

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.location or (fault := field_value_fault(self.location)):
            yield "location", "is empty" if not self.location else fault or ""
        for name in PLACEHOLDER.findall(self.location):
            if name not in ("path", "query", "host"):
                yield "location", f"unknown placeholder {{{name[:40]}}}; known: {{path}}, {{query}}, {{host}}"


@section(shorthand="status")
class Respond:
    """A fixed answer."""

    status: int = setting(default=200, doc="The status.", minimum=200, maximum=599)
    body: str = setting(default="", doc="The body.", multiline=True)
    content_type: str = setting(default="text/plain; charset=utf-8", doc="Its type.")
    headers: Mapping[str, str] = setting(factory=dict, doc="Further header fields.")

    def check(self) -> Iterable[tuple[str, str]]:
        if fault := field_value_fault(self.content_type):
            yield "content_type", fault
        yield from written_fields("headers", self.headers)
        if self.status in (204, 205, 304) and self.body:
            yield "body", f"an answer of {self.status} has no body"


@section()
class RouteTimeouts:
    """Limits that replace the upstream's on this route."""

    first_byte: Duration | None = setting(default=None, doc="As in upstreams.", zero_is_off=True)
    idle: Duration | None = setting(default=None, doc="As in upstreams.", zero_is_off=True)
    total: Duration | None = setting(default=None, doc="As in upstreams.", zero_is_off=True)


@section()
class Route:
    """One rule: which requests, and what becomes of them."""

    name: str = setting(doc="Its name in logs, metrics and errors.", pattern=r"[A-Za-z0-9_.\-]{1,64}")
    match: Match = setting(factory=Match, doc="Which requests; without it, all.")
    protocol: str | None = setting(default=None, choices=registry.Protocols(), doc="The dialect clients speak here; decides the shape of errors, and what is translated for upstreams of another dialect. Default is the upstream's. `simple_chat` and `dialogflow` are small front ends of their own.")
    upstream: str | None = setting(default=None, doc="Name of an upstream; `by_model` chooses by the model in the request (see models); `admin` shows relayd's own health, status and metrics, `demo` the built-in demonstration.")
    redirect: Redirect | None = setting(default=None, doc="Send the client elsewhere instead.")
    respond: Respond | None = setting(default=None, doc="Answer with a fixed response instead.")
    allow: tuple[str, ...] = setting(default=(), doc="Consumers that may use this route; without it everybody may.")
    backend_names: Mapping[str, str] = setting(factory=dict, doc="With `protocol: simple_chat`: what `backend` in an answer says instead of the name of the upstream that answered, by the name of the upstream, as in `{ollama: local}`.")
    pass_client_key: bool = setting(default=False, doc="Send the client's own key on to the upstream (which then must not have `auth`).")
    strip_prefix: str | None = setting(default=None, doc="Taken from the front of the path.", pattern="/.*")
    rewrite: str | None = setting(default=None, doc="Put in the place of the matched path or prefix; with `regex`, \\1 stands for a group.", pattern="/.*")
    request_headers: HeaderEdits = setting(factory=HeaderEdits, doc="Changes to the request before it goes upstream.")
    response_headers: HeaderEdits = setting(factory=HeaderEdits, doc="Changes to the response before it goes to the client.")
    cors: Cors | None = setting(default=None, doc="Cross-origin requests.")
    body_limit: Size = setting(default=Size(32 * 1024 * 1024), doc="Bytes of a request body; above it 413. 0 means no limit.", minimum=0)
    timeouts: RouteTimeouts = setting(factory=RouteTimeouts, doc="Limits that replace the upstream's.")
    limits: Limits = setting(factory=Limits, doc="Exchanges under way and waiting on this route.")
    upgrade: bool = setting(default=False, doc="Tunnel WebSocket and other Upgrade requests.")
    trailers: bool = setting(default=False, doc="Pass trailer fields on.")
    fallbacks: tuple[Fallback, ...] = setting(default=(), doc="Upstreams that are asked when the one before them could not do it, in their order; only before the client has seen any content.")
    canary: Canary | None = setting(default=None, doc="Another upstream that takes a part of the requests.")
    mirror: Mirror | None = setting(default=None, doc="Another upstream that gets a copy of requests; its answers are thrown away.")
    keepalive: Duration | None = setting(default=None, doc="After this long a silence a stream gets a comment that readers skip, from before the first token and while it waits in a queue. Default is 15s for streams that are translated and off for those that pass; 0 is off.", zero_is_off=True)
    tells_attempts: bool = setting(default=False, doc="Say in a field X-Relayd-Attempts of the response which endpoints were tried and what became of it.")
    tells_queue: bool = setting(default=False, doc="Say in a field X-Relayd-Queue of the response what a request met that had to wait or was turned away: its place and how many waited (itself counted) when it came, and the seconds that it waited in all, as in `place=2, depth=5, waited=1.204`. Who was turned away at once has no place. A request that met no queue has no such field.")
    on_disconnect: Literal["cancel", "finish"] = setting(default="cancel", doc="What becomes of the upstream's work when the client leaves: cancel at once, or let it finish and throw the rest away.")
    errors: Literal["auto", "openai", "problem", "text"] = setting(default="auto", doc="Shape of relayd's own error bodies: auto is openai on AI routes and problem+json elsewhere, and text for clients that accept only that.")
    admin_prefix: str = setting(default="", doc="With `upstream: admin`: the prefix of this route that stands before the admin paths.")
    admin_write: bool = setting(default=False, doc="With `upstream: admin`: also show the actions that change something.")

    def check(self) -> Iterable[tuple[str, str]]:
        ways = [word for word in ("upstream", "redirect", "respond") if getattr(self, word) is not None]
        if len(ways) != 1:
            yield "", "needs exactly one of upstream, redirect and respond" + (f", not {' and '.join(ways)}" if ways else "")
        if self.strip_prefix is not None and self.rewrite is not None:
            yield "rewrite", "cannot be combined with strip_prefix"
        if self.strip_prefix is not None and self.match.prefix is not None and not self.match.prefix.startswith(
            self.strip_prefix.rstrip("/")
        ):
            yield "strip_prefix", f"paths of this route begin with {self.match.prefix}"
        if self.rewrite is not None and self.match.regex is not None:
            groups = re.compile(self.match.regex).groups
            for number in GROUP.findall(self.rewrite):
                if int(number) > groups:
                    yield "rewrite", f"\\{number} stands for a group that match.regex does not have"
        for word in ("admin_prefix", "admin_write"):
            if getattr(self, word) and self.upstream != "admin":
                yield word, "has a meaning only with upstream: admin"
        if self.admin_prefix and not self.admin_prefix.startswith("/"):
            yield "admin_prefix", "begins with /"
        if self.upstream is None:
            for word in ONLY_UPSTREAM:
                if getattr(self, word):
                    yield word, "has a meaning only with an upstream"
        else:
            yield from fallback_faults(self.upstream, None, self.fallbacks)
            yield from share_faults(self.upstream, self.mirror, self.canary)

    def caution(self) -> Iterable[tuple[str, str]]:
        yield from idle_queue(self.limits)
        if self.admin_write and not self.allow:
            yield "admin_write", "EVERYBODY WHO REACHES THIS ROUTE CAN CHANGE THINGS; name consumers in allow"


@section()
class Consumer:
    """A named party and the key that proves it. Keys are compared in constant time."""

    key: Secret | None = setting(default=None, doc="Key expected wherever clients of AI APIs put it: `Authorization: Bearer ...`, x-api-key, api-key or x-goog-api-key.")
    bearer: Secret | None = setting(default=None, doc="Key expected as `Authorization: Bearer ...`.")
    header: HeaderKey | None = setting(default=None, doc="Key expected in a field of its own.")
    priority: int = setting(default=0, doc="Who waits in a queue goes before those of lower priority, and is the last to be refused when relayd is overloaded. Requests without a consumer have 0.", minimum=-HIGHEST_PRIORITY, maximum=HIGHEST_PRIORITY)
    limits: Limits = setting(factory=Limits, doc="Exchanges of this consumer under way and waiting, on all routes together.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.key is None and self.bearer is None and self.header is None:
            yield "", "needs key, bearer or header: a consumer without a key is everybody"
        if self.key is not None and self.bearer is not None:
            yield "bearer", "cannot be combined with key, which is expected there too"
        yield from bearer_faults(self.bearer)
        yield from (("key", fault) for _, fault in bearer_faults(self.key))

    def caution(self) -> Iterable[tuple[str, str]]:
        return idle_queue(self.limits)
