"""The archive of certificates: private, complete, and checked before anything of it is used."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest

from relayd.acme.state import LockedByOther, Record, State
from relayd.cli.certificate_archive import ArchiveFault, Imported, export, restore
from tests.unit.server.certificates import certificate


@pytest.fixture
def state(tmp_path: Path) -> State:
    one = State(str(tmp_path / "a/acme"))
    one.prepare()
    for name in ("a.example", "*.b.example"):
        made = certificate(tmp_path, name)
        one.write_certificate(name, Path(made.key).read_bytes() + Path(made.cert).read_bytes())
        one.write_record(name, Record(directory="https://d/"))
    one.write_account("https://d/", {"uri": "u"})
    one.add_challenge("http-01", "token", b"x")
    (Path(one.folder) / "certificates/a.example.pem.corrupt").touch()
    return one


def contents(state: State) -> dict[str, bytes]:
    top = Path(state.folder)
    return {str(file.relative_to(top)): file.read_bytes() for kind in ("accounts", "certificates") for file in top.glob(f"{kind}/*") if file.suffix != ".corrupt"}


def archive_of(file: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> str:
    with tarfile.open(file, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            archive.addfile(member, io.BytesIO(content))
    return str(file)


def test_what_is_exported_is_restored_elsewhere(state: State, tmp_path: Path) -> None:
    file = str(tmp_path / "backup.tar.gz")
    assert export(state, file) == 2 and os.stat(file).st_mode & 0o777 == 0o600
    (tmp_path / "b").mkdir()
    other = State(str(tmp_path / "b/acme"))
    assert restore(other, file) == Imported(("_.b.example", "a.example"), ())
    assert contents(other) == contents(state)
    assert all(os.stat(path).st_mode & 0o077 == 0 for path in (other.folder, other.certificate_file("a.example")))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_restores_as_the_owner_of_the_folder(state: State, tmp_path: Path) -> None:
    file, target = str(tmp_path / "backup.tar.gz"), Path(tempfile.mkdtemp())  # a folder that other users can reach
    try:
        export(state, file)
        os.chmod(target, 0o755)
        (target / "state").mkdir()
        os.chown(target / "state", 65534, 65534)
        other = State(str(target / "state/acme"))
        restore(other, file)
        found = os.stat(other.certificate_file("a.example"))
        assert (found.st_uid, found.st_gid, os.geteuid()) == (65534, 65534, 0)
        (target / "secret").write_text("x")
        (Path(other.folder) / "certificates/a.example.pem").unlink()
        (Path(other.folder) / "certificates/a.example.pem.new").symlink_to(target / "secret")
        with pytest.raises(PermissionError):
            restore(other, file)
        assert (target / "secret").read_text() == "x"
    finally:
        shutil.rmtree(target)


def test_a_certificate_that_is_valid_longer_stays(state: State, tmp_path: Path) -> None:
    file, other = str(tmp_path / "backup.tar.gz"), State(str(tmp_path / "b/acme"))
    export(state, file)
    other.prepare()
    made = certificate(tmp_path, "a.example", days=9)
    newer = Path(made.key).read_bytes() + Path(made.cert).read_bytes()
    other.write_certificate("a.example", newer)
    other.write_record("a.example", Record(failures=3))
    assert restore(other, file) == Imported(("_.b.example",), ("a.example",))
    assert Path(other.certificate_file("a.example")).read_bytes() == newer and other.read_record("a.example").failures == 3


def test_an_existing_file_is_not_replaced_and_an_empty_state_not_exported(state: State, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        export(state, str(tmp_path / "file"))
    empty = State(str(tmp_path / "empty"))
    empty.prepare()
    with pytest.raises(ArchiveFault, match="contains no"):
        export(empty, str(tmp_path / "x"))


def test_while_relayd_orders_nothing_is_exported_or_restored(state: State, tmp_path: Path) -> None:
    file = str(tmp_path / "backup.tar.gz")
    export(state, file)
    with state.lock():
        for action in (export, restore):
            with pytest.raises(LockedByOther):
                action(state, file if action is restore else str(tmp_path / "y"))


@pytest.mark.parametrize("members", [
    {"../x.json": b"{}"}, {"/etc/x.json": b"{}"}, {"certificates/../../x.json": b"{}"}, {"challenges/http-01/t": b"x"}, {"certificates/a.pem": b"x"},
    {"accounts/a.json": b"{"}, {"accounts/a.json": b"[" * 200_000}, {"accounts/a.json": b"[1]"}, {"certificates/a.json": b"x" * (2 << 20)}, {},
])
def test_what_export_does_not_write_is_refused(state: State, tmp_path: Path, members: dict[str, bytes]) -> None:
    before = contents(state)
    with pytest.raises(ArchiveFault):
        restore(state, archive_of(tmp_path / "x.tar.gz", {"accounts/ok.json": b"{}"} | members if members else {}))
    assert contents(state) == before


def test_a_link_is_refused_and_so_is_another_file(state: State, tmp_path: Path) -> None:
    with pytest.raises(ArchiveFault, match="does not belong"):
        restore(state, archive_of(tmp_path / "x.tar.gz", {"accounts/a.json": b""}, tarfile.SYMTYPE))
    (tmp_path / "text").write_text("text")
    with pytest.raises(ArchiveFault, match="is not an archive"):
        restore(state, str(tmp_path / "text"))
    cert = certificate(tmp_path, "c.example").cert
    with pytest.raises(ArchiveFault, match="no private key"):
        restore(state, archive_of(tmp_path / "y.tar.gz", {"certificates/c.example.pem": Path(cert).read_bytes()}))
