"""Server-side TLS: loads certificates, selects them by the client's server name (SNI), checks PEM files.

`relayd check`, a reload and a start use the same functions, for listeners and for upstreams.
"""

from __future__ import annotations

import ssl

from relayd import registry
from relayd.acme.state import State
from relayd.config.listener import Certificate, Tls
from relayd.errors import ConfigError, Finding
from relayd.schema.files import FileFault, read_file
from relayd.server.expiry import Validity, authorities_end_s, validity_of_all

MAX_BYTES = 1 << 20
CHALLENGE_PROTOCOL = "acme-tls/1"
KEY_HINT = "the key must belong to the first certificate of the file"


class PemFault(ValueError):
    """A PEM file is unusable. The text names the file."""

    def __init__(self, file: str, message: str, suggestion: str = "") -> None:
        self.file, self.suggestion = file, suggestion
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


def load_authorities(path: str, context: ssl.SSLContext | None = None) -> None:
    """Load certificate authorities into a context; without one, only check that the file can be used. Raises
    PemFault."""
    validity_of(path)
    try:
        (context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)).load_verify_locations(path)
    except ssl.SSLError as error:
        raise PemFault(path, f"cannot be used: {error.reason or 'a certificate in it is damaged'}") from None


def validity_of(path: str) -> Validity:
    """The period in which all certificates of a file are valid. Raises PemFault."""
    raw = _bytes(path)
    try:
        return validity_of_all(raw)
    except ValueError as error:
        raise PemFault(path, str(error)) from None


def authorities_end_s_of(path: str) -> float | None:
    """When the first authority of a file expires (expiry.authorities_end_s). Raises PemFault."""
    return authorities_end_s(_bytes(path))


def _bytes(path: str) -> bytes:
    try:
        return read_file(path, MAX_BYTES)[0]
    except FileFault as fault:
        raise PemFault(path, f"cannot be read: {fault}") from None


def _empty_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    if tls.client_ca is not None:
        load_authorities(tls.client_ca, context)
        # A certificate that is presented must be valid, also if none is required.
        context.verify_mode = ssl.CERT_REQUIRED if tls.client_certificate == "required" else ssl.CERT_OPTIONAL
    return context


def _context(tls: Tls, certificate: Certificate, path: str) -> ssl.SSLContext:
    context = _empty_context(tls)
    try:
        load_pair(context, certificate.cert, certificate.key)
    except PemFault as fault:
        raise ConfigError([Finding(certificate.cert, 0, 0, path, str(fault), fault.suggestion)]) from fault
    return context


def names_of(certificate: Certificate, path: str) -> tuple[str, ...]:
    """The DNS names of a certificate, in lower case. Raises ConfigError."""
    try:
        names: tuple[str, ...] = registry.load("relayd.server", "certificate").read(certificate.cert).names
    except ValueError as error:
        fault = PemFault(certificate.cert, f"cannot be read: {error}")
        raise ConfigError([Finding(certificate.cert, 0, 0, path, str(fault))]) from error
    return names


def make_context(name: str, tls: Tls, state: State | None = None) -> ssl.SSLContext:
    """The TLS context of a listener. `state`: certificates of `tls.acme`; missing and unusable ones are skipped.

    Raises ConfigError for configured files that cannot be read or do not match.
    """
    by_name: dict[str, ssl.SSLContext] = {}
    contexts = []
    try:
        default = _empty_context(tls)
    except PemFault as fault:
        path = f"listeners.{name}.tls.client_ca"
        raise ConfigError([Finding(fault.file, 0, 0, path, str(fault), fault.suggestion)]) from fault
    domains = () if tls.acme is None else tuple(domain.lower() for domain in tls.acme.domains)
    for number, certificate in enumerate(tls.certificates):
        path = f"listeners.{name}.tls.certificates[{number}]"
        context = _context(tls, certificate, path)
        contexts.append(context)
        for host in names_of(certificate, path) if len(tls.certificates) + len(domains) > 1 else ():
            by_name.setdefault(host, context)
    for domain in domains:
        obtained = None if state is None else _obtained(tls, state.certificate_file(domain))
        if obtained is not None:
            contexts.append(obtained)
            by_name.setdefault(domain, obtained)
    missing = frozenset(domains) - by_name.keys()
    default = contexts[0] if contexts else default

    def choose(sock: ssl.SSLObject, server_name: str | None, context: ssl.SSLContext) -> int | None:
        lowered = (server_name or "").lower()
        found = by_name.get(lowered)
        if found is None and lowered not in missing:
            found = by_name.get("*." + lowered.partition(".")[2])
        if found is None and (lowered in missing or not contexts):
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR  # no certificate yet; Caddy does the same
        if found is not None and found is not default:
            sock.context = found
        return None

    default.sni_callback = choose
    return default


def _obtained(tls: Tls, file: str) -> ssl.SSLContext | None:
    """The context of a certificate from ACME; None if it does not exist or cannot be used."""
    context = _empty_context(tls)
    try:
        load_pair(context, file, file)
    except PemFault:
        return None
    return context


def make_challenge_context(file: str) -> ssl.SSLContext | None:
    """The context that answers a pending challenge of tls-alpn-01 (RFC 8737 3); None if it is not pending."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([CHALLENGE_PROTOCOL])
    try:
        load_pair(context, file, file)
    except PemFault:
        return None
    return context
