"""Lookups in the DNS, by the servers in their order; blocking, for a thread.

Records are sorted, because servers rotate them. A CNAME chain in the answer is followed; other chains are the work of
the (recursive) server.
"""

from __future__ import annotations

from types import ModuleType

from relayd import registry
from relayd.dataclass import dataclass
from relayd.upstream.discovered import LookupFault, NoSuchName


@dataclass(frozen=True, slots=True)
class Records:
    """The sorted records of an answer as text, and the smallest time to live of it in seconds."""

    texts: tuple[str, ...]
    ttl_s: float


def _client() -> ModuleType:
    """The module that uses the library; loaded by the first call. Raises ImportError without python3-dnspython."""
    return registry.load("relayd.upstream", "dns_client")


def missing() -> str:
    """The fault of a configuration that needs the library, empty if it is installed."""
    if not registry.is_installed("dns"):  # Suggests: of the package
        return "needs the Python package dnspython, which is not installed (apt install python3-dnspython)"
    _client()  # while the file is read, not in a turn of the event loop
    return ""


def system_servers() -> list[tuple[str, int]]:
    """The servers of /etc/resolv.conf. Raises LookupFault."""
    servers: list[tuple[str, int]] = _client().system_servers()
    return servers


def ask(name: str, kind: str, servers: list[tuple[str, int]], timeout_s: float) -> Records:
    """The records of a name, from the first server that knows. Raises NoSuchName, or LookupFault with the reason of each
    server."""
    reasons = []
    for host, port in servers:
        server = f"{f'[{host}]' if ':' in host else host}:{port}"
        try:
            return Records(*_client().ask_server(name, kind, host, port, timeout_s))
        except NoSuchName as error:  # an answer, which another server would repeat
            raise NoSuchName(f"{server} answers {error} for {name} {kind}") from None
        except LookupFault as error:
            reasons.append(f"{server} {error}")
    raise LookupFault(f"{name} {kind}: {'; '.join(reasons) or 'there is no name server'}")


@dataclass(frozen=True, slots=True)
class Target:
    """A target of SRV records; `priority` counts from 0, `weight` from 1."""

    host: str
    port: int
    weight: int
    priority: int


def targets_of(records: tuple[str, ...], most: int, most_weight: int) -> list[Target]:
    """The targets of SRV records in the order of priority, at most `most`. A single target "." means that the service
    does not exist (RFC 2782): no targets."""
    parsed = []
    for record in records:
        priority, weight, port, host = record.split()
        if host != "." and port != "0":
            parsed.append((int(priority), int(weight), int(port), host))
    parsed = sorted(parsed)[:most]
    ranks = {number: rank for rank, number in enumerate(sorted({one[0] for one in parsed}))}
    largest = max((one[1] for one in parsed), default=0)
    scale = most_weight / largest if largest > most_weight else 1.0
    return [Target(host, port, max(1, round(weight * scale)), ranks[priority]) for priority, weight, port, host in parsed]
