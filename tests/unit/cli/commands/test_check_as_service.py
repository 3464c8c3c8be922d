"""`relayd check` runs the checks of a start: on files, as the user and within the sandbox of the service."""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Protocol

import pytest

from relayd.cli.main import main
from tests.unit.server.certificates import certificate

TOP = pathlib.Path(__file__).resolve().parents[4]
LISTENER = "listeners: {public: {address: '127.0.0.1:8282'%s}}\n"
ROUTE = "routes: [{name: r, match: {path: /x}, respond: 200}]\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


class Checked(Protocol):
    def __call__(self, text: str, *arguments: str) -> tuple[int, str]: ...


@pytest.fixture
def tmp_path() -> Iterator[pathlib.Path]:
    """A folder that every user may enter. The one of pytest is below a folder that each start of pytest closes to others."""
    with tempfile.TemporaryDirectory(prefix="relayd-") as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


@pytest.fixture
def checked(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Checked:
    """`relayd check` of a text, as the caller: the exit code and the output."""

    def check(text: str, *arguments: str) -> tuple[int, str]:
        code = main(["check", "-c", str(written(tmp_path, text)), *arguments])
        output = capsys.readouterr()
        return code, output.out + output.err

    return check


def written(folder: pathlib.Path, text: str) -> pathlib.Path:
    file = folder / "relayd.yaml"
    file.write_text(text)
    file.chmod(0o644)
    return file


def as_service(unit: pathlib.Path, folder: pathlib.Path, text: str) -> tuple[int, str]:
    """The same as the user of a unit, in a process that can switch to that user."""
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "check", "-c", str(written(folder, text)), "--unit", str(unit)], cwd=TOP,
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout + done.stderr


def tls_listener(cert: str, key: str) -> str:
    return LISTENER % f", tls: {{certificates: [{{cert: {cert}, key: {key}}}]}}" + ROUTE


def test_certificates_and_keys_that_a_start_would_refuse_are_refused(checked: Checked, tmp_path: pathlib.Path) -> None:
    one, two = certificate(tmp_path, "one.example"), certificate(tmp_path, "two.example")
    empty, noise, locked = tmp_path / "empty.pem", tmp_path / "noise.pem", tmp_path / "locked.key"
    empty.write_bytes(b"")
    noise.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    subprocess.run(
        ["openssl", "pkey", "-in", one.key, "-aes256", "-passout", "pass:secret", "-out", str(locked)], check=True,
        capture_output=True,
    )
    assert checked(tls_listener(one.cert, one.key))[0] == 0
    for cert, key, expected in (
        (str(empty), one.key, "empty.pem: holds no certificate"), (str(noise), one.key, "noise.pem: holds a damaged"),
        (one.cert, str(empty), "empty.pem: holds no private key"), (one.cert, two.key, "is not the key of"),
        (one.cert, str(locked), "locked.key: is encrypted"), (one.key, one.key, "holds no certificate"),
        (one.cert, one.cert, "holds no private key"),
    ):
        code, output = checked(tls_listener(cert, key))
        assert code == 78 and expected in output and "None" not in output and "relayd.yaml:1:" in output, output


def test_authorities_and_client_certificates_of_upstreams_are_checked(checked: Checked, tmp_path: pathlib.Path) -> None:
    one, two = certificate(tmp_path, "one.example"), certificate(tmp_path, "two.example")
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    for tls, expected in (
        (f"ca: {empty}", "upstreams.up.tls.ca: "), (f"cert: {one.cert}, key: {two.key}", "upstreams.up.tls.cert: "),
        (f"cert: {empty}, key: {two.key}", "holds no certificate"),
    ):
        text = LISTENER % "" + ROUTE + f"upstreams: {{up: {{endpoints: ['https://127.0.0.1:1'], tls: {{{tls}}}}}}}\n"
        code, output = checked(text)
        assert code == 78 and expected in output, output
    text = f"upstreams: {{up: {{endpoints: ['https://127.0.0.1:1'], tls: {{ca: {one.cert}, cert: {one.cert}, key: {one.key}}}}}}}\n"
    assert checked(LISTENER % "" + ROUTE + text)[0] == 0


