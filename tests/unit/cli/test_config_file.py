"""The default configuration file of a command."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from relayd.cli import config_file
from relayd.cli.main import main

TOP = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture
def not_installed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A machine without /etc/relayd.yaml."""
    monkeypatch.setattr(config_file, "DEFAULT_FILE", str(tmp_path / "relayd.yaml"))
    return tmp_path / "relayd.yaml"


@pytest.mark.parametrize("words", [["check"], ["explain", "POST", "http://127.0.0.1:8282/v1/chat/completions"]])
def test_a_source_tree_has_its_own_file(
    not_installed: pathlib.Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert "demo" in capsys.readouterr().out


def test_an_installed_file_comes_before_that_of_the_source_tree(
    not_installed: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    not_installed.write_text("nonsense: 1\n")
    assert main(["check"]) == 78
    assert f"{not_installed}:1:1" in capsys.readouterr().err


def test_a_named_file_is_never_replaced(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(tmp_path / "none.yaml")]) == 78
    assert "none.yaml" in capsys.readouterr().err


def test_without_any_file_the_option_is_named(
    not_installed: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config_file, "SOURCE_FILE", str(tmp_path / "gone.yaml"))
    for words in (["check"], ["explain", "GET", "/"], ["run"], ["test"]):
        assert main(words) == 78
        assert "-c FILE" in capsys.readouterr().err


def test_a_module_run_from_the_source_tree_is_understood() -> None:
    done = subprocess.run([sys.executable, "-m", "relayd", "check"], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0 and "relayd.yaml: accepted" in done.stdout, done.stderr
