"""`relayd rollback`: the files that change, their backups, and the restore after a refused reload."""

from __future__ import annotations

import os
import resource
import signal
import stat
from pathlib import Path

import pytest

from relayd.cli.main import main
from relayd.daemon.generations import Generations
from tests.unit.cli.commands.conftest import ServeReply

ACCEPTED = {"accepted": True, "generation": 9, "changes": ["~ routes"], "findings": [], "warnings": []}
REFUSED = {"accepted": False, "generation": 8, "changes": [], "findings": ["no key"], "warnings": []}


class Site:
    """A configuration with a drop-in, and two generations of it."""

    def __init__(self, folder: Path) -> None:
        self.file, self.drop_in, self.state = folder / "relayd.yaml", folder / "d" / "a.yaml", folder / "state"
        self.drop_in.parent.mkdir()
        self.old = f"include: {folder}/d/*.yaml\nlisteners: {{a: {{address: '127.0.0.1:1'}}}}\n"
        generations = Generations(str(self.state / "generations"))
        generations.save(3, 0, ((str(self.file), self.old),))
        generations.save(4, 1, ((str(self.file), self.old + "# newer\n"), (str(self.drop_in), "routes: []\n")))
        self.file.write_text(self.old + "# newer\n")
        self.file.chmod(0o640)
        self.drop_in.write_text("routes: []\n")

    def arguments(self) -> list[str]:
        return ["rollback", "--state", str(self.state)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_without_a_number_the_one_before_is_put_back(site: Site, serve_reply: ServeReply) -> None:
    assert main([*site.arguments(), *serve_reply(200, ACCEPTED)]) == 0
    assert site.file.read_text() == site.old
    assert stat.S_IMODE(site.file.stat().st_mode) == 0o640
    assert Path(f"{site.file}.before-rollback").read_text().endswith("# newer\n")
    assert not site.drop_in.exists(), "generation 3 had no drop-in"
    assert Path(f"{site.drop_in}.before-rollback").read_text() == "routes: []\n"


def test_a_missing_drop_in_is_restored(site: Site, serve_reply: ServeReply) -> None:
    site.drop_in.unlink()
    site.file.write_text("broken: [")
    assert main([*site.arguments(), "4", *serve_reply(200, ACCEPTED)]) == 0
    assert site.drop_in.read_text() == "routes: []\n"
    assert site.file.read_text().endswith("# newer\n")


def test_a_refused_reload_restores_the_files(
    site: Site, serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]
) -> None:
    before = site.file.read_text()
    assert main([*site.arguments(), "3", *serve_reply(422, REFUSED)]) == 1
    assert (site.file.read_text(), site.drop_in.read_text()) == (before, "routes: []\n")
    assert sorted(os.listdir(site.file.parent)) == ["d", "relayd.yaml", "reply.sock", "state"]
    assert "no key" in capsys.readouterr().err


def test_a_missing_daemon_restores_the_files(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    before = site.file.read_text()
    assert main([*site.arguments(), "3", "--socket", "/nowhere/admin.sock"]) == 1
    assert site.file.read_text() == before
    assert "/nowhere/admin.sock" in capsys.readouterr().err


def test_a_file_that_did_not_exist_is_not_restored_from_an_older_backup(site: Site) -> None:
    """An earlier rollback has left it; the file itself was removed since."""
    site.drop_in.unlink()
    backup = Path(f"{site.drop_in}.before-rollback")
    backup.write_text("routes: [] # of long ago\n")
    assert main([*site.arguments(), "4", "--socket", "/nowhere/admin.sock"]) == 1
    assert not site.drop_in.exists()
    assert backup.read_text() == "routes: [] # of long ago\n"


def test_a_rollback_that_fails_on_a_full_disk_leaves_nothing_behind(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    text = site.file.read_text() + "# " + "x" * 5000 + "\n"
    site.file.write_text(text)
    backup = Path(f"{site.file}.before-rollback")
    backup.write_text("of an earlier rollback\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        assert main([*site.arguments(), "3", "--socket", "/nowhere/admin.sock"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "nothing was rolled back" in capsys.readouterr().err
    assert site.file.read_text() == text
    assert backup.read_text() == "of an earlier rollback\n"
    assert not [name for name in os.listdir(site.file.parent) if name.endswith(".new")]


def test_the_list_shows_numbers_times_and_files(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.state / "generations" / "5.json").write_text("{")
    assert main([*site.arguments(), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["3", "4", "5"]
    assert "1970-01-01 00:00:01 UTC" in lines[2] and "a.yaml" in lines[2]
    assert "cannot be read" in lines[3]


@pytest.mark.parametrize(("number", "word"), [("77", "there are 3, 4"), ("0", "there are 3, 4")])
def test_a_generation_that_is_not_saved_is_reported(
    number: str, word: str, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*site.arguments(), number]) == 1
    assert word in capsys.readouterr().err


def test_a_state_directory_without_generations_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback", "--state", str(tmp_path)]) == 1
    assert "no generations" in capsys.readouterr().err