def test_folders_of_log_and_store_are_checked_and_nothing_is_created(checked: Checked, tmp_path: pathlib.Path) -> None:
    for section, key in (
        ("telemetry: {access_log: {file: %s}}\n", "telemetry.access_log.file"),
        ("store: {kind: sqlite, path: %s}\n", "store.path"),
    ):
        code, output = checked(LISTENER % "" + ROUTE + section % (tmp_path / "gone" / "file"))
        assert code == 78 and f"{key}: " in output and "No such file or directory" in output
        assert checked(LISTENER % "" + ROUTE + section % tmp_path)[0] == 78
        assert checked(LISTENER % "" + ROUTE + section % (tmp_path / "file"))[0] == 0
        assert not (tmp_path / "file").exists()


def test_the_end_of_a_certificate_is_shown_and_warned_of(checked: Checked, tmp_path: pathlib.Path) -> None:
    one = certificate(tmp_path, "one.example")  # valid for two days
    code, output = checked(tls_listener(one.cert, one.key))
    assert code == 0 and "expires   listener public: " in output and "THE CERTIFICATE EXPIRES SOON" in output
    shown = json.loads(checked(tls_listener(one.cert, one.key), "--json")[1])
    assert shown["summary"]["certificates"][0]["file"] == one.cert
    assert 0 < shown["summary"]["certificates"][0]["left_s"] <= 2 * 86400


@pytest.fixture
def unit(tmp_path: pathlib.Path) -> pathlib.Path:
    """The unit of the package, for a user that exists on every machine."""
    text = (TOP / "systemd" / "relayd.service").read_text()
    file = tmp_path / "relayd.service"
    file.write_text(text.replace("User=relayd", "User=nobody").replace("Group=relayd-admin", "Group=nogroup"))
    return file


@needs_root
def test_a_log_where_the_sandbox_forbids_it_is_refused_with_the_rule(tmp_path: pathlib.Path, unit: pathlib.Path) -> None:
    text = LISTENER % "" + ROUTE + "telemetry: {access_log: {file: %s}}\n"
    code, output = as_service(unit, tmp_path, text % "/var/log/access.log")
    assert code == 78 and "ProtectSystem=strict" in output and "/var/log/relayd" in output, output


@needs_root
def test_files_that_only_root_may_read_are_refused(checked: Checked, tmp_path: pathlib.Path, unit: pathlib.Path) -> None:
    unit.write_text(unit.read_text().replace("PrivateTmp=yes", ""))
    key = tmp_path / "key"
    key.write_text("sk-1")
    key.chmod(0o600)
    text = LISTENER % "" + ROUTE + f"consumers: {{team: {{bearer: {{file: {key}}}}}}}\n"
    assert checked(text, "--unit", "none")[0] == 0
    code, output = as_service(unit, tmp_path, text)
    assert code == 78 and "Permission denied" in output, output
    os.chown(key, pwd.getpwnam("nobody").pw_uid, -1)
    code, output = as_service(unit, tmp_path, text)
    assert code == 0 and "asked as  user nobody" in output, output


@needs_root
def test_files_hidden_by_the_sandbox_are_refused(unit: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as hidden:  # by PrivateTmp, wherever the temporary folder of the tests is
        os.chmod(hidden, 0o755)  # permissions are not the reason
        code, output = as_service(unit, pathlib.Path(hidden), LISTENER % "" + ROUTE)
    assert code == 78 and "is not visible to relayd.service (PrivateTmp=yes)" in output, output


@needs_root
def test_a_user_that_does_not_exist_is_named(tmp_path: pathlib.Path, unit: pathlib.Path) -> None:
    unit.write_text(unit.read_text().replace("User=nobody", "User=no-such-user"))
    code, output = as_service(unit, tmp_path, LISTENER % "" + ROUTE)
    assert code == 78 and "no-such-user, which does not exist" in output


def test_an_unknown_unit_is_wrong_usage(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(tmp_path / "x"), "--unit", "no-such.service"]) == 2
    assert "no-such.service" in capsys.readouterr().err
