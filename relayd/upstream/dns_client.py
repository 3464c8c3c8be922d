"""Questions to name servers, by python3-dnspython; blocking, for a thread.

The library has some 150 modules, of the HTTP libraries that it may use too. So this module is loaded by its only user,
upstream/discovery/_dns_query.py, and only in a process that asks name servers.
"""

from __future__ import annotations

from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver

from relayd.upstream.discovered import LookupFault, NoSuchName


def system_servers() -> list[tuple[str, int]]:
    """The servers of /etc/resolv.conf. Raises LookupFault."""
    try:
        return [(str(one), 53) for one in dns.resolver.Resolver(configure=True).nameservers]
    except dns.exception.DNSException as error:
        raise LookupFault(f"/etc/resolv.conf: {error}") from None


def ask_server(name: str, kind: str, host: str, port: int, timeout_s: float) -> tuple[tuple[str, ...], float]:
    """The sorted records of an answer, and their smallest time to live in seconds. Raises NoSuchName, LookupFault."""
    message: Any
    try:
        query = dns.message.make_query(name, kind)
        message, _ = dns.query.udp_with_fallback(query, host, timeout=timeout_s, port=port, ignore_unexpected=True)
    except dns.exception.Timeout:
        raise LookupFault(f"has not answered for {timeout_s:g} s") from None
    except (dns.exception.DNSException, OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or f"{type(error).__name__} {error}".strip()
        raise LookupFault(f"cannot be asked: {why}") from None
    rcode = message.rcode()
    if rcode == dns.rcode.NXDOMAIN:
        raise NoSuchName("NXDOMAIN")
    if rcode != dns.rcode.NOERROR:
        raise LookupFault(f"answers {dns.rcode.to_text(rcode)}")
    try:
        chain: Any = message.resolve_chaining()
    except dns.exception.DNSException as error:
        raise LookupFault(f"sends an invalid answer: {error}") from None
    if chain.answer is None:
        raise NoSuchName("no record")
    return tuple(sorted(str(one.to_text()) for one in chain.answer)), float(chain.minimum_ttl)
