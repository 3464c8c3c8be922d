"""Secrets come from where they are kept, and what is unusable says why without saying what."""

from __future__ import annotations

import os
import pathlib

import pytest

from relayd.schema.secrets import SecretError, resolve

KEY = "sk-very-secret-4711"


def keep(folder: pathlib.Path, content: bytes, mode: int = 0o600) -> str:
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_file_is_the_secret_without_its_last_line_break(tmp_path: pathlib.Path, end: bytes) -> None:
    path = keep(tmp_path, KEY.encode() + end)
    secret = resolve("file", path)
    assert (secret.reveal(), secret.source, secret.exposed) == (KEY, f"file {path}", False)


def test_a_relative_file_is_taken_from_the_folder_of_the_configuration(tmp_path: pathlib.Path) -> None:
    keep(tmp_path, KEY.encode())
    assert resolve("file", "key", str(tmp_path)).reveal() == KEY


def test_a_file_that_everybody_can_read_is_marked(tmp_path: pathlib.Path) -> None:
    assert resolve("file", keep(tmp_path, b"a", 0o644)).exposed


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"), (b"\n", "is empty"), (b"   \n", "is empty"), (b"a\nb\n", "second line"),
    (b"a\0b", "control character"), (b"\xff\xfe", "is not UTF-8"), (b" " + b"a", "space"), (b"a" * 70_000, "larger than 64 KiB"),
])
def test_an_unusable_file_says_why_and_none_of_its_content(tmp_path: pathlib.Path, content: bytes, message: str) -> None:
    with pytest.raises(SecretError, match=message) as caught:
        resolve("file", keep(tmp_path, content))
    assert caught.value.__cause__ is None


def test_a_missing_file_and_a_folder_are_faults(tmp_path: pathlib.Path) -> None:
    for path in (str(tmp_path / "none"), str(tmp_path), "a\0b"):
        with pytest.raises(SecretError):
            resolve("file", path)


def test_a_pipe_does_not_hang_the_check(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SecretError, match="not a regular file"):
        resolve("file", str(tmp_path / "pipe"))


def test_an_environment_variable_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_TEST_KEY", KEY)
    secret = resolve("env", "RELAYD_TEST_KEY")
    assert (secret.reveal(), secret.source) == (KEY, "env RELAYD_TEST_KEY")
    monkeypatch.delenv("RELAYD_TEST_KEY")
    with pytest.raises(SecretError, match="RELAYD_TEST_KEY is not set"):
        resolve("env", "RELAYD_TEST_KEY")
    with pytest.raises(SecretError, match="not a name"):
        resolve("env", "A B")


def test_a_credential_of_systemd_is_a_secret(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, KEY.encode())
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(SecretError, match="CREDENTIALS_DIRECTORY is not set"):
        resolve("credential", "key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert resolve("credential", "key").reveal() == KEY
    assert resolve("credential", "key").source == "credential key"


@pytest.mark.parametrize("name", ["../key", "a/b", "..", ".", ""])
def test_a_credential_cannot_leave_its_folder(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(SecretError, match="not a name"):
        resolve("credential", name)
