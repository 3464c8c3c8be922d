"""`relayd run` if the start fails; the rest is in the functional tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.cli.main import main, parser_of
from relayd.daemon.signals import HANDLED


@pytest.fixture(autouse=True)
def signals_are_unblocked() -> Iterator[None]:
    """A run that fails ends with its signals blocked; programs that other tests start would inherit that."""
    yield
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def test_the_default_file_is_etc_relayd_yaml() -> None:
    assert parser_of("run").parse_args([]).config == "/etc/relayd.yaml"


def test_a_missing_file_is_a_configuration_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-c", str(tmp_path / "none.yaml")]) == 78
    assert "none.yaml" in capsys.readouterr().err


def test_every_fault_is_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "relayd.yaml"
    file.write_text("one: 1\ntwo: 2\n")
    assert main(["run", "-c", str(file)]) == 78
    captured = capsys.readouterr()
    assert f"{file}:1:1: error" in captured.err
    assert f"{file}:2:1: error" in captured.err
    assert captured.out == ""
