"""Certificates of any age and for any name, of an authority of the test's own or self-signed."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate with its key, in PEM files."""

    cert: str
    key: str
    certificate: x509.Certificate
    private: ec.EllipticCurvePrivateKey

    def serving(self) -> ssl.SSLContext:
        """The context of a server that presents it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


def made(
    folder: Path, stem: str, *names: str, begins_d: float = -1, ends_d: float = 30, issuer: Pair | None = None,
    authority: bool = False,
) -> Pair:
    """A certificate for DNS names and addresses, valid from and to these days from now; self-signed without an issuer."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(private.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begins_d)).not_valid_after(now + datetime.timedelta(days=ends_d))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([alternative(name) for name in names]), critical=False)
    certificate = builder.sign(private if issuer is None else issuer.private, hashes.SHA256())
    cert, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))
    return Pair(str(cert), str(key), certificate, private)


def alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
