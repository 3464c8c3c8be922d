"""Checks of the machine before a start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relayd import clock
from relayd.config.load import load_text
from relayd.daemon import preflight as preflight_module
from relayd.daemon.preflight import DAY_S, Expiry, preflight, remaining, write_fault
from relayd.daemon.unit import Unit
from tests.unit.server.certificates import certificate

ROOT = Path(__file__).resolve().parents[3]
LEAST = "listeners: {a: {address: '127.0.0.1:1'}}\nroutes: [{name: r, respond: 200}]\n"
SANDBOX = Unit("relayd.service", {"ProtectSystem": ["strict"], "LogsDirectory": ["relayd"], "ProtectHome": ["yes"]})


@pytest.mark.parametrize(
    ("days", "expected"),
    [(31, ""), (29, "the certificate expires in 28 days"), (6, "EXPIRES SOON, in 5 days"), (0.5, "in 11 hours"), (-1, "HAS EXPIRED")],
)
def test_the_warning_grows(days: float, expected: str) -> None:
    warning = Expiry("listener", "a", "p", "/x.pem", clock.wall() + days * DAY_S - 60).warning()
    assert expected in warning if expected else not warning
    assert remaining(3 * DAY_S) == "in 3 days"


def test_a_plain_configuration_has_nothing_to_ask() -> None:
    assert preflight(load_text(LEAST, "c").config).findings == []


def test_an_expiry_is_a_warning_at_the_certificate_s_key(tmp_path: Path) -> None:
    one = certificate(tmp_path, "one.example")
    text = LEAST.replace("'}}", f"', tls: {{certificates: [{{cert: {one.cert}, key: {one.key}}}]}}}}}}")
    result = preflight(load_text(text, "c").config)
    assert result.faults == [] and result.findings[0].path == "listeners.a.tls.certificates[0]"
    assert [(one.kind, one.name) for one in result.expiries] == [("listener", "a")]


def test_the_expiry_of_authorities_is_told_at_their_key(tmp_path: Path) -> None:
    one = certificate(tmp_path, "one.example")  # valid for two days
    listener = f"', tls: {{client_ca: {one.cert}, certificates: [{{cert: {one.cert}, key: {one.key}}}]}}}}}}"
    text = LEAST.replace("'}}", listener) + (
        f"upstreams: {{u: {{endpoints: ['https://h'], tls: {{ca: {one.cert}}}}}}}\n"
        f"store: {{kind: redis, url: 'rediss://h', tls: {{ca: {one.cert}, cert: {one.cert}, key: {one.key}}}}}\n"
        f"telemetry: {{otlp: {{endpoint: 'https://c', ca: {one.cert}}}}}\n"
    )
    result = preflight(load_text(text, "c").config)
    authorities = ["listeners.a.tls.client_ca", "store.tls.ca", "telemetry.otlp.ca", "upstreams.u.tls.ca"]
    assert result.faults == [] and sorted(found.path for found in result.expiries if found.kind == "authority") == authorities
    assert sorted(found.path for found in result.findings) == sorted([*authorities, "listeners.a.tls.certificates[0]", "store.tls.cert"])
    assert "AN AUTHORITY EXPIRES SOON" in next(found.message for found in result.findings if found.path == "upstreams.u.tls.ca")


def test_the_files_of_a_store_are_checked_like_those_of_an_upstream(tmp_path: Path) -> None:
    one, other = certificate(tmp_path, "one.example"), certificate(tmp_path, "two.example")
    upstream = "upstreams: {u: {endpoints: ['https://h'], tls: %s}}\n"
    for section, where in (("store: {kind: redis, url: 'rediss://h', tls: %s}\n", "store.tls"), (upstream, "upstreams.u.tls")):
        for tls, key in ((f"{{ca: {one.key}}}", "ca"), (f"{{cert: {one.cert}, key: {other.key}}}", "cert"),
                         (f"{{cert: {one.key}, key: {one.key}}}", "cert")):  # fmt: skip
            result = preflight(load_text(LEAST + section % tls, "c").config)
            assert [fault.path for fault in result.faults] == [f"{where}.{key}"], tls
        good = f"{{ca: {one.cert}, cert: {one.cert}, key: {one.key}}}"
        assert preflight(load_text(LEAST + section % good, "c").config).faults == []


def test_a_log_that_is_off_is_not_checked() -> None:
    text = LEAST + "telemetry: {access_log: {format: off, file: /no/such/folder/log}}\n"
    assert preflight(load_text(text, "c").config).faults == []


def test_the_sandbox_decides_where_a_file_may_be_written() -> None:
    fault = write_fault("/opt/access.log", SANDBOX)
    assert fault is not None and "ProtectSystem=strict" in fault[0] and "/var/log/relayd" in fault[1]
    assert write_fault("/var/log/relayd/access.log", SANDBOX) is None, "systemd makes the folder before a start"


def test_acme_needs_its_library_and_a_state_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "listeners: {a: {address: '127.0.0.1:443', tls: {acme: {domains: [a.example], email: a@b.example}}}}\nroutes: [{name: all, respond: 204}]"
    monkeypatch.setattr(preflight_module, "ACME_MODULES", ("no_such_library",))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    (fault,) = preflight(load_text(text, "c").config).faults
    assert "python3-acme" in fault.message and "apt install python3-acme" in fault.suggestion
    monkeypatch.setattr(preflight_module, "ACME_MODULES", ("json",))
    assert not preflight(load_text(text, "c").config).faults
    (tmp_path / "acme").mkdir()
    assert not preflight(load_text(text, "c").config).faults
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/x:{tmp_path}/no/acme")
    (fault,) = preflight(load_text(text, "c").config).faults
    assert fault.path == "listeners.a.tls.acme" and "does not exist" in fault.suggestion


def test_a_read_only_file_system_is_named(tmp_path: Path) -> None:
    """`Permission denied` would send the operator after owners and modes."""
    script = (
        "import sys; from relayd.daemon.preflight import write_fault; "
        "print(write_fault(sys.argv[1] + '/new'), write_fault(sys.argv[1] + '/old'))"
    )
    mounts = 'mount -t tmpfs none "$1" && touch "$1/old" && mount -o remount,ro "$1" || exit 77; exec "$2" -c "$3" "$1"'
    command = ["unshare", "-m", "sh", "-c", mounts, "sh", str(tmp_path), sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode in (1, 77):
        pytest.skip(f"cannot mount: {done.stderr}")
    assert done.stdout.count("cannot be opened: Read-only file system") == 2, done.stdout + done.stderr
