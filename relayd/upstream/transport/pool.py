"""The slots and keep-alive connections of one endpoint.

Slots are pooled by the kind of request for which their handle is configured: GET, HEAD, POST, "+" (any other method
with a body) and "OTHER" (any other method without). A HEAD request is sent without its body. Pooling by method name
would let clients grow the pool without bound.
"""

from __future__ import annotations

import ssl
from collections import defaultdict
from pathlib import Path

import pycurl

from relayd import clock
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import EndpointSpec, UpstreamSpec
from relayd.upstream.transport.driver import Driver
from relayd.upstream.transport.slot import ACTIVE, FREE, SETOPT, Sink, Slot
from relayd.wire.key_filter import KeyFilter

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))  # RFC 9110 9.2.2
EXACT_TARGET = hasattr(pycurl, "REQUEST_TARGET")  # pycurl >= 7.45.3; before it PATH_AS_IS on libcurl 7.88 is exact
_HTTPHEADER: int = pycurl.HTTPHEADER
KEPT_SLOTS = 256
FRESH_FOR_S = 1.5

_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def system_bundle() -> str | None:
    """The system's file of certificate authorities; set explicitly, because its default differs between builds of
    libcurl."""
    paths = ssl.get_default_verify_paths()
    for path in (*_BUNDLES, paths.cafile, paths.openssl_cafile):
        if path and Path(path).is_file():
            return path
    return None


def options_of(spec: UpstreamSpec, endpoint: EndpointSpec) -> list[tuple[int, object]]:
    """The static options of every slot of this endpoint."""
    options: list[tuple[int, object]] = [
        (pycurl.NOSIGNAL, 1), (pycurl.PROXY, ""), (pycurl.FOLLOWLOCATION, 0), (pycurl.PATH_AS_IS, 1),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS), (pycurl.TCP_NODELAY, 1),
        (pycurl.CONNECTTIMEOUT_MS, max(1, int(spec.timeouts.connect_s * 1000))),
        (pycurl.UPLOAD_BUFFERSIZE, 16384),  # the default of 64 KiB stays allocated for the whole stream
        (pycurl.DNS_CACHE_TIMEOUT, int(spec.dns_ttl_s)),
        (pycurl.MAXAGE_CONN, max(1, int(spec.max_idle_age_s))),
    ]
    if spec.max_lifetime_s and hasattr(pycurl, "MAXLIFETIME_CONN"):
        options.append((pycurl.MAXLIFETIME_CONN, max(1, int(spec.max_lifetime_s))))
    if spec.http2 and endpoint.tls:
        options += [(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS), (pycurl.PIPEWAIT, 1)]
    else:
        options.append((pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1))
    if endpoint.unix is not None:
        options.append((pycurl.UNIX_SOCKET_PATH, endpoint.unix))
    if endpoint.tls:
        options += _tls_options(spec, endpoint)
    return options


def _tls_options(spec: UpstreamSpec, endpoint: EndpointSpec) -> list[tuple[int, object]]:
    tls = spec.tls
    floor = pycurl.SSLVERSION_TLSv1_3 if tls.min_version == "1.3" else pycurl.SSLVERSION_TLSv1_2
    options: list[tuple[int, object]] = [
        (pycurl.SSLVERSION, floor), (pycurl.SSL_VERIFYPEER, int(tls.verify)),
        (pycurl.SSL_VERIFYHOST, 2 if tls.verify else 0),
    ]
    bundle = tls.ca or system_bundle()
    if bundle:
        options.append((pycurl.CAINFO, bundle))
    if tls.cert and tls.key:
        options += [(pycurl.SSLCERT, tls.cert), (pycurl.SSLKEY, tls.key)]
    if tls.server_name:
        # libcurl takes SNI and the name to verify from the URL: the URL gets the name, the connection the address.
        host, port = _split(endpoint)
        options.append((pycurl.CONNECT_TO, [f"{tls.server_name}:{port}:{host}:{port}"]))
    return options


def _split(endpoint: EndpointSpec) -> tuple[str, int]:
    host, colon, port = endpoint.authority.rpartition(":")
    if not colon or port.endswith("]"):
        return endpoint.authority, 443 if endpoint.tls else 80
    return host, int(port)


