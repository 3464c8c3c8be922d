"""`upstreams:` named groups of endpoints, and how relayd connects to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from relayd.config.address import fault_of, parse_endpoint
from relayd.config.dialect import DialectOptions
from relayd.config.discovery import Discovery
from relayd.config.fields import FRAMING, TOKEN, field_value_fault, file_fault
from relayd.config.limits import Limits, idle_queue
from relayd.config.rates import Budget, Rate, rates_faults
from relayd.config.resilience import Breaker, Fallback, Health, Retries, fallback_faults
from relayd.protocols import registry
from relayd.registry import Kinds
from relayd.schema import Duration, Secret, Size, section, setting
from relayd.schema.plugins import faults_of_choice, members, strangers
from relayd.wire.field_syntax import bearer_key_fault

BALANCERS = "relayd.upstream.balancers"


@section(shorthand="url")
class Endpoint:
    """One address of an upstream."""

    url: str = setting(doc="http://host:port/path, https://host/path, unix:/path/of/socket (plain HTTP; an optional path follows a second colon). For an AI dialect it is the base URL of the API, like the base_url of an SDK.", example="https://api.example.com/v1")
    weight: int = setting(default=1, doc="The share of requests relative to the weights of the other endpoints.", minimum=1, maximum=1000, example=2)
    priority: int | None = setting(default=None, doc="Endpoints of priority 0 are used first; those of a higher number only if no endpoint of a lower number is available and has capacity. Default is 0, and with `balance: priority` the index in the list.", minimum=0, maximum=1000, example=1)
    limits: Limits = setting(factory=Limits, doc="Concurrent exchanges at this address. The queue belongs to the upstream: a waiting exchange gets the first endpoint with capacity.")

    def check(self) -> Iterable[tuple[str, str]]:
        if fault := fault_of(parse_endpoint, self.url):
            yield "url", fault
        if self.limits.queue:
            yield "limits.queue", "the queue belongs to the upstream; set limits.queue there"
        if self.limits.shared:
            yield "limits.shared", "the limit of an endpoint is one of each instance; share that of the upstream"


@section()
class EndpointList:
    """A separate file with the endpoints of an upstream."""

    endpoints: tuple[Endpoint, ...] = setting(default=(), doc="The addresses.")


@section()
class HeaderKeys:
    """Keys sent in a separate header field."""

    name: str = setting(doc="Field name.", example="x-api-key", pattern=TOKEN)
    value: tuple[Secret, ...] = setting(doc="The key, or a list of keys.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.name.lower() in FRAMING:
            yield "name", "belongs to the framing of the message"
        for index, key in enumerate(self.value):
            if field_value_fault(key.reveal()):
                yield f"value[{index}]", "contains a character that a field value cannot contain"
        yield from duplicates("value", self.value)


@section()
class QueryKeys:
    """Keys sent as a query parameter. They never appear in relayd's logs, but may appear in the upstream's logs."""

    name: str = setting(doc="Parameter name.", example="key", pattern=r"[A-Za-z0-9_.\-]+")
    value: tuple[Secret, ...] = setting(doc="The key, or a list of keys.")

    def check(self) -> Iterable[tuple[str, str]]:
        return duplicates("value", self.value)


def duplicates(path: str, keys: tuple[Secret, ...]) -> Iterable[tuple[str, str]]:
    """Faults of a list that contains a key twice: the second entry would not raise the provider's rate limit."""
    seen: dict[str, int] = {}
    for index, key in enumerate(keys):
        if seen.setdefault(key.reveal(), index) != index:
            yield f"{path}[{index}]", f"is the key of {path}[{seen[key.reveal()]}]"


@section(one_of=True)
class Auth:
    """The key that relayd adds for the upstream. A client can neither see nor replace nor redirect it.

    Several keys are used in rotation. A key that the upstream refuses (401, 402, or a 403 that names the key) is set
    aside for ten minutes and shown in status; a rate-limited key (429) cools down. A single key is always used.
    """

    bearer: tuple[Secret, ...] = setting(default=(), doc="Sent as `Authorization: Bearer ...`; one key or a list.")
    header: HeaderKeys | None = setting(default=None, doc="Sent in a separate header field.")
    query: QueryKeys | None = setting(default=None, doc="Sent in the query string.")

    def check(self) -> Iterable[tuple[str, str]]:
        for index, key in enumerate(self.bearer):
            if fault := bearer_key_fault(key.reveal()):
                yield f"bearer[{index}]", fault
        yield from duplicates("bearer", self.bearer)
        if not self.bearer and self.header is None and self.query is None:
            yield "bearer", "needs a key"


