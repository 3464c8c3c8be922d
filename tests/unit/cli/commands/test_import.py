"""`relayd import`: what is printed and written, with which permissions, and the exit codes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from relayd.cli.main import main

SITE = 'location / {\n  proxy_pass http://127.0.0.1:9000;\n  proxy_set_header Authorization "Bearer secret-key-1";\n  thread_pool one threads=2;\n}\n'


@pytest.fixture
def site(tmp_path: Path) -> str:
    (tmp_path / "site.conf").write_text(SITE)
    return str(tmp_path / "site.conf")


def test_without_a_file_to_write_nothing_is_written(site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", site]) == 0
    shown = capsys.readouterr()
    assert "proxy_pass" not in shown.out and "upstream: " in shown.out and "/etc/relayd/keys/authorization-3" in shown.out
    assert f"{site}:4  not supported" in shown.err and "key file: /etc/relayd/keys/authorization-3 (not written)" in shown.err
    assert shown.err.splitlines()[-1] == "nginx: 3 exact, 1 not supported"
    assert "secret-key-1" not in shown.out + shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["site.conf"]


def test_the_configuration_and_the_keys_are_written_and_accepted(site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, keys = tmp_path / "relayd.yaml", tmp_path / "keys"
    assert main(["import", "nginx", site, "-o", str(file), "--keys", str(keys)]) == 0
    key = keys / "authorization-3"
    assert key.read_text() == "secret-key-1\n" and stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "secret-key-1" not in file.read_text() + capsys.readouterr().out
    assert main(["check", "-c", str(file)]) == 0
    assert main(["import", "nginx", site, "-o", str(file), "--keys", str(keys)]) == 1
    assert f"{file}: exists already" in capsys.readouterr().err
    assert main(["import", "nginx", site, "-o", str(file), "--keys", str(keys), "--force"]) == 0


def test_the_default_folder_of_keys_is_beside_the_file(site: str, tmp_path: Path) -> None:
    assert main(["import", site, "-o", str(tmp_path / "etc.yaml")]) == 0
    assert (tmp_path / "relayd" / "keys" / "authorization-3").exists()


def test_a_key_is_never_written_through_a_link(site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").mkdir()
    target = tmp_path / "target"
    (tmp_path / "keys" / "authorization-3").symlink_to(target)
    assert main(["import", site, "-o", str(tmp_path / "a.yaml"), "--keys", str(tmp_path / "keys")]) == 1
    assert not target.exists() and "exists already" in capsys.readouterr().err


def test_strict_fails_if_a_line_is_left_and_writes_nothing(site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", site, "--strict", "-o", str(tmp_path / "a.yaml")]) == 1
    assert "not supported" in capsys.readouterr().err and not (tmp_path / "a.yaml").exists()
    Path(site).write_text(SITE.replace("  thread_pool one threads=2;\n", ""))
    assert main(["import", site, "--strict", "-o", str(tmp_path / "a.yaml")]) == 0


def test_the_report_as_json(site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", site, "--report", "json", "-o", str(tmp_path / "a.yaml")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "nginx" and told["counts"] == {"exact": 3, "not supported": 1}
    assert told["lines"][3] == {"file": site, "line": 4, "last": 4, "text": "thread_pool one threads=2;", "fidelity": "not supported",
                                "reasons": ["has no counterpart that this import knows"]}
    assert told["keys"] == [str(tmp_path / "relayd" / "keys" / "authorization-3")]


def test_files_that_cannot_be_read_or_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(tmp_path / "none")]) == 1
    assert "none: cannot be read" in capsys.readouterr().err
    (tmp_path / "x").write_bytes(b"\xff")
    assert main(["import", "nginx", str(tmp_path / "x")]) == 1
    assert "is not UTF-8 text" in capsys.readouterr().err
    (tmp_path / "x").write_text("hello")
    assert main(["import", str(tmp_path / "x")]) == 1
    assert "is not recognised" in capsys.readouterr().err
    assert main(["import", "nginx"]) == 2
    (tmp_path / "x").write_text("server {")
    assert main(["import", "nginx", str(tmp_path / "x")]) == 1
    assert "a block is not closed" in capsys.readouterr().err


def test_files_that_are_included_are_found_beside_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "a.conf").write_text(SITE)
    (tmp_path / "nginx.conf").write_text("server { include sites/*.conf;\n include gone; }")
    assert main(["import", str(tmp_path / "nginx.conf")]) == 0
    assert str(tmp_path / "sites" / "a.conf") + ":2" in capsys.readouterr().err


def test_what_this_machine_lacks_is_a_remark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "n.conf").write_text("server { listen 443 ssl; ssl_certificate /nowhere/c; ssl_certificate_key /nowhere/k; location / { return 200; } }")
    assert main(["import", str(tmp_path / "n.conf")]) == 0
    assert "remark: missing on this machine: listeners.public.tls.certificates[0].cert" in capsys.readouterr().err


def test_a_file_that_cannot_be_written(site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", site, "-o", str(tmp_path / "no" / "a.yaml"), "--keys", str(tmp_path)]) == 1
    assert "no: is not a folder" in capsys.readouterr().err
    assert not (tmp_path / "authorization-3").exists()


def test_a_folder_with_the_name_of_a_kind_is_not_a_source(
    site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in /etc: `relayd import nginx nginx/nginx.conf`."""
    (tmp_path / "nginx").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["import", "nginx", site]) == 0
    assert "proxy_pass" in capsys.readouterr().err
