"""Certificate files: their names and when they expire."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd import clock
from relayd.server.certificate import read
from tests.unit.server.certificates import certificate


def test_the_names_of_a_certificate_are_read(tmp_path: Path) -> None:
    assert read(certificate(tmp_path, "A.example", "*.b.example").cert).names == ("a.example", "*.b.example")
    assert read(certificate(tmp_path, subject="Only.example").cert).names == ("only.example",)


def test_the_end_of_its_life_is_read(tmp_path: Path) -> None:
    left_s = read(certificate(tmp_path, "a.example").cert).expires_s - clock.wall()
    assert 86400 < left_s <= 2 * 86400 + 5  # made for two days


def test_only_the_first_certificate_of_a_chain_counts(tmp_path: Path) -> None:
    one, two = certificate(tmp_path, "one.example"), certificate(tmp_path, "two.example")
    chain = tmp_path / "chain.pem"
    chain.write_text("a remark before it\n" + Path(one.cert).read_text() + Path(two.cert).read_text())
    assert read(str(chain)).names == ("one.example",)


def test_a_file_without_a_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(ValueError):
        read(str(tmp_path / "x.pem"))
    with pytest.raises(OSError):
        read(str(tmp_path / "gone.pem"))
