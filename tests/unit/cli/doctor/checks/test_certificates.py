"""Certificates from ACME: the directory, CAA records, and what the running relayd reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relayd.cli.diagnosis import FAILURE, FINE, UNKNOWN, WARNING
from relayd.cli.doctor.checks import certificates
from relayd.config.acme import Acme
from tests.aids.pebble import Pebble, needs_pebble
from tests.unit.cli.doctor.cases import context_of, findings, only, written

ENTRY = {"domain": "a.example", "fault": "", "trying": False, "expires_at": 4e9, "left_s": 86400 * 40, "failures": 0, "urgency": ""}


@pytest.mark.parametrize(("change", "level", "cause"), [
    ({}, FINE, "valid for 40 days"), ({"expires_at": 0.0, "left_s": 0}, UNKNOWN, "not obtained yet"),
    ({"fault": "x", "trying": True}, FINE, "valid"), ({"fault": "no answer", "failures": 3}, WARNING, "attempt 3 has failed: no answer"),
    ({"fault": "no answer", "failures": 3, "urgency": "error", "left_s": 86400}, FAILURE, "no answer; the certificate in use ends in 24 hours"),
    ({"fault": "no answer", "failures": 3, "left_s": -1}, FAILURE, "no answer"), ({"fault": "no answer", "expires_at": 0.0}, FAILURE, "no answer"),
])
def test_what_relayd_reports(change: dict[str, Any], level: str, cause: str) -> None:
    found = certificates.of_entry(ENTRY | change)
    assert found.level == level and cause in found.cause


def test_without_acme_there_is_nothing_to_examine(tmp_path: Path) -> None:
    (found,) = findings(certificates, context_of(written(tmp_path)))
    assert found.level == FINE


def test_caa_records_of_the_name_or_a_parent_decide() -> None:
    pytest.importorskip("dns", reason="needs python3-dnspython")
    from tests.aids.name_server import NameServer

    with NameServer() as server:
        servers = [("127.0.0.1", server.port)]
        server.set("example.org", "CAA", '0 issue "other.example"')
        found = certificates.caa_finding("a.b.example.org", ["letsencrypt.org"], servers)
        assert found is not None and found.level == FAILURE and "other.example" in found.cause and "add to example.org" in found.cure
        server.set("b.example.org", "CAA", '0 issue "letsencrypt.org"')
        assert certificates.caa_finding("a.b.example.org", ["letsencrypt.org"], servers) is None
        assert certificates.caa_finding("other.test", ["letsencrypt.org"], servers) is None
        server.records["a.b.example.org", "CAA"] = "SERVFAIL"
        found = certificates.caa_finding("a.b.example.org", ["letsencrypt.org"], servers)
        assert found is not None and found.level == UNKNOWN and "SERVFAIL" in found.cause


def test_name_servers_are_asked_only_about_names_and_for_a_known_authority() -> None:
    assert certificates.authority_findings(Acme(domains=("a.example",)), ()) == []
    # Without a library or a name server of the system that is the only finding.
    assert {one.level for one in certificates.authority_findings(Acme(domains=()), ["letsencrypt.org"])} <= {UNKNOWN}


@needs_pebble()
def test_directories_are_read_and_nothing_is_registered(tmp_path: Path) -> None:
    pytest.importorskip("acme", reason="needs python3-acme")
    with Pebble(tmp_path / "pebble") as pebble:
        acme = pebble.section("ai.example.org") | {"directory": [pebble.directory, "https://127.0.0.1:1/dir"]}
        context = context_of(written(tmp_path, listeners={"web": {"address": "127.0.0.1:1", "tls": {"acme": acme}}}))
        found = findings(certificates, context)
        assert only(found, "does not run").level == UNKNOWN
        assert only(found, pebble.directory).level == FINE
        assert only(found, "127.0.0.1:1/dir").level == FAILURE
        assert "POST" not in pebble.log()


def test_an_authority_without_identities_is_not_compared() -> None:
    from relayd.config.acme import Acme

    assert certificates.authority_findings(Acme(domains=("a.example",)), ()) == []