@section()
class UpstreamTimeouts:
    """How long an endpoint may take. Each limit has its own error code."""

    connect: Duration = setting(default=Duration(5), doc="Resolve, connect and TLS handshake; then 504 connect_timeout.", minimum=0.001)
    first_byte: Duration = setting(default=Duration(300), doc="From the last byte of the request to the complete head of the response, which interim heads (1xx) do not extend; then 504 first_byte_timeout.", zero_is_off=True)
    idle: Duration = setting(default=Duration(120), doc="Silence within the response, not counted while relayd waits for the client; then the response is aborted.", zero_is_off=True)
    total: Duration = setting(default=Duration(0), doc="The whole exchange; 0 means no limit.", zero_is_off=True)


@section()
class UpstreamTls:
    """TLS to the endpoints of one upstream."""

    verify: bool = setting(default=True, doc="Verify the endpoint's certificate and name. `false` causes a warning.")
    ca: str | None = setting(default=None, doc="PEM file of the authorities to trust instead of the system's.", example="/etc/relayd/tls/ca.pem")
    cert: str | None = setting(default=None, doc="PEM file of the client certificate.", example="/etc/relayd/tls/client.pem")
    key: str | None = setting(default=None, doc="PEM file of the client certificate's key.", example="/etc/relayd/tls/client.key")
    server_name: str | None = setting(default=None, doc="Name for SNI and verification instead of the URL's host.", pattern=r"[A-Za-z0-9.\-]+", example="api.example.com")
    min_version: Literal["1.2", "1.3"] = setting(default="1.2", doc="The oldest TLS version spoken.")

    def check(self) -> Iterable[tuple[str, str]]:
        if (self.cert is None) != (self.key is None):
            yield "cert", "cert and key belong together"
        for name, path in (("ca", self.ca), ("cert", self.cert), ("key", self.key)):
            if path is not None and (fault := file_fault(path)):
                yield name, fault

    def caution(self) -> Iterable[tuple[str, str]]:
        if not self.verify:
            yield "verify", "CERTIFICATES ARE NOT VERIFIED: an attacker on the network can read every request and every key; use ca"


@section()
class Pool:
    """Keep-alive connections to the endpoints of one upstream."""

    max_idle_age: Duration = setting(default=Duration(60), doc="A connection that was idle for longer is not reused; keep this below the upstream's keep-alive timeout.", minimum=1)
    max_lifetime: Duration = setting(default=Duration(0), doc="A connection older than this is not reused; 0 means no limit.", zero_is_off=True)
    max_connections: int = setting(default=0, doc="Concurrent transfers to one endpoint; above it requests are answered 503. 0 means no limit.", minimum=0)
    dns_ttl: Duration = setting(default=Duration(30), doc="How long the addresses of a host name are used before it is resolved again, at least 1s. After an address was removed, new requests use new connections, and running transfers finish on the old ones.", minimum=0)


