"""The certificate of a client, as an authenticator compares it: subject, alternative names, end of validity."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

from relayd.dataclass import dataclass

# The attributes of a subject by the long names of OpenSSL, with their short names (RFC 4514 3, RFC 5280 appendix A).
_SHORT = {
    "commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C",
    "stateOrProvinceName": "ST", "localityName": "L", "streetAddress": "STREET", "domainComponent": "DC",
    "userId": "UID", "serialNumber": "SERIALNUMBER", "emailAddress": "EMAILADDRESS", "title": "TITLE",
    "givenName": "GN", "surname": "SN",
}
ATTRIBUTES = tuple(_SHORT.values())
NAMES = ("DNS", "URI", "email", "IP")


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate whose chain the listener has verified. `subject` are pairs of ATTRIBUTES and values; `names` the
    alternative names as one of NAMES, a colon and the name. `expires_s` is the end of its validity, in Unix seconds."""

    subject: frozenset[tuple[str, str]]
    names: tuple[str, ...]
    expires_s: float


def no_certificate() -> ClientCertificate | None:
    """The certificate of a client without one."""
    return None


def certificate_of(peer: Mapping[str, Any] | None) -> ClientCertificate | None:
    """The certificate that `SSLSocket.getpeercert` returns; None if the client has presented none, or none that was
    verified. Names with control characters are left out, because programs read them differently."""
    if not peer:
        return None
    subject = {
        (_SHORT[name], value) for part in peer.get("subject", ()) for name, value in part
        if name in _SHORT and value.isprintable()
    }
    names = tuple(name for name in _names(peer) if name.isprintable())
    return ClientCertificate(frozenset(subject), names, float(ssl.cert_time_to_seconds(peer["notAfter"])))


def _names(peer: Mapping[str, Any]) -> Iterator[str]:
    for kind, value in peer.get("subjectAltName", ()):
        if kind == "IP Address":
            try:
                yield f"IP:{ipaddress.ip_address(value.strip())}"
            except ValueError:
                continue
        elif kind in NAMES:
            yield f"{kind}:{value}"
