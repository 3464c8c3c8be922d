"""Server-side TLS: certificates from files, chosen by the name a client asks for (SNI)."""

from __future__ import annotations

import ssl
from pathlib import Path

from relayd import registry
from relayd.config.listener import Certificate, Tls
from relayd.errors import ConfigError, Finding


def _context(tls: Tls, certificate: Certificate, path: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate.cert, certificate.key)
    except ssl.SSLError as error:
        raise ConfigError([Finding(certificate.cert, 0, 0, path, f"cannot be used: {error.reason}",
                                   "the key must belong to the first certificate of the file")]) from error
    except OSError as error:
        raise ConfigError([Finding(certificate.cert, 0, 0, path, f"cannot be read: {error.strerror}")]) from error
    return context


def names_of(certificate: Certificate, path: str) -> tuple[str, ...]:
    """The DNS names of a certificate, in lower case. Raises ConfigError."""
    try:
        names: tuple[str, ...] = registry.load("relayd.server", "certificate").read(certificate.cert).names
    except ValueError as error:
        raise ConfigError([Finding(certificate.cert, 0, 0, path, f"cannot be read: {error}")]) from error
    return names


def make_context(name: str, tls: Tls) -> ssl.SSLContext:
    """The context of a listener. Raises ConfigError for files that cannot be read or do not fit."""
    by_name: dict[str, ssl.SSLContext] = {}
    contexts = []
    for number, certificate in enumerate(tls.certificates):
        path = f"listeners.{name}.tls.certificates[{number}]"
        if not Path(certificate.cert).is_file():
            raise ConfigError([Finding(certificate.cert, 0, 0, path, "no such file")])
        context = _context(tls, certificate, path)
        contexts.append(context)
        for host in names_of(certificate, path) if len(tls.certificates) > 1 else ():
            by_name.setdefault(host, context)
    default = contexts[0]

    def choose(sock: ssl.SSLObject, asked: str | None, context: ssl.SSLContext) -> None:
        if asked:
            low = asked.lower()
            found = by_name.get(low) or by_name.get("*." + low.partition(".")[2])
            if found is not None and found is not default:
                sock.context = found

    default.sni_callback = choose
    return default