@section()
@members(BALANCERS, always=True)
class Upstream:
    """A named group of endpoints."""

    protocol: str = setting(default="plain", choices=registry.Protocols(endpoints=True), doc="The dialect of the endpoints; `plain` is opaque bytes.")
    endpoints: tuple[Endpoint, ...] = setting(default=(), doc="The addresses of this upstream. Either these or `discovery` is required.", example=[{"url": "https://api.example.com/v1"}])
    discovery: Discovery | None = setting(default=None, doc="Where the addresses come from, if they change at run time: containers, DNS, a file, a command.")
    auth: Auth | None = setting(default=None, doc="The key that relayd adds.")
    balance: str = setting(default="round_robin", choices=Kinds(BALANCERS), doc="How an available endpoint is chosen.")
    affinity: Literal["session"] | None = setting(default=None, doc="`session`: requests of a client's session, on routes with `session: true`, go to the endpoint that answered the first of them, as long as it is available, whatever `balance` says; after that to another one. The endpoint is stored with the session, so it is kept over restarts and when endpoints are added. An endpoint at its limit is passed over for one request.")
    slow_start: Duration = setting(default=Duration(0), doc="How long an endpoint that becomes available takes to reach its full weight; it begins with a tenth.", zero_is_off=True, example="30s")
    http: Literal["1.1", "2"] = setting(default="1.1", doc="HTTP version spoken to the endpoints; 2 is negotiated over TLS and multiplexes requests. A request of any method that the endpoint refused before any work on it (REFUSED_STREAM, or a GOAWAY that names an earlier stream) is sent again, up to twice and independent of retries; the client gets 503 upstream_unprocessed if that fails, or if its body was streamed and is not available any more. Where libcurl does not report the refusal (any with libcurl 8.12, a GOAWAY with an error code with libcurl 8.23), it is a 502 as any other end of a connection. With libcurl before 8 (Debian 12) a stream whose client does not read may use 32 MiB, and a stream whose client disconnected ends at the endpoint only with the next traffic.")
    host: Literal["upstream", "client"] = setting(default="upstream", doc="The Host field of requests: the endpoint's name, or the name that the client requested.")
    rewrite_location: bool = setting(default=True, doc="A Location (also Content-Location, Refresh and Link) that names the endpoint itself by its host and port, as written by an application that received the endpoint's own name in Host, is sent to the client as a path of the route: `http://10.0.0.5:8000/login` becomes `/login`, or `/app/login` on a route that strips `/app`. Only with `host: upstream` and `protocol: plain`; a URL of another server, or with a path outside the route, is not changed.")
    tls: UpstreamTls = setting(factory=UpstreamTls, doc="TLS to the endpoints.")
    timeouts: UpstreamTimeouts = setting(factory=UpstreamTimeouts, doc="How long an endpoint may take.")
    pool: Pool = setting(factory=Pool, doc="Keep-alive connections.")
    limits: Limits = setting(factory=Limits, doc="Concurrent and waiting exchanges, for all endpoints together.")
    rates: tuple[Rate, ...] = setting(default=(), doc="Requests and tokens per time of all requests to this upstream. Without room, a fallback is used, if there is one.", example=[{"requests": 60, "per": "1m"}])
    budget: tuple[Budget, ...] = setting(default=(), doc="Money per time of all requests to this upstream. Without room, a fallback is used, if there is one; needs `prices`.", example=[{"amount": "5", "per": "day"}])
    breaker: Breaker | None = setting(default=None, doc="When to stop sending requests to a failing endpoint. Without it, failing endpoints are skipped while others are available.")
    dialect: DialectOptions = setting(factory=DialectOptions, doc="Options of the translation for these endpoints.")
    health: Health | None = setting(default=None, doc="Active checks.")
    list_models: bool = setting(default=False, doc="Ask the endpoints for their own list of models, in the background every five minutes. A route with `upstream: by_model` then lists the models that a pattern of `models` maps to this upstream; exact names are always listed.")
    retries: Retries | None = setting(default=None, doc="When an attempt may be repeated.")
    response_header: Size = setting(default=Size(256 * 1024), doc="Bytes of a response's header section; above it 502.", minimum=16384, maximum=1 << 24)

    def check(self) -> Iterable[tuple[str, str]]:
        seen: dict[str, int] = {}
        for index, endpoint in enumerate(self.endpoints):
            if endpoint.url in seen:
                yield f"endpoints[{index}]", f"is the same as endpoints[{seen[endpoint.url]}]"
            seen.setdefault(endpoint.url, index)
        if not self.endpoints and self.discovery is None:
            yield "endpoints", "is missing: an upstream needs endpoints or discovery"
        elif self.endpoints and self.discovery is not None:
            yield "discovery", "finds the addresses; remove endpoints"
        yield from faults_of_choice(self, BALANCERS, self.balance)
        yield from rates_faults(self.rates, self.budget)
        if self.list_models:
            dialect = registry.dialect(self.protocol)
            if dialect is None or dialect.model_list is None:
                yield "list_models", f"needs a protocol with a list of models; {self.protocol} has none"

    def caution(self) -> Iterable[tuple[str, str]]:
        for key, kinds in strangers(self, BALANCERS, self.balance):
            yield key, f"has a meaning only with balance: {kinds}, not with {self.balance}"
        limited = any(endpoint.limits.requests for endpoint in self.endpoints) or self.pool.max_connections
        if not limited and self.discovery is None:
            yield from idle_queue(self.limits)
        if self.auth is not None and any(endpoint.url.startswith("http://") for endpoint in self.endpoints):
            hosts = {parse_endpoint(endpoint.url).host for endpoint in self.endpoints if endpoint.url.startswith("http://")}
            if not hosts <= {"localhost", "127.0.0.1", "::1"}:
                yield "auth", "the key goes over the network unencrypted; use https"


@section(shorthand="upstream")
class Model:
    """The upstream of a model, and its name there."""

    upstream: str = setting(doc="Name of an upstream.")
    model: str | None = setting(default=None, doc="The model's name at that upstream; without it, the name the client used. A `*` in it is replaced by the text that the first `*` of the name matched.")
    fallbacks: tuple[Fallback, ...] = setting(default=(), doc="Upstreams and models that are tried after the previous one failed, before the fallbacks of the route.")

    def check(self) -> Iterable[tuple[str, str]]:
        return fallback_faults(self.upstream, self.model, self.fallbacks)
