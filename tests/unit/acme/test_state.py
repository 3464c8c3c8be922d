"""The state of ACME on disk: atomic, private, shared, and robust against damage."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from relayd.acme.state import LockedByOther, Record, State, write_atomically

RECORD = Record(directory="https://a/dir", failures=2, next_try=5.0, error="x", held={"https://a/dir": 9.0})


@pytest.fixture
def state(tmp_path: Path) -> State:
    one = State(str(tmp_path / "acme"))
    one.prepare()
    return one


def test_folders_and_files_are_private(state: State) -> None:
    state.write_record("a.example", RECORD)
    state.write_certificate("a.example", b"pem")
    state.add_challenge("http-01", "token", b"x")
    for folder, _, files in os.walk(state.folder):
        assert os.stat(folder).st_mode & 0o777 == 0o700
        assert all(os.stat(os.path.join(folder, name)).st_mode & 0o777 == 0o600 for name in files)


def test_a_record_is_read_as_it_was_written(state: State) -> None:
    assert state.read_record("A.example") == Record()
    state.write_record("*.a.example", RECORD)
    assert state.read_record("*.A.example") == RECORD
    assert os.path.exists(f"{state.folder}/certificates/_.a.example.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"failures": "many"}', '{"held": []}', '{"renew_at": true}', "\x00\xff"])
def test_a_damaged_record_is_set_aside(state: State, text: str) -> None:
    state.write_record("a.example", RECORD)
    file = Path(state.folder, "certificates/a.example.json")
    file.write_text(text, encoding="latin-1")
    assert state.read_record("a.example") == Record()
    assert not file.exists() and file.with_suffix(".json.corrupt").exists()


def test_a_record_of_a_newer_version_is_read(state: State) -> None:
    Path(state.folder, "certificates/a.example.json").write_text('{"failures": 1, "something_new": [1]}')
    assert state.read_record("a.example") == Record(failures=1)


def test_a_record_that_cannot_be_read_is_no_empty_record(state: State) -> None:
    os.mkdir(f"{state.folder}/certificates/a.example.json")
    with pytest.raises(OSError, match="cannot be read"):
        state.read_record("a.example")


def test_accounts_are_kept_by_directory(state: State) -> None:
    state.write_account("https://a.example:14000/dir", {"uri": "u"})
    assert state.read_account("https://a.example:14000/dir") == {"directory": "https://a.example:14000/dir", "uri": "u"}
    assert state.read_account("https://a.example:14000/staging") == {}


def test_a_pending_challenge_is_answered_and_no_other_path(state: State) -> None:
    state.add_challenge("http-01", "abc_-9", b"abc.thumb")
    assert state.http_response(b"/.well-known/acme-challenge/abc_-9") == b"abc.thumb"
    for path in (b"", b"xyz", b"../http-01/abc_-9", b"abc_-9/", b"a" * 300, b"%61bc_-9"):
        assert state.http_response(b"/.well-known/acme-challenge/" + path) is None
    state.remove_challenge("http-01", "abc_-9")
    state.remove_challenge("http-01", "abc_-9")
    assert state.http_response(b"/.well-known/acme-challenge/abc_-9") is None


def test_tls_challenges_are_counted_and_left_ones_removed(state: State) -> None:
    assert not State("/nonexistent").tls_challenges() and not state.tls_challenges()
    state.add_challenge("tls-alpn-01", "a.example", b"pem")
    assert state.tls_challenges() and Path(state.tls_challenge_file("A.example")).read_bytes() == b"pem"
    state.remove_challenges()
    assert not state.tls_challenges()


def test_one_instance_has_the_lock(state: State) -> None:
    other = State(state.folder)
    with state.lock():
        with pytest.raises(LockedByOther), other.lock():
            raise AssertionError
    with other.lock():
        pass


def test_a_refused_lock_leaves_no_descriptor_open(state: State) -> None:
    other = State(state.folder)
    with state.lock():
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with contextlib.suppress(LockedByOther), other.lock():
                raise AssertionError
        assert sorted(os.listdir("/proc/self/fd")) == before


def test_reserved_space_is_used_by_the_certificate(state: State) -> None:
    with state.reserve("a.example"):
        reserved = Path(state.certificate_file("a.example") + ".reserved")
        assert reserved.stat().st_blocks > 0
        state.write_certificate("a.example", b"pem")
        assert not reserved.exists()
    with state.reserve("a.example"):
        pass
    assert sorted(os.listdir(f"{state.folder}/certificates")) == ["a.example.pem"]


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.mkdir()
    (target / "inner").touch()
    with pytest.raises(OSError):
        write_atomically(str(target), b"new")
    assert not (tmp_path / "x.new").exists()


def test_a_damaged_certificate_is_set_aside(state: State) -> None:
    state.write_certificate("a.example", b"pem")
    state.set_certificate_aside("a.example")
    state.set_certificate_aside("a.example")
    assert os.listdir(f"{state.folder}/certificates") == ["a.example.pem.corrupt"]
