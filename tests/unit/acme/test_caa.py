"""CAA records that permit or forbid an authority."""

from __future__ import annotations

import pytest

from relayd.acme.caa import names_to_ask, refusal

OURS = ["letsencrypt.org", "le.example"]


def test_the_name_is_asked_before_its_parents() -> None:
    assert names_to_ask("*.a.example.org") == ["a.example.org", "example.org", "org"]


@pytest.mark.parametrize(("name", "records", "words"), [
    ("a.b", [], ""), ("a.b", ['0 issue "letsencrypt.org"'], ""), ("a.b", ['0 issue "other.example"', '0 issue "LE.example; x=y"'], ""),
    ("a.b", ['0 issue "other.example"'], "permit other.example, not letsencrypt.org or le.example"), ("a.b", ['0 issue ";"'], "permit no authority"),
    ("a.b", ['0 iodef "mailto:a@b"'], ""), ("a.b", ['128 tbs "x"'], "critical record tbs"), ("a.b", ['0 tbs "x"'], ""),
    ("a.b", ['0 issue "letsencrypt.org"', '0 issuewild ";"'], ""), ("*.a.b", ['0 issue "letsencrypt.org"', '0 issuewild ";"'], "no authority"),
    ("*.a.b", ['0 issue "other.example"'], "permit other.example"), ("*.a.b", ['0 issue "x.example"', '0 issuewild "letsencrypt.org"'], ""), ("a.b", ["nonsense"], ""),
])
def test_records_permit_or_forbid(name: str, records: list[str], words: str) -> None:
    found = refusal(name, records, OURS)
    assert words in found if words else found == ""
