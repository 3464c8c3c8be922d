"""Compiles `upstreams:` of the configuration into specs of upstreams."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from relayd.config.address import AddressError, parse_endpoint
from relayd.config.discovery import Discovery, chosen
from relayd.config.resilience import Breaker, Health, Retries, status_range
from relayd.config.upstream import Auth, Endpoint, Upstream
from relayd.protocols.dialect import Options
from relayd.schema.plugins import options_of
from relayd.upstream.balancing import FOLDER as BALANCERS
from relayd.upstream.balancing import numbers_endpoints
from relayd.upstream.discovered import Address
from relayd.upstream.spec import (
    AuthSpec,
    BalanceSpec,
    BreakerSpec,
    DiscoverySpec,
    EndpointSpec,
    HealthSpec,
    RetrySpec,
    Timeouts,
    TlsSpec,
    UpstreamSpec,
)


def upstream_spec(name: str, config: Upstream) -> UpstreamSpec:
    """The spec of one upstream. Raises ValueError for an invalid endpoint."""
    if not config.endpoints and config.discovery is None:
        raise ValueError("endpoints: at least one is needed")
    discovery = discovery_spec(config.discovery)
    limits, tls, pool = config.timeouts, config.tls, config.pool
    keys = () if config.auth is None else auth_specs(config.auth)
    return UpstreamSpec(
        name=name,
        endpoints=endpoint_specs(map(address_of, config.endpoints), config.balance),
        protocol=config.protocol,
        auth=keys[0] if keys else None,
        spare_keys=keys[1:],
        http2=config.http == "2",
        client_host=config.host == "client",
        relocate=config.rewrite_location,
        tls=TlsSpec(
            verify=tls.verify, ca=tls.ca, cert=tls.cert, key=tls.key, server_name=tls.server_name,
            min_version=tls.min_version, stamps=stamps_of(tls.ca, tls.cert, tls.key),
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
        balance=balance_spec(config),
        breaker=breaker_spec(config.breaker),
        retries=None if config.retries is None else retry_spec(config.retries),
        health=None if config.health is None else health_spec(config.health),
        list_models=config.list_models,
        dialect=Options(**{name: getattr(config.dialect, name) for name in Options.__slots__}),
        discovery=discovery,
        waits_for_endpoint=discovery is not None and config.limits.queue > 0,
        session_affinity=config.affinity == "session",
    )


def stamps_of(*paths: str | None) -> tuple[str, ...]:
    """Stamps that change when one of these files changes."""
    found = []
    for path in paths:
        if path is not None:
            try:
                status = os.stat(path)
            except OSError:  # already reported by the check of the section
                continue
            found.append(f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}")
    return tuple(found)


def discovery_spec(config: Discovery | None) -> DiscoverySpec | None:
    """The kind of discovery, with its options."""
    return None if config is None else DiscoverySpec(*chosen(config), config.max_endpoints)


def balance_spec(config: Upstream) -> BalanceSpec:
    """The kind of balancer, with its options."""
    return BalanceSpec(config.balance, options_of(config, BALANCERS, config.balance), float(config.slow_start))


def breaker_spec(config: Breaker | None) -> BreakerSpec | None:
    """The breaker of an upstream. Without a configured breaker, failing endpoints are skipped but no request is
    refused. Returns None for `breaker: off`."""
    if config is None:
        return BreakerSpec(refuses=False)
    if not config.enabled:
        return None
    return BreakerSpec(
        failures=config.failures, rate=config.rate, window_s=float(config.window), minimum=config.minimum,
        open_s=float(config.open_for), max_open_s=float(max(config.open_for, config.max_open_for)),
        probes=config.probes, successes=config.successes,
        cooldown_s=float(config.rest), max_cooldown_s=float(max(config.rest, config.max_rest)),
    )


def retry_spec(config: Retries) -> RetrySpec:
    """The retry policy."""
    return RetrySpec(
        attempts=config.attempts, backoff_s=float(config.backoff),
        max_backoff_s=float(max(config.backoff, config.max_backoff)),
        on=frozenset(config.on), per_attempt_s=float(config.per_attempt), share=config.budget.share,
        minimum=config.budget.minimum, window_s=float(config.budget.window), idempotent=config.idempotent,
    )


def health_spec(config: Health) -> HealthSpec:
    """The active check."""
    ranges = (status_range(text) for text in config.status)
    return HealthSpec(
        kind=config.kind, target=config.path, statuses=tuple(one for one in ranges if one is not None),
        body=(config.body or "").encode(), interval_s=float(config.interval), timeout_s=float(config.timeout),
        healthy=config.healthy, unhealthy=config.unhealthy, auth=config.auth,
    )


def auth_specs(auth: Auth) -> tuple[AuthSpec, ...]:
    """The keys that relayd adds for an upstream, all sent in the same way. Raises ValueError without any key."""
    kind, name, values = "bearer", "Authorization", auth.bearer
    if auth.header is not None:
        kind, name, values = "header", auth.header.name, auth.header.value
    elif auth.query is not None:
        kind, name, values = "query", auth.query.name, auth.query.value
    if not values:
        raise ValueError("auth: needs a key in bearer, header or query")
    return tuple(AuthSpec(kind, name, value) for value in values)


def address_of(config: Endpoint) -> Address:
    """The values of an entry of `endpoints:`."""
    return Address(config.url, config.weight, config.priority, config.limits.requests)


def endpoint_specs(addresses: Iterable[Address], balance: str) -> tuple[EndpointSpec, ...]:
    """The specs of addresses; with some kinds of `balance:` the default priority of an endpoint is its index.

    Raises ValueError for an invalid URL.
    """
    numbered = numbers_endpoints(balance)
    return tuple(
        replace(
            endpoint_spec(one.url), weight=one.weight, limit=one.limit, instance=one.instance, run=one.run,
            priority=one.priority if one.priority is not None else index if numbered else 0,
        )
        for index, one in enumerate(addresses)
    )


def discovered_specs(
    addresses: Iterable[Address], discovery: DiscoverySpec, balance: str
) -> tuple[tuple[EndpointSpec, ...], str]:
    """The specs of discovered addresses, without duplicates and invalid ones, and a note why some were left out."""
    usable: dict[str, Address] = {}
    notes: list[str] = []
    for one in addresses:
        try:
            parse_endpoint(one.url)
        except AddressError as fault:
            notes.append(f"an address that {fault} was left out")
            continue
        usable.setdefault(one.url, one)
    used = list(usable.values())[: discovery.max_endpoints]
    if len(usable) > len(used):
        notes.append(f"of {len(usable)} addresses the first {len(used)} are used (max_endpoints)")
    return endpoint_specs(used, balance), "; ".join(dict.fromkeys(notes))


def endpoint_spec(url: str) -> EndpointSpec:
    """One address. Raises ValueError; the message never repeats the URL, which may contain user information."""
    address = parse_endpoint(url)
    base = address.path.rstrip("/")  # the request's path begins with a slash
    if address.unix is not None:
        return EndpointSpec("http://localhost", base, f"unix:{address.unix}", unix=address.unix)
    host = f"[{address.host}]" if ":" in address.host else address.host
    return EndpointSpec(f"{address.scheme}://{address.authority}", base, f"{host}:{address.port}")
