"""From the `upstreams:` of the configuration to what an upstream is told when it is made."""

from __future__ import annotations

import ipaddress
import re

from relayd.config.upstream import Auth, Upstream
from relayd.upstream.spec import AuthSpec, EndpointSpec, Timeouts, TlsSpec, UpstreamSpec

_PATH = re.compile(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*)?")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]*[A-Za-z0-9_.])?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def upstream_spec(name: str, config: Upstream) -> UpstreamSpec:
    """The spec of one upstream. Raises ValueError for an endpoint that cannot be understood."""
    if not config.endpoints:
        raise ValueError("endpoints: at least one is needed")
    limits, tls, pool = config.timeouts, config.tls, config.pool
    return UpstreamSpec(
        name=name,
        endpoints=tuple(endpoint_spec(endpoint.url) for endpoint in config.endpoints),
        protocol=config.protocol,
        auth=None if config.auth is None else auth_spec(config.auth),
        http2=config.http == "2",
        client_host=config.host == "client",
        tls=TlsSpec(
            verify=tls.verify, ca=tls.ca, cert=tls.cert, key=tls.key, server_name=tls.server_name,
            min_version=tls.min_version,
        ),
        timeouts=Timeouts(
            connect_s=float(limits.connect), first_byte_s=float(limits.first_byte), idle_s=float(limits.idle),
            total_s=float(limits.total),
        ),
        max_idle_age_s=float(pool.max_idle_age),
        max_lifetime_s=float(pool.max_lifetime),
        max_connections=pool.max_connections,
        dns_ttl_s=float(pool.dns_ttl),
        response_header_bytes=int(config.response_header),
    )


def auth_spec(auth: Auth) -> AuthSpec:
    """The key that relayd adds for an upstream."""
    if auth.bearer is not None:
        return AuthSpec("bearer", "Authorization", auth.bearer)
    if auth.header is not None:
        return AuthSpec("header", auth.header.name, auth.header.value)
    if auth.query is not None:
        return AuthSpec("query", auth.query.name, auth.query.value)
    raise ValueError("auth: needs bearer, header or query")


def endpoint_spec(url: str) -> EndpointSpec:
    """One address. Raises ValueError, whose text never repeats the URL: it may hold what should not be shown."""
    scheme, mark, rest = url.partition(":")
    if scheme == "unix" and mark:
        return _unix(rest)
    if scheme not in _DEFAULT_PORTS or not rest.startswith("//"):
        raise ValueError("an endpoint begins with http://, https:// or unix:/")
    authority, slash, path = rest[2:].partition("/")
    if "@" in authority:
        raise ValueError("an endpoint holds no user or password; use auth")
    if "?" in url or "#" in url:
        raise ValueError("an endpoint holds no query and no fragment; a key in the query is auth: {query: ...}")
    host, port = _host_port(authority)
    number = _DEFAULT_PORTS[scheme] if port is None else port
    shown = host if number == _DEFAULT_PORTS[scheme] else f"{host}:{number}"
    return EndpointSpec(f"{scheme}://{shown}", _base(slash + path), f"{host}:{number}")


def _unix(rest: str) -> EndpointSpec:
    socket, colon, base = rest.partition(":")
    if not socket.startswith("/") or (colon and not base.startswith("/")):
        raise ValueError("a Unix socket is written unix:/path or unix:/path:/base")
    if len(socket.encode()) > 107 or "\0" in socket:
        raise ValueError("the path of a Unix socket has at most 107 bytes")
    return EndpointSpec("http://localhost", _base(base), f"unix:{socket}", unix=socket)


def _host_port(authority: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d{0,5}))?", authority)
    if match is None:
        raise ValueError("an endpoint's host is a name, an IPv4 address or an IPv6 address in brackets")
    host = match[1].lower()
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError("the address in brackets is no IPv6 address") from None
    else:
        if not host.isascii():
            host = host.encode("idna").decode()
        if not _NAME.fullmatch(host):
            raise ValueError("an endpoint needs the name or address of a host")
    port = int(match[2]) if match[2] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError("a port lies between 1 and 65535")
    return host, port


def _base(path: str) -> str:
    """A base path without the slash at its end, since the request's path brings its own."""
    if not _PATH.fullmatch(path):
        raise ValueError("an endpoint's path holds characters that must be percent-encoded")
    return path.rstrip("/")
