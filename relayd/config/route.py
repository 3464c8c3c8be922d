"""`routes:` an ordered list of rules; the first match wins, no match is 404."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from relayd.config.upstream import HeaderKey, Protocol
from relayd.schema import Duration, Secret, Size, section, setting

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"


@section()
class Match:
    """What a request must have; everything written here must hold. Nothing written matches every request."""

    path: str | None = setting(None, doc="The whole path, exactly.", pattern="/.*")
    prefix: str | None = setting(None, doc="How the path begins.", pattern="/.*")
    regex: str | None = setting(None, doc="A regular expression that the whole path must match.")
    host: tuple[str, ...] = setting((), doc="Host names, without port, any case; `*.example.org` for all names below one.")
    method: tuple[str, ...] = setting((), doc="Methods.")
    header: Mapping[str, str] = setting(factory=dict, doc="Field names and the values they must have; `*` means present.")
    model: tuple[str, ...] = setting((), doc="Model names in the request body; wildcards allowed.", pending="AI protocols")

    def check(self) -> Iterable[tuple[str, str]]:
        if sum(word is not None for word in (self.path, self.prefix, self.regex)) > 1:
            yield "", "only one of path, prefix and regex can be used"


@section()
class HeaderEdits:
    """Changes to header fields, in this order: remove, set, add."""

    remove: tuple[str, ...] = setting((), doc="Field names to take away.")
    set: Mapping[str, str] = setting(factory=dict, doc="Fields that replace all of the same name.")
    add: Mapping[str, str] = setting(factory=dict, doc="Fields put behind what is there.")


@section()
class Cors:
    """Cross-origin requests of browsers. Preflights are answered by relayd and never reach the upstream."""

    origins: tuple[str, ...] = setting(("*",), doc="Origins that may ask; `*` means all.", example=["https://app.example.org"])
    methods: tuple[str, ...] = setting(("*",), doc="Methods allowed; `*` means the one asked for.")
    headers: tuple[str, ...] = setting(("*",), doc="Request fields allowed; `*` means those asked for.")
    expose: tuple[str, ...] = setting((), doc="Response fields that scripts may read.")
    credentials: bool = setting(False, doc="Whether cookies and keys may be sent.")
    max_age: Duration = setting(Duration(600), doc="How long a browser may remember the answer.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.credentials and "*" in self.origins:
            yield "credentials", "cannot be combined with origins: \"*\"; name the origins"


@section(shorthand="location")
class Redirect:
    """An answer that sends the client elsewhere."""

    location: str = setting(doc="The new place. {path} and {query} stand for the request's (with its ?), {host} for its host.", example="https://{host}{path}{query}")
    status: Literal[301, 302, 303, 307, 308] = setting(308, doc="The status.")


@section(shorthand="status")
class Respond:
    """A fixed answer."""

    status: int = setting(200, doc="The status.", minimum=200, maximum=599)
    body: str = setting("", doc="The body.")
    content_type: str = setting("text/plain; charset=utf-8", doc="Its type.")
    headers: Mapping[str, str] = setting(factory=dict, doc="Further header fields.")


@section()
class RouteTimeouts:
    """Limits that replace the upstream's on this route."""

    first_byte: Duration | None = setting(None, doc="As in upstreams.", zero_is_off=True)
    idle: Duration | None = setting(None, doc="As in upstreams.", zero_is_off=True)
    total: Duration | None = setting(None, doc="As in upstreams.", zero_is_off=True)


@section()
class Route:
    """One rule: which requests, and what becomes of them."""

    name: str = setting(doc="Its name in logs, metrics and errors.", pattern=r"[A-Za-z0-9_.\-]{1,64}")
    match: Match = setting(factory=Match, doc="Which requests; without it, all.")
    protocol: Protocol | None = setting(None, doc="The dialect clients speak here; decides the shape of errors. Default is the upstream's.")
    upstream: str | None = setting(None, doc="Name of an upstream; `by_model` chooses by the model; `admin` shows relayd's own health, status and metrics, `demo` the built-in demonstration.")
    redirect: Redirect | None = setting(None, doc="Send the client elsewhere instead.")
    respond: Respond | None = setting(None, doc="Answer with a fixed response instead.")
    allow: tuple[str, ...] = setting((), doc="Consumers that may use this route; without it everybody may.")
    pass_client_key: bool = setting(False, doc="Send the client's own key on to the upstream (which then must not have `auth`).")
    strip_prefix: str | None = setting(None, doc="Taken from the front of the path.", pattern="/.*")
    rewrite: str | None = setting(None, doc="Put in the place of the matched path or prefix; with `regex`, \\1 stands for a group.", pattern="/.*")
    request_headers: HeaderEdits = setting(factory=HeaderEdits, doc="Changes to the request before it goes upstream.")
    response_headers: HeaderEdits = setting(factory=HeaderEdits, doc="Changes to the response before it goes to the client.")
    cors: Cors | None = setting(None, doc="Cross-origin requests.")
    body_limit: Size = setting(Size(32 * 1024 * 1024), doc="Bytes of a request body; above it 413. 0 means no limit.", minimum=0)
    timeouts: RouteTimeouts = setting(factory=RouteTimeouts, doc="Limits that replace the upstream's.")
    upgrade: bool = setting(False, doc="Tunnel WebSocket and other Upgrade requests.")
    trailers: bool = setting(False, doc="Pass trailer fields on.")
    on_disconnect: Literal["cancel", "finish"] = setting("cancel", doc="What becomes of the upstream's work when the client leaves: cancel at once, or let it finish and throw the rest away.")
    errors: Literal["auto", "openai", "problem", "text"] = setting("auto", doc="Shape of relayd's own error bodies: auto is openai on AI routes and problem+json elsewhere, and text for clients that accept only that.")
    admin_prefix: str = setting("", doc="With `upstream: admin`: the prefix of this route that stands before the admin paths.")
    admin_write: bool = setting(False, doc="With `upstream: admin`: also show the actions that change something.")

    def check(self) -> Iterable[tuple[str, str]]:
        ways = [word for word in ("upstream", "redirect", "respond") if getattr(self, word) is not None]
        if len(ways) != 1:
            yield "", "needs exactly one of upstream, redirect and respond" + (f", not {' and '.join(ways)}" if ways else "")
        if self.strip_prefix is not None and self.rewrite is not None:
            yield "rewrite", "cannot be combined with strip_prefix"


@section()
class Consumer:
    """A named party and the key that proves it. Keys are compared in constant time."""

    bearer: Secret | None = setting(None, doc="Key expected as `Authorization: Bearer ...`.")
    header: HeaderKey | None = setting(None, doc="Key expected in a field of its own.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.bearer is None and self.header is None:
            yield "", "needs bearer or header: a consumer without a key is everybody"
