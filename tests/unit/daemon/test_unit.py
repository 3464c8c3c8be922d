"""The installed unit, and the paths that it lets relayd read and write."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.daemon.unit import Unit, load_unit

SYSTEMD = Path(__file__).resolve().parents[3] / "systemd"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, ...]:
    for name in ("etc", "usr"):
        (tmp_path / name / "relayd.service.d").mkdir(parents=True)
    (tmp_path / "usr" / "relayd.service").write_text((SYSTEMD / "relayd.service").read_text())
    return str(tmp_path / "etc"), str(tmp_path / "usr")


def unit(folders: tuple[str, ...], dropin: str = "") -> Unit:
    Path(folders[0], "relayd.service.d", "x.conf").write_text(dropin)
    found = load_unit("relayd.service", folders)
    assert found is not None
    return found


def test_the_package_s_unit_lets_relayd_write_in_its_own_folders_alone(folders: tuple[str, ...]) -> None:
    found = unit(folders)
    assert found.value("User") == "relayd"
    for file in ("/var/log/relayd/access.log", "/var/lib/relayd/store.sqlite", "/run/relayd/admin.sock", "/tmp/x"):
        assert found.forbids_writing(file) == "", file
    for file in ("/var/log/access.log", "/var/log/relayd2/x", "/etc/relayd/x", "/srv/x"):
        assert found.forbids_writing(file) == "ProtectSystem=strict", file
    assert found.environment()["STATE_DIRECTORY"] == "/var/lib/relayd"
    assert found.environment()["LOGS_DIRECTORY"] == "/var/log/relayd"


def test_a_drop_in_adds_and_takes_back(folders: tuple[str, ...]) -> None:
    assert unit(folders, "[Service]\nReadWritePaths=/srv/logs \\\n  -/opt\n").forbids_writing("/srv/logs/x") == ""
    assert unit(folders, "[Service]\nProtectSystem=full\n").forbids_writing("/srv/x") == ""
    assert unit(folders, "[Service]\nProtectSystem=full\n").forbids_writing("/etc/x") == "ProtectSystem=full"
    assert unit(folders, "[Service]\nLogsDirectory=\n").forbids_writing("/var/log/relayd/x") == "ProtectSystem=strict"
    assert unit(folders, "[Unit]\nUser=other\n# User=comment\n").value("User") == "relayd"


def test_a_hidden_path_is_named_with_its_setting(folders: tuple[str, ...]) -> None:
    found = unit(folders, "[Service]\nInaccessiblePaths=/srv/secret\n")
    assert found.hides("/run/user/1000/key") == "ProtectHome=yes"
    assert found.hides("/tmp/key") == "PrivateTmp=yes"
    assert found.hides("/srv/secret/key") == "InaccessiblePaths="
    assert found.hides("/etc/relayd/keys/x") == ""


def test_no_unit_is_none(tmp_path: Path) -> None:
    assert load_unit("relayd.service", (str(tmp_path),)) is None
    assert load_unit(str(tmp_path / "x.service")) is None


def test_an_unknown_user_is_reported_without_changing_anything() -> None:
    assert "does not exist" in Unit("u", {"User": ["no-such-user"]}).switch_user()


def test_a_dynamic_user_is_nobody_and_its_folders_are_its_own(folders: tuple[str, ...]) -> None:
    found = unit(folders, "[Service]\nDynamicUser=yes\nUser=relayd-dynamic\nGroup=\nProtectSystem=no\nProtectHome=no\n")
    assert found.dynamic and found.user == "of DynamicUser="
    uid, gid, groups = found.identity()
    assert 61184 <= uid <= 65519 and gid == uid and groups == [gid]
    assert found.forbids_writing("/srv/x") == "ProtectSystem=strict"
    assert found.forbids_writing("/etc/x") == "ProtectSystem=strict"
    assert found.forbids_writing("/var/lib/private/relayd/store.sqlite") == ""
    assert found.hides("/run/user/1000/x") == "" and found.hides("/tmp/x") == "PrivateTmp=yes"
    known = unit(folders, "[Service]\nDynamicUser=yes\nUser=root\nGroup=root\n")
    assert not known.dynamic and known.identity()[0] == 0, "a user of that name is used as it is"


def test_specifiers_are_replaced(tmp_path: Path) -> None:
    found = Unit("relayd@7.service", {"ReadWritePaths": ["%S/%p/%i /100%%"]})
    assert found.forbids_writing("/var/lib/relayd/7/x") == ""
    assert found.values("ReadWritePaths") == ["/var/lib/relayd/7 /100%"]
