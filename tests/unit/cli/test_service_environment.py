"""The environment of the installed service: for root and /etc/relayd.yaml only, and given back afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relayd.cli import service_environment
from relayd.cli.service_environment import as_installed
from relayd.daemon import unit


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads credentials")
def test_root_loads_with_the_variables_and_credentials_of_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("sk-1")
    (tmp_path / "relayd.service").write_text(
        f"[Service]\nUser=nobody\nEnvironment=NAMED=yes\nLoadCredential=key:{tmp_path}/key\n"
    )
    monkeypatch.setattr(service_environment, "SERVICE", str(tmp_path / "relayd.service"))
    before = dict(os.environ)
    with as_installed("/etc/relayd.yaml"):
        assert os.environ["NAMED"] == "yes"
        assert Path(os.environ["CREDENTIALS_DIRECTORY"], "key").read_text() == "sk-1"
    assert dict(os.environ) == before


def test_another_file_and_a_machine_without_the_unit_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    with as_installed("/tmp/other.yaml"):
        assert dict(os.environ) == before
    monkeypatch.setattr(service_environment, "SERVICE", "no-such.service")
    with as_installed("/etc/relayd.yaml"):
        assert dict(os.environ) == before
    assert unit.load_unit("no-such.service") is None
