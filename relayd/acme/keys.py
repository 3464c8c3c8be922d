"""Keys, certificate requests and challenge certificates, by python3-cryptography.

Only the thread that orders loads this module, because the library is large.
"""

from __future__ import annotations

import base64
import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from relayd import clock
from relayd.dataclass import dataclass

ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737 3
CHALLENGE_LIFETIME_S = 86400
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Leaf:
    """The first certificate of a chain. `identifier`: its unique identifier for renewal information (RFC 9773 4.1),
    empty if the certificate does not name its authority's key."""

    names: tuple[str, ...]
    begins_s: float
    ends_s: float
    identifier: str


def new_key(kind: str) -> PrivateKey:
    """A key of the kind `ecdsa` (P-256) or `rsa` (2048 bits)."""
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def request_pem(key: PrivateKey, name: str) -> bytes:
    """The certificate request (PKCS #10) for a name. No common name is set, because it is limited to 64 characters."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def challenge_pem(name: str, authorization: bytes) -> bytes:
    """Key and certificate that answer tls-alpn-01 for a name (RFC 8737 3). `authorization`: the key authorization."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(authorization)
    key, now = new_key("ecdsa"), datetime.datetime.fromtimestamp(clock.wall(), datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(seconds=CHALLENGE_LIFETIME_S))
        .not_valid_after(now + datetime.timedelta(seconds=CHALLENGE_LIFETIME_S))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, b"\x04\x20" + digest.finalize()), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)


def read_leaf(pem: bytes) -> Leaf:
    """The first certificate of a file. Raises ValueError for a file without one, or with a key that is not its own."""
    start = pem.find(b"-----BEGIN CERTIFICATE-----")
    if start < 0:
        raise ValueError("holds no certificate")
    certificate = x509.load_pem_x509_certificate(pem[start:])
    key = serialization.load_pem_private_key(pem, None)
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*spki) != certificate.public_key().public_bytes(*spki):
        raise ValueError("holds a certificate and a key that do not match")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        found = ()
    begins_s, ends_s = _wall(certificate, "not_valid_before"), _wall(certificate, "not_valid_after")
    return Leaf(found, begins_s, ends_s, _identifier(certificate))


def _wall(certificate: x509.Certificate, name: str) -> float:
    later = getattr(certificate, f"{name}_utc", None)  # cryptography 42 and newer
    moment: datetime.datetime = later if later is not None else getattr(certificate, name).replace(tzinfo=datetime.UTC)
    return moment.timestamp()


def _identifier(certificate: x509.Certificate) -> str:
    try:
        authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return ""
    if authority is None:
        return ""
    serial = certificate.serial_number
    content = serial.to_bytes(serial.bit_length() // 8 + 1, "big")  # the content of a positive DER INTEGER
    return f"{_base64url(authority)}.{_base64url(content)}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