class Pool:
    """Creates slots of one endpoint, and hands them out; owned by the endpoint."""

    def __init__(
        self, driver: Driver, spec: UpstreamSpec, endpoint: EndpointSpec, key_filter: KeyFilter | None = None
    ) -> None:
        """`key_filter` is applied to every response head."""
        self.driver, self.key_filter = driver, key_filter
        self.head_limit = spec.response_header_bytes
        origin = endpoint.origin
        if endpoint.tls and spec.tls.server_name:
            origin = f"https://{spec.tls.server_name}:{_split(endpoint)[1]}"
        self.origin = origin.encode()
        self.options = [*options_of(spec, endpoint), (pycurl.URL, self.origin + b"/")]
        self.http2 = spec.http2 and endpoint.tls
        if endpoint.tls and not self.http2:
            driver.http1_origins.add(self.origin)
        self.name = None if endpoint.unix is not None else driver.names.join(*endpoint.address, spec.dns_ttl_s)
        self._address = endpoint.address[0] if endpoint.unix is None and self.name is None else ""
        self.in_use = 0
        self._closing = False
        self._free: dict[str, list[Slot]] = defaultdict(list)

    def acquire(self, method: bytes, has_body: bool) -> Slot:
        """Acquire a slot for this method."""
        if method == b"POST":
            kind = "POST"
        elif has_body and method != b"HEAD":  # else libcurl waits for a response body
            kind = "+"
        else:
            kind = method.decode("ascii") if method in (b"GET", b"HEAD") else "OTHER"
        self.in_use += 1
        free = self._free[kind]
        return free.pop() if free else Slot(self.driver, self, kind)

    def release(self, slot: Slot) -> None:
        """Release a slot; a transfer that has not ended is cancelled."""
        if slot.state == ACTIVE:
            self.driver.cancel(slot)
        self.in_use -= 1
        slot.clear()
        slot.state = FREE
        free = self._free[slot.kind]
        if slot.broken or self._closing or len(free) >= KEPT_SLOTS:
            slot.close()  # libcurl 8.14: error 65 sticks to the handle, even after reset()
        else:
            free.append(slot)

    def start(
        self, slot: Slot, sink: Sink, method: bytes, target: bytes, fields: list[bytes],
        length: int | None = None, body: bytes | None = None, *, new_connection: bool = False,
    ) -> None:
        """Send a request. `target` and `fields` are validated bytes without line ends.

        `length` is None without a body, -1 if unknown (chunked). `body` is the whole body, or None if it is streamed
        by `Slot.feed`. With `new_connection` no keep-alive connection is used.
        """
        curl, kind = slot.curl, slot.kind
        if target != slot.target:
            slot.target = target
            if EXACT_TARGET:
                SETOPT(curl, pycurl.REQUEST_TARGET, target)
            else:
                SETOPT(curl, pycurl.URL, self.origin + target)
        name = self.name
        if name is not None and slot.route is not (route := name.route) and route is not None:
            slot.route = route
            SETOPT(curl, pycurl.CONNECT_TO, route.connect_to)
            SETOPT(curl, pycurl.RESOLVE, route.resolve)
        SETOPT(curl, _HTTPHEADER, fields)
        if kind == "POST":
            if length != slot.length:
                slot.length = length
                SETOPT(curl, pycurl.POSTFIELDSIZE_LARGE, 0 if length is None else length)
        elif kind == "+":
            SETOPT(curl, pycurl.INFILESIZE_LARGE, length)
        if kind in ("+", "OTHER"):
            SETOPT(curl, pycurl.CUSTOMREQUEST, method)
        slot.body = b"" if kind == "POST" and length is None else body
        # A request that must not be sent twice gets a new connection if it has no body that SEEKFUNCTION protects. So
        # does every request shortly after the peer closed an idle connection: libcurl >= 8.22 checks a socket before
        # reuse only if it was idle for 1 s, and gives up (error 55) after five dead ones. Those new connections are not
        # kept alive: many of them would become idle and be closed by the peer, which would cause more of the same.
        fresh = int(new_connection or (method not in IDEMPOTENT and not length))
        closed_s = self.driver.closed_s.get(self.origin)  # by any upstream: they share the connections to an origin
        if closed_s is not None and clock.monotonic() - closed_s < FRESH_FOR_S:
            fresh = 2
        if fresh != slot.fresh:
            slot.fresh = fresh
            SETOPT(curl, pycurl.FRESH_CONNECT, int(fresh > 0))
            SETOPT(curl, pycurl.FORBID_REUSE, int(fresh == 2))
        self.driver.start(slot, sink)

    @property
    def only_http2(self) -> bool:
        """True if no connection to this origin can use HTTP/1.1: no response of it ever did. libcurl shares keep-alive
        connections between all upstreams of the same origin."""
        return self.http2 and self.origin not in self.driver.http1_origins

    def met_http1(self) -> None:
        """The origin answered in HTTP/1.1 although HTTP/2 was offered."""
        self.driver.http1_origins.add(self.origin)

    def close(self) -> None:
        """Close the free slots now, and the others when they are released."""
        if self.name is not None and not self._closing:
            self.driver.names.leave(self.name)
        self._closing = True
        for free in self._free.values():
            for slot in free:
                slot.close()
            free.clear()

    def describe(self, now_s: float) -> dict[str, object]:
        """The addresses of new connections, and the age of the lookup."""
        if self.name is not None:
            return self.name.describe(now_s)
        return {"addresses": [self._address] if self._address else [], "addresses_age_s": None, "lookup_fault": ""}


def pool_of(endpoint: Endpoint) -> Pool:
    """The pool of an endpoint of an open upstream."""
    pool = endpoint.pool
    assert isinstance(pool, Pool)
    return pool
