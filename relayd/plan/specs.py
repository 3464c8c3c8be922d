"""From the `upstreams:` of the configuration to what an upstream is told when it is made."""

from __future__ import annotations

from relayd.config.address import parse_endpoint
from relayd.config.upstream import Auth, Upstream
from relayd.upstream.spec import AuthSpec, EndpointSpec, Timeouts, TlsSpec, UpstreamSpec


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
    address = parse_endpoint(url)
    base = address.path.rstrip("/")  # the request's path brings its own slash
    if address.unix is not None:
        return EndpointSpec("http://localhost", base, f"unix:{address.unix}", unix=address.unix)
    host = f"[{address.host}]" if ":" in address.host else address.host
    return EndpointSpec(f"{address.scheme}://{address.authority}", base, f"{host}:{address.port}")
