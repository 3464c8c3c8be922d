"""Server-side TLS: loads certificates from files, selects them by the client's server name (SNI), checks PEM files.

`relayd check`, a reload and a start use the same functions, for listeners and for upstreams.
"""

from __future__ import annotations

import ssl

from relayd import registry
from relayd.config.listener import Certificate, Tls
from relayd.errors import ConfigError, Finding
from relayd.schema.files import FileFault, read_file
from relayd.server.expiry import Validity, validity_of_all

MAX_BYTES = 1 << 20
KEY_HINT = "the key must belong to the first certificate of the file"


class PemFault(ValueError):
    """A PEM file is unusable. The text names the file."""

    def __init__(self, file: str, message: str, hint: str = "") -> None:
        self.file, self.hint = file, hint
        super().__init__(f"{file}: {message}")


class _PasswordRequired(Exception):
    """The key is encrypted. Raised by the password callback, without which OpenSSL would prompt on the terminal."""


def _no_password() -> str:
    raise _PasswordRequired


def load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Load a certificate chain and its key into a context. Raises PemFault."""
    validity_of(cert)
    if b"PRIVATE KEY-----" not in _bytes(key):
        raise PemFault(key, "holds no private key in PEM form")
    try:
        context.load_cert_chain(cert, key, _no_password)
    except _PasswordRequired:
        raise PemFault(key, "is encrypted, and relayd has no password for it") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise PemFault(key, f"cannot be used: it is not the key of {cert}", KEY_HINT) from None
        raise PemFault(key, f"cannot be used with {cert}: {error.reason or 'one of them is damaged'}") from None
    except OSError as error:
        raise PemFault(cert, f"cannot be read: {error.strerror}") from None


def load_authorities(path: str) -> None:
    """Check that a file of certificate authorities can be used. Raises PemFault."""
    validity_of(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise PemFault(path, f"cannot be used: {error.reason or 'a certificate in it is damaged'}") from None


def validity_of(path: str) -> Validity:
    """The period in which all certificates of a file are valid. Raises PemFault."""
    raw = _bytes(path)
    try:
        return validity_of_all(raw)
    except ValueError as error:
        raise PemFault(path, str(error)) from None


def _bytes(path: str) -> bytes:
    try:
        return read_file(path, MAX_BYTES)[0]
    except FileFault as fault:
        raise PemFault(path, f"cannot be read: {fault}") from None


def _context(tls: Tls, certificate: Certificate, path: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        load_pair(context, certificate.cert, certificate.key)
    except PemFault as fault:
        raise ConfigError([Finding(certificate.cert, 0, 0, path, str(fault), fault.hint)]) from fault
    return context


def names_of(certificate: Certificate, path: str) -> tuple[str, ...]:
    """The DNS names of a certificate, in lower case. Raises ConfigError."""
    try:
        names: tuple[str, ...] = registry.load("relayd.server", "certificate").read(certificate.cert).names
    except ValueError as error:
        fault = PemFault(certificate.cert, f"cannot be read: {error}")
        raise ConfigError([Finding(certificate.cert, 0, 0, path, str(fault))]) from error
    return names


def make_context(name: str, tls: Tls) -> ssl.SSLContext:
    """The TLS context of a listener. Raises ConfigError for files that cannot be read or do not match."""
    by_name: dict[str, ssl.SSLContext] = {}
    contexts = []
    for number, certificate in enumerate(tls.certificates):
        path = f"listeners.{name}.tls.certificates[{number}]"
        context = _context(tls, certificate, path)
        contexts.append(context)
        for host in names_of(certificate, path) if len(tls.certificates) > 1 else ():
            by_name.setdefault(host, context)
    default = contexts[0]

    def choose(sock: ssl.SSLObject, server_name: str | None, context: ssl.SSLContext) -> None:
        if server_name:
            lowered = server_name.lower()
            found = by_name.get(lowered) or by_name.get("*." + lowered.partition(".")[2])
            if found is not None and found is not default:
                sock.context = found

    default.sni_callback = choose
    return default
