"""Rules that concern several listeners: certificates from ACME, their challenges, and redirects to HTTPS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relayd.config.acme import Acme
from relayd.config.address import AddressError, parse_listen
from relayd.config.listener import Listener

HTTP_PORT, HTTPS_PORT = 80, 443
UNKNOWN = -1  # the port of a Unix socket or of a socket from systemd


def faults(listeners: Mapping[str, Listener]) -> Iterator[tuple[str, str]]:
    """Two listeners that want different certificates for one name, or share them with different keys."""
    owners: dict[str, tuple[str, Acme]] = {}
    keys = {name: acme.sharing_key for name, acme in acme_sections(listeners)}
    for name, key in keys.items():
        if key != (first := next(iter(keys.values()))):
            other = next(iter(keys))
            yield f"listeners.{name}.tls.acme.sharing_key", (
                f"listeners.{other} has another sharing_key; all listeners need the same one" if key is not None and first is not None
                else f"must be the same in listeners.{other}: all certificates are shared, or none"
            )
    for name, acme in acme_sections(listeners):
        for index, domain in enumerate(acme.domains):
            other, theirs = owners.setdefault(domain.lower(), (name, acme))
            if theirs != acme:
                yield f"listeners.{name}.tls.acme.domains[{index}]", f"listeners.{other} has other settings for this name"


def cautions(listeners: Mapping[str, Listener], has_shared_store: bool) -> Iterator[tuple[str, str]]:
    """Challenges that reach relayd only if another device forwards them, redirects to nowhere, and certificates that
    several machines would order each for itself."""
    for name, acme in acme_sections(listeners):
        if has_shared_store and acme.sharing_key is None:
            yield f"listeners.{name}.tls.acme.sharing_key", "is not set: machines that share this store do not share certificates, each orders for itself"
        elif acme.sharing_key is not None and not has_shared_store:
            yield f"listeners.{name}.tls.acme.sharing_key", "needs store: {kind: redis}; without it each machine orders for itself"
    for name, acme in acme_sections(listeners):
        kinds = [kind for kind in acme.challenges if kind != "dns-01"]
        unsure = [kind for kind in kinds if not is_reachable(kind, name, listeners)]
        if unsure == kinds or acme.challenges != Acme(domains=()).challenges:
            for kind in unsure:
                yield f"listeners.{name}.tls.acme.challenges", _reach(kind)
    for name, listener in listeners.items():
        if listener.https_redirect and not any(one.tls is not None for one in listeners.values()):
            yield f"listeners.{name}.https_redirect", "no listener has tls; clients are sent to port 443 of this host, which relayd does not serve"


def acme_sections(listeners: Mapping[str, Listener]) -> Iterator[tuple[str, Acme]]:
    """The listeners with `tls.acme`, with that section."""
    for name, listener in listeners.items():
        if listener.tls is not None and listener.tls.acme is not None:
            yield name, listener.tls.acme


def challenge_kinds(name: str, domain: str, listeners: Mapping[str, Listener]) -> tuple[str, ...]:
    """The challenges to try for a domain of a listener, in their order; of http-01 and tls-alpn-01, the one that certainly
    reaches relayd first. http-01 is left out without a plain listener, unless it is the only one."""
    kinds = dict(acme_sections(listeners))[name].kinds_for(domain)
    plain = any(one.tls is None for one in listeners.values())
    usable = [kind for kind in kinds if kind != "http-01" or plain]
    by_port = iter(sorted((one for one in usable if one != "dns-01"), key=lambda one: not is_reachable(one, name, listeners)))
    return tuple(one if one == "dns-01" else next(by_port) for one in usable) or kinds


def is_reachable(kind: str, name: str, listeners: Mapping[str, Listener]) -> bool:
    """True if a challenge reaches relayd at the port that RFC 8555 8.3 and RFC 8737 define."""
    if kind == "http-01":
        return any(port_of(one) in (HTTP_PORT, UNKNOWN) for one in listeners.values() if one.tls is None)
    return kind == "dns-01" or port_of(listeners[name]) in (HTTPS_PORT, UNKNOWN)


def port_of(listener: Listener) -> int:
    try:
        address = parse_listen(listener.address)
    except AddressError:  # reported by the listener itself
        return UNKNOWN
    return address.port if address.kind == "tcp" else UNKNOWN


def redirect_port(listeners: Mapping[str, Listener]) -> int:
    """The port to which `https_redirect` sends clients: 443 if a listener with TLS has it, else that of the first one."""
    ports = [port_of(one) for one in listeners.values() if one.tls is not None]
    return HTTPS_PORT if not ports or HTTPS_PORT in ports or ports[0] <= 0 else ports[0]


def _reach(kind: str) -> str:
    if kind == "http-01":
        return "no plain listener has port 80, to which the authority connects for http-01; this works only if port 80 is forwarded to a plain listener"
    return "this listener is not at port 443, to which the authority connects for tls-alpn-01; this works only if port 443 is forwarded to it without ending TLS"
