"""The validity period of the certificates of a PEM file, parsed without a library (RFC 5280 4.1)."""

from __future__ import annotations

import base64
import binascii
import datetime

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex

BLOCK = lazy_regex(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END")
MOST_AUTHORITIES = 20  # distinct subjects of a file
SEQUENCE, INTEGER, UTC_TIME, GENERALIZED_TIME, VERSION = 0x30, 0x02, 0x17, 0x18, 0xA0


@dataclass(frozen=True, slots=True)
class Validity:
    """A validity period, in Unix seconds."""

    begins_s: float
    ends_s: float


def validity_of_all(raw: bytes) -> Validity:
    """The period in which every certificate of a PEM file is valid. Raises ValueError for a file without one."""
    try:
        found = [validity(base64.b64decode(block)) for block in BLOCK.findall(raw)]
    except binascii.Error:
        raise ValueError("holds a damaged certificate") from None
    if not found:
        raise ValueError("holds no certificate in PEM form")
    return Validity(max(one.begins_s for one in found), min(one.ends_s for one in found))


def authorities_end_s(raw: bytes) -> float | None:
    """The Unix time of the first expiry of an authority of a PEM file that has no successor: a certificate of the same
    subject in the file that is valid for longer. In a collection of more than MOST_AUTHORITIES, such as that of the
    system, some always expire: there the last expiry counts. None if no certificate can be read."""
    ends_s: dict[bytes, float] = {}
    for block in BLOCK.findall(raw):
        try:
            found, subject = _validity_and_subject(base64.b64decode(block))
        except (ValueError, binascii.Error):
            continue
        ends_s[subject] = max(found.ends_s, ends_s.get(subject, 0.0))
    if not ends_s:
        return None
    return max(ends_s.values()) if len(ends_s) > MOST_AUTHORITIES else min(ends_s.values())


def validity(der: bytes) -> Validity:
    """The period of one certificate in DER form. Raises ValueError for bytes that are no certificate."""
    return _validity_and_subject(der)[0]


def _validity_and_subject(der: bytes) -> tuple[Validity, bytes]:
    try:
        fields = _expect(_expect(der, SEQUENCE), SEQUENCE)
        at = 0
        tag, _, after = _part(fields, at)
        if tag == VERSION:
            at = after
        for wanted in (INTEGER, SEQUENCE, SEQUENCE):  # serial number, signature algorithm, issuer
            tag, _, at = _part(fields, at)
            if tag != wanted:
                raise ValueError
        times, end = _expect(fields[at:], SEQUENCE), _part(fields, at)[2]
        tag, begins, after = _part(times, 0)
        later_tag, ends, _ = _part(times, after)
        return Validity(_seconds(tag, begins), _seconds(later_tag, ends)), _expect(fields[end:], SEQUENCE)
    except (ValueError, IndexError):
        raise ValueError("holds a damaged certificate") from None


def _expect(data: bytes, wanted: int) -> bytes:
    tag, content, _ = _part(data, 0)
    if tag != wanted:
        raise ValueError
    return content


def _part(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Tag, content and end of the DER value at this offset."""
    tag, length, begin = data[at], data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, begin = int.from_bytes(data[begin : begin + count], "big"), begin + count
    if begin + length > len(data):
        raise ValueError
    return tag, data[begin : begin + length], begin + length


def _seconds(tag: int, text: bytes) -> float:
    """Unix seconds of a DER time. Two-digit years are 1950 to 2049 (RFC 5280 4.1.2.5)."""
    digits = text.decode("ascii").removesuffix("Z")
    if tag == UTC_TIME:
        digits = ("19" if int(digits[:2]) >= 50 else "20") + digits
    elif tag != GENERALIZED_TIME:
        raise ValueError
    made = datetime.datetime.strptime(digits[:14], "%Y%m%d%H%M%S")
    return made.replace(tzinfo=datetime.UTC).timestamp()
