"""Reads certificates: the host names and the expiry of a file, the contents of a certificate that an endpoint presents.

Loaded through the registry, only for listeners with several certificates and for commands: the library costs about a
tenth of a second and ten megabytes.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.x509.oid import NameOID

from relayd import clock
from relayd.dataclass import dataclass

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """The first certificate of a file. `names`: its DNS names in lower case, or its common name if it has none."""

    names: tuple[str, ...]
    expires_s: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class CertificateDetails:
    """One certificate. `subject` and `issuer`: the common name, else the whole name. `names`: DNS names in lower case
    and IP addresses, the common name if it has neither. Times are Unix seconds."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    begins_s: float
    expires_s: float
    self_signed: bool

    @property
    def left_s(self) -> float:
        """Seconds until the expiry; negative afterwards."""
        return self.expires_s - clock.wall()

    @property
    def days_left(self) -> int:
        return int(self.left_s // 86400)


def details(pem: bytes) -> CertificateDetails:
    """The contents of a certificate in PEM form. Raises ValueError for a damaged one."""
    found = x509.load_pem_x509_certificate(pem)
    try:
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [name.lower() for name in alternatives.get_values_for_type(x509.DNSName)]
        names += [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)]
    except x509.ExtensionNotFound:
        names = [name.lower() for name in _names(found)]
    return CertificateDetails(
        _shown(found.subject), _shown(found.issuer), tuple(names), _begin(found).timestamp(),
        _expiry(found).timestamp(), found.issuer == found.subject,
    )


def _shown(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else name.rfc4514_string()


def _begin(found: x509.Certificate) -> datetime.datetime:
    begin: datetime.datetime | None = getattr(found, "not_valid_before_utc", None)  # cryptography 42 and newer
    return begin if begin is not None else found.not_valid_before.replace(tzinfo=datetime.UTC)


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
