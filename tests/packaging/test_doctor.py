"""`relayd doctor` on an installed system: no failure on a fresh one; planted faults are named, as root and as a user."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.packaging.conftest import QUICK, Testbed

pytestmark = pytest.mark.packaging

PLANTED = QUICK.replace("listeners: {", "listeners: {taken: {address: '127.0.0.1:7777'}, ") + """upstreams:
  keyed: {endpoints: ["http://127.0.0.1:9001"], auth: {bearer: {file: /etc/relayd/keys/one}}}
  strange: {endpoints: ["https://127.0.0.1:7443"]}
routes: [{name: rest, match: {prefix: /}, upstream: keyed}]
"""


def asked(system: Testbed, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, findings and the whole output."""
    told = system.call("exec", *words, "--json")
    found = [finding for check in json.loads(told.stdout)["checks"] for finding in check["findings"]]
    return told.returncode, found, told.stdout + told.stderr


def failures(found: list[dict[str, Any]]) -> dict[str, str]:
    return {one["subject"].partition(",")[0]: f"{one['cause']} -> {one['cure']}" for one in found if one["level"] == "failure"}


def test_a_fresh_system_has_no_failure_and_planted_ones_are_named(system: Testbed) -> None:
    code, found, text = asked(system, "relayd", "doctor")
    assert (code, failures(found)) == (0, {}), text
    assert {one["subject"] for one in found if one["level"] == "fine"} >= {"relayd.service", "running relayd", "statsd"}, text
    before = system.sh("cat /etc/relayd.yaml")
    try:
        system.sh(
            "printf sk-planted-secret >/etc/relayd/keys/one; chmod 600 /etc/relayd/keys/one; chown root: /etc/relayd/keys/one;"
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
            " -keyout /var/tmp/k -out /var/tmp/c 2>/dev/null;"
            "systemd-run -q --unit=strange openssl s_server -accept 7443 -cert /var/tmp/c -key /var/tmp/k -quiet;"
            "systemd-run -q --unit=taken python3 -c"
            " 'import socket, time; s = socket.create_server((\"127.0.0.1\", 7777)); time.sleep(9999)';"
            "until ss -ltn | grep -q :7443 && ss -ltn | grep -q :7777; do sleep 0.1; done"
        )
        system.write("/etc/relayd.yaml", PLANTED)
        code, found, text = asked(system, "relayd", "doctor")
        named = failures(found)
        assert code == 78, text
        assert "held by python3 (pid " in named["listener taken"], text
        assert "self-signed" in named["upstream strange"] and "tls.ca" in named["upstream strange"], text
        assert "no connection" in named["upstream keyed"], text
        denied = next(cause for subject, cause in named.items() if subject.startswith("/etc/relayd.yaml"))
        assert "/etc/relayd/keys/one: cannot be read: Permission denied" in denied, text
        probed = system.call("exec", "relayd", "probe", "strange")
        assert probed.returncode == 1 and "certificate x, issued by x" in probed.stdout, probed.stdout + probed.stderr
        assert "sk-planted-secret" not in text + probed.stdout + probed.stderr
        code, found, text = asked(system, "runuser", "-u", "nobody", "--", "relayd", "doctor")
        assert code == 0 and any("as root" in (one["cure"] or "") for one in found if one["level"] == "not checked"), text
    finally:
        system.sh("systemctl stop strange taken; rm -f /etc/relayd/keys/one /var/tmp/k /var/tmp/c")
        system.write("/etc/relayd.yaml", before)


def test_records_are_followed_from_the_socket_and_from_the_journal(system: Testbed) -> None:
    told = system.sh(
        "for how in '' --journal; do timeout 60 relayd tail $how --json --count 1 >/var/tmp/tail$how 2>&1 & done;"
        "until [ -s /var/tmp/tail ] && [ -s /var/tmp/tail--journal ]; do"
        " python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:8282/v1/models\").read()'; sleep 0.2; done;"
        "cat /var/tmp/tail /var/tmp/tail--journal", timeout_s=90,
    )
    socket, journal = map(json.loads, told.splitlines())
    assert {(one["path"], one["status"], one["route"]) for one in (socket, journal)} == {("/v1/models", 200, "demo")}
