"""Clients that present a certificate with one of these names (mutual TLS).

The listener must have `tls.client_ca`: it verifies the chain, the purpose and the time of each certificate in the
handshake, and a certificate that does not pass ends the handshake. The time is compared again for every request, so that
a connection does not outlive its certificate. Behind a proxy that ends TLS there is no certificate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from relayd import clock
from relayd.access.client_certificate import ATTRIBUTES, NAMES, ClientCertificate
from relayd.access.client_request import ClientRequest
from relayd.access.credential import AI_KEY_FIELDS, Credential
from relayd.access.token_claims import ENTRY, Party
from relayd.lazy_regex import lazy_regex
from relayd.schema import section, setting
from relayd.wire.glob import Glob

RANK = 2
_PAIR = lazy_regex(r"([A-Za-z]+)=(.+)", re.DOTALL)


@section()
class ClientNames:
    """The names of client certificates."""

    subject: tuple[str, ...] = setting(default=(), doc="Attributes of the subject, all of which the certificate must have with exactly these values. Known are " + ", ".join(ATTRIBUTES) + ".", example=["O=Example", "CN=worker-1"])
    san: tuple[str, ...] = setting(default=(), doc="Alternative names, one of which the certificate must have: `DNS:`, `URI:`, `email:` or `IP:` and the name, in which `*` matches any text.", example=["DNS:*.workers.example.org", "URI:spiffe://example.org/*"])

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.subject and not self.san:
            yield "", "needs subject or san: else every certificate of the authority would be this consumer"
        for index, text in enumerate(self.subject):
            found = _PAIR.fullmatch(text)
            if found is None:
                yield f"subject[{index}]", "needs the form CN=value"
            elif found[1].upper() not in ATTRIBUTES:
                yield f"subject[{index}]", f"unknown attribute; known: {', '.join(ATTRIBUTES)}"
        for index, text in enumerate(self.san):
            kind, colon, name = text.partition(":")
            if kind not in NAMES or not colon or not name:
                yield f"san[{index}]", f"needs one of {', '.join(f'{one}:' for one in NAMES)} and a name"
            elif not name.strip("*"):
                yield f"san[{index}]", "matches every name of its kind"


@section()
class Options:
    """The names of client certificates."""

    mtls: ClientNames = setting(doc="Names in the certificate that a client presents. The listener needs `tls.client_ca`.")


class Authenticator:
    """One consumer's certificates."""

    rank: ClassVar[int] = RANK
    needs_client_ca: ClassVar[bool] = True

    def __init__(self, options: Options) -> None:
        names = options.mtls
        self._subject = frozenset(_attributes(names.subject))
        self._names = tuple(Glob.of(_folded(text)) for text in names.san)

    def prepare(self) -> None:
        """Nothing is needed."""

    def credentials(self, key_headers: Sequence[str] = AI_KEY_FIELDS) -> Iterable[Credential]:
        """No key is expected."""
        return ()

    def lines(self) -> list[str]:
        """The certificate is no part of the request."""
        return []

    def party(self, request: ClientRequest) -> Party | None:
        """The entry, if the client's certificate has the names and is valid now."""
        certificate = request.certificate()
        return ENTRY if certificate is not None and self._matches(certificate) else None

    def _matches(self, certificate: ClientCertificate) -> bool:
        if clock.wall() >= certificate.expires_s or not self._subject <= certificate.subject:
            return False
        return not self._names or any(
            glob.match(_folded(name)) is not None for name in certificate.names for glob in self._names
        )


def _attributes(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, _, value = text.partition("=")
        yield name.upper(), value


def _folded(name: str) -> str:
    """A name in the form that is compared: host names in lower case (RFC 5280 7.2)."""
    return name.lower() if name.startswith("DNS:") else name
