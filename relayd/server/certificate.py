"""Reads the host names and the expiry of a certificate file.

Loaded through the registry, only for listeners with several certificates: the library costs about a tenth of a second
and ten megabytes.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """The first certificate of a file. `names`: its DNS names in lower case, or its common name if it has none."""

    names: tuple[str, ...]
    expires_s: float  # Unix seconds


def read(path: str) -> CertificateInfo:
    """The first certificate of a PEM file. Raises OSError, and ValueError for a file without one."""
    with open(path, "rb") as file:
        found = x509.load_pem_x509_certificate(file.read(MAX_BYTES))
    return CertificateInfo(tuple(name.lower() for name in _names(found)), _expiry(found).timestamp())


def _names(found: x509.Certificate) -> list[str]:
    try:
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    if names:
        return names
    common = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [str(one.value) for one in common]


def _expiry(found: x509.Certificate) -> datetime.datetime:
    later: datetime.datetime | None = getattr(found, "not_valid_after_utc", None)  # cryptography 42 and newer
    return later if later is not None else found.not_valid_after.replace(tzinfo=datetime.UTC)
