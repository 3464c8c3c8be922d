"""Variables and credentials that systemd passes according to the unit, and faults that prevent a start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relayd.daemon import unit_environment
from relayd.daemon.unit import Unit
from relayd.daemon.unit_environment import service_environment


def service(**settings: list[str]) -> unit_environment.ServiceEnvironment:
    return service_environment(Unit("relayd.service", settings))


def test_variables_of_files_override_those_of_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text("# a comment\nKEY=from the file\nQUOTED=\"a \\\"b\\\"\"\nPLAIN='c d'\nLONG=one\\\ntwo\n\nnonsense\n")
    result = service(Environment=['KEY=x "TWO=a b"', "UNIT=%n"], EnvironmentFile=[str(file), f"-{tmp_path}/none"])
    assert result.variables == {
        "KEY": "from the file", "TWO": "a b", "UNIT": "relayd.service", "QUOTED": 'a "b"', "PLAIN": "c d", "LONG": "onetwo",
    }
    assert result.faults == []


def test_a_missing_file_of_variables_keeps_systemd_from_starting(tmp_path: Path) -> None:
    (fault,) = service(EnvironmentFile=[f"{tmp_path}/none"]).faults
    assert f"EnvironmentFile={tmp_path}/none" in fault and "No such file" in fault


def test_credentials_come_from_files_folders_stores_and_the_unit_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_environment, "CREDENTIAL_STORES", (str(tmp_path / "store"),))
    for name in ("store/stored", "store/app.one", "folder/inner", "file"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    result = service(
        LoadCredential=[f"file:{tmp_path}/file", f"all:{tmp_path}/folder", "stored", "absent", f"kept:{tmp_path}/none"],
        SetCredential=["kept:a\\nb"], ImportCredential=["app.*"],
    )
    assert result.credentials == {
        "file": b"file", "all_inner": b"folder/inner", "stored": b"store/stored", "app.one": b"store/app.one", "kept": b"a\nb",
    }
    assert result.faults == []
    with result.folder((os.getuid(), os.getgid())):
        folder = Path(result.variables["CREDENTIALS_DIRECTORY"])
        assert (folder / "file").read_bytes() == b"file"
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o400}
    assert not folder.exists()


def test_a_missing_credential_and_one_that_cannot_be_decrypted_are_faults(tmp_path: Path) -> None:
    (tmp_path / "sealed").write_text("no cipher text")
    result = service(LoadCredential=[f"a:{tmp_path}/none"], LoadCredentialEncrypted=[f"b:{tmp_path}/sealed"])
    assert "No such file" in result.faults[0]
    assert "cannot be decrypted" in result.faults[1] or "systemd-creds" in result.unchecked[0]


def test_settings_that_only_systemd_can_evaluate_are_listed() -> None:
    assert service(SetCredentialEncrypted=["a: xyz"]).unchecked == ["credentials of SetCredentialEncrypted="]
    assert Unit("x.service", {"BindPaths": ["/a:/b"]}).not_modelled() == ["BindPaths= of x.service"]
