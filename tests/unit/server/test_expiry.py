"""The dates of certificates, read without a library."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from relayd.server.expiry import MOST_AUTHORITIES, authorities_end_s, validity, validity_of_all
from tests.unit.server.certificates import certificate


def test_the_dates_are_those_that_the_library_reads(tmp_path: Path) -> None:
    raw = Path(certificate(tmp_path, "one.example").cert).read_bytes()
    read = x509.load_pem_x509_certificate(raw)
    later = getattr(read, "not_valid_after_utc", None) or read.not_valid_after.replace(tzinfo=datetime.UTC)
    sooner = getattr(read, "not_valid_before_utc", None) or read.not_valid_before.replace(tzinfo=datetime.UTC)
    found = validity_of_all(b"Some text before\n" + raw)
    assert (found.begins_s, found.ends_s) == (sooner.timestamp(), later.timestamp())


def test_a_chain_ends_with_the_first_that_ends(tmp_path: Path) -> None:
    one, two = (Path(certificate(tmp_path, name).cert).read_bytes() for name in ("one.example", "two.example"))
    ends = [validity_of_all(raw).ends_s for raw in (one, two)]
    assert validity_of_all(one + two).ends_s == min(ends)


@pytest.mark.parametrize("raw", [b"", b"\x00" * 40, b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_certificate_is_an_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"holds (no|a damaged) certificate"):
        validity_of_all(raw)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_certificate_or_a_fault(raw: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        validity(raw)


def test_a_certificate_that_was_cut_is_damaged(tmp_path: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert(Path(certificate(tmp_path, "one.example").cert).read_text())
    for size in range(0, len(der), 7):
        with pytest.raises(ValueError, match="damaged"):
            validity(der[:size])


def test_authorities_end_with_the_first_that_has_no_successor(tmp_path: Path) -> None:
    def made(folder: str, subject: str, days: int) -> bytes:
        (tmp_path / folder).mkdir(exist_ok=True)
        return Path(certificate(tmp_path / folder, subject=subject, days=days).cert).read_bytes()

    old, new, other = made("old", "Root", 3), made("new", "Root", 300), made("other", "Other", 30)
    ends = {name: validity_of_all(raw).ends_s for name, raw in (("old", old), ("new", new), ("other", other))}
    assert authorities_end_s(old) == ends["old"] and authorities_end_s(old + new) == authorities_end_s(new + old) == ends["new"]
    assert authorities_end_s(old + new + other) == ends["other"]
    damaged = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert authorities_end_s(damaged + other) == ends["other"] and authorities_end_s(damaged) is None
    collection = b"".join(made("many", f"CA {number}", 5) for number in range(MOST_AUTHORITIES))
    assert authorities_end_s(collection) < authorities_end_s(collection + other) == ends["other"]  # type: ignore[operator]
