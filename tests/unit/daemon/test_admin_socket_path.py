"""The path of the admin socket, and how a command finds it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from relayd.daemon import admin_socket_path


@pytest.mark.parametrize(
    "text",
    [
        "admin: {address: unix:/run/x.sock}",
        'admin:\n  address: "unix:/run/x.sock"\n',
        "listeners:\n  public: {address: 127.0.0.1:1}\nadmin:\n  mode: '0600'\n\n  # here\n  address: unix:/run/x.sock # so\nroutes: []\n",
        '{\n "listeners": {"a": {"address": "unix:/other"}},\n "admin": {\n  "address": "unix:/run/x.sock"\n }\n}',
        '{"admin": {"address": "unix:/run/x.sock"}}',
        "admin: {mode: '0660', address: 'unix:/run/x.sock'}\nroutes: [{{{ broken",
    ],
)
def test_the_address_is_read_off_the_text_however_it_is_written(text: str) -> None:
    assert admin_socket_path.written_address(text) == "unix:/run/x.sock"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "listeners:\n  admin: {address: 127.0.0.1:1}\n",
        "#admin: {address: unix:/run/x.sock}\n",
        "admin:\n  mode: '0600'\nlisteners:\n  public:\n    address: unix:/run/x.sock\n",
        "admin:\n  # address: unix:/run/x.sock\n",
        "routes: [{name: a, upstream: admin}]",
    ],
)
def test_another_address_is_not_taken_for_it(text: str) -> None:
    assert admin_socket_path.written_address(text) == admin_socket_path.DEFAULT_ADDRESS


def test_a_written_address_is_taken_as_it_is(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/not/there/yet/admin.sock"
    assert admin_socket_path.socket_path(address) == admin_socket_path.socket_file(address)


def test_the_private_folder_is_the_session_s_when_there_is_one(tmp_path: Path) -> None:
    assert admin_socket_path.private_folder({"XDG_RUNTIME_DIR": str(tmp_path)}) == str(tmp_path / "relayd")
    assert admin_socket_path.private_folder({"XDG_RUNTIME_DIR": str(tmp_path / "gone")}).endswith(f"relayd-{os.getuid()}")


def test_a_folder_that_others_can_write_is_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError):
        admin_socket_path.make_private_folder(str(folder))


def test_a_link_to_a_folder_of_our_own_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PermissionError):
        admin_socket_path.make_private_folder(str(tmp_path / "link"))


def test_an_own_folder_is_closed_to_others(tmp_path: Path) -> None:
    path = admin_socket_path.make_private_folder(str(tmp_path / "a" / "b"))
    assert os.stat(path).st_mode & 0o777 == 0o700


def test_a_note_is_found_forgotten_and_never_another_daemon_s(tmp_path: Path) -> None:
    file = str(tmp_path / "relayd.yaml")
    path = admin_socket_path.write_note(file, "/run/one.sock")
    assert path
    assert admin_socket_path.candidates(file, "admin: {address: unix:/run/other.sock}") == ["/run/one.sock", "/run/other.sock"]
    admin_socket_path.write_note(file, "/run/two.sock")  # a second daemon on this file
    admin_socket_path.remove_note(path, "/run/one.sock")
    assert admin_socket_path.read_note(path) == "/run/two.sock"
    admin_socket_path.remove_note(path, "/run/two.sock")
    assert not os.path.exists(path)


def test_without_a_note_and_an_address_both_usual_places_are_tried(tmp_path: Path) -> None:
    found = admin_socket_path.candidates(str(tmp_path / "none.yaml"), "", {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert found == ["/run/relayd/admin.sock", str(tmp_path / "relayd" / "admin.sock")]


def test_a_private_socket_is_this_user_s_and_no_command_looks_for_it_in_the_system_s_place(tmp_path: Path) -> None:
    session = {"XDG_RUNTIME_DIR": str(tmp_path)}
    private = str(tmp_path / "relayd" / "admin.sock")
    assert admin_socket_path.socket_path("private", session) == private
    for text in ("admin: {address: private}", "admin:\n  address: 'private' # so\n", "admin: {address: private}\nroutes: [{{ "):
        assert admin_socket_path.candidates(str(tmp_path / "none.yaml"), text, session) == [private]
    assert admin_socket_path.written_address("admin: {address: privateer}") == admin_socket_path.DEFAULT_ADDRESS


def test_a_path_that_is_not_the_configured_one() -> None:
    environment = {"RUNTIME_DIRECTORY": "/run/relayd-1"}
    for path, address, moved in (
        ("/run/relayd/admin.sock", admin_socket_path.DEFAULT_ADDRESS, False), ("/a", "unix:/a", False), ("/b", "unix:/a", True),
        ("/run/relayd-1/admin.sock", "private", False), ("/run/relayd-1/admin-7.sock", "private", True),
    ):
        assert admin_socket_path.is_moved(path, address, environment) is moved


def test_a_socket_of_another_relayd_is_not_taken_from_it(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    path = str(tmp_path / "admin.sock")
    own = str(tmp_path / "relayd" / f"admin-{os.getpid()}.sock")
    for address in (admin_socket_path.DEFAULT_ADDRESS, "private"):
        assert admin_socket_path.unheld(path, address, environment) == path
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        assert admin_socket_path.unheld(path, admin_socket_path.DEFAULT_ADDRESS, environment) == path, "left by a process that has ended"
        other.listen(0)
        for address in (admin_socket_path.DEFAULT_ADDRESS, "private"):
            assert admin_socket_path.unheld(path, address, environment) == own
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for client in (first, second):
                client.setblocking(False)
                client.connect_ex(path)
            assert admin_socket_path.unheld(path, admin_socket_path.DEFAULT_ADDRESS, environment) == own, "its queue is full"
        assert admin_socket_path.unheld(path, f"unix:{path}", environment) == path, "an address that is configured is meant"
        assert admin_socket_path.unheld(path, admin_socket_path.DEFAULT_ADDRESS, {**environment, "RUNTIME_DIRECTORY": "/run/relayd"}) == path


def test_the_note_of_a_private_socket_outlives_the_folder_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(admin_socket_path, "SYSTEM_FOLDER", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    private = str(tmp_path / "relayd" / "admin-7.sock")
    assert admin_socket_path.write_note("/a.yaml", private).startswith(str(tmp_path / "relayd"))
    assert admin_socket_path.write_note("/b.yaml", str(tmp_path / "run" / "admin.sock")).startswith(str(tmp_path / "run"))
    assert admin_socket_path.candidates("/a.yaml", "")[0] == private


def test_the_instances_of_a_host_are_those_with_a_runtime_folder(tmp_path: Path) -> None:
    for name in ("relayd", "relayd-2", "relayd-1", "relayd-blue-7", "other-3"):
        (tmp_path / name).mkdir()
    assert admin_socket_path.running_instances(f"{tmp_path}/relayd") == ["1", "2", "blue-7"]
    assert admin_socket_path.running_instances(f"{tmp_path}/none") == []
