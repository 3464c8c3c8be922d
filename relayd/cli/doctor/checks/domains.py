"""The names of listeners' certificates and of routes' hosts: whether each resolves, and to this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncGenerator

from relayd.cli.diagnosis import Finding, fine, unknown, warning
from relayd.cli.doctor.examination import Context
from relayd.config.https import acme_sections
from relayd.config.model import Config
from relayd.server.certificate import read
from relayd.upstream.transport.names import lookup

NEEDS_CONFIGURATION = True
MOST = 50


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    names = await context.in_thread(names_of, context.config)
    for done in asyncio.as_completed([context.in_thread(judge, name) for name in names[:MOST]]):
        yield await done
    if len(names) > MOST:
        yield unknown("domains", f"{len(names) - MOST} further names", "check them with: getent hosts NAME")


def names_of(config: Config) -> list[str]:
    """The names of this service, without wildcards, addresses and names of this machine."""
    found: list[str] = [host for route in config.routes for host in route.match.host]
    for _, section in acme_sections(config.listeners):
        found += section.domains
    for listener in config.listeners.values():
        for certificate in listener.tls.certificates if listener.tls else ():
            try:
                found += read(certificate.cert).names
            except (OSError, ValueError):
                continue  # the check `configuration` reports it
    return sorted({name.lower().rstrip(".") for name in found if is_public(name)})


def is_public(name: str) -> bool:
    """True for a host name that clients look up."""
    try:
        ipaddress.ip_address(name.strip("[]"))
        return False
    except ValueError:
        low = name.lower().rstrip(".")
        return "*" not in low and "." in low and ":" not in low and not low.endswith((".localhost", ".invalid"))


def judge(name: str) -> Finding:
    """Look up one name. Blocks."""
    addresses, fault = lookup(name, 443)
    subject = f"domain {name}"
    if not addresses:
        return warning(subject, f"does not resolve: {fault}", "add an A or AAAA record that names this server")
    listed = ", ".join(addresses)
    if any(is_local(address) for address in addresses):
        return fine(subject, f"resolves to this machine: {listed}")
    cure = "right if a load balancer, NAT or CDN is in front of this machine; else correct the record"
    return unknown(subject, f"resolves to {listed}, no address of this machine", cure)


def is_local(address: str) -> bool:
    """True if this machine has the address: only then a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True
