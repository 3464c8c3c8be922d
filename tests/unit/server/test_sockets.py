"""Listening sockets: binding addresses, and errors with a remedy."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from relayd.config.listener import Listener
from relayd.errors import ConfigError
from relayd.server.sockets import bind, split
from tests.aids.ports import free_port


@pytest.mark.parametrize(("address", "parts"), [
    ("127.0.0.1:80", ("tcp", "127.0.0.1", 80)), ("[::1]:81", ("tcp", "::1", 81)), (":82", ("tcp", "", 82)),
    ("unix:/run/a.sock", ("unix", "/run/a.sock", 0)), ("systemd:web", ("systemd", "web", 0)),
])
def test_an_address_has_three_parts(address: str, parts: tuple[str, str, int]) -> None:
    assert split(address) == parts


def test_a_tcp_address_is_bound_without_waiting() -> None:
    port = free_port()
    (sock,) = bind("public", Listener(address=f"127.0.0.1:{port}"), {})
    with sock:
        assert sock.getsockname() == ("127.0.0.1", port) and not sock.getblocking()
        with socket.create_connection(("127.0.0.1", port)):
            pass


def test_an_address_in_use_is_refused_with_a_cure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            bind("public", Listener(address=f"127.0.0.1:{port}"), {})
        (finding,) = caught.value.findings
        assert finding.path == "listeners.public.address" and str(port) in finding.suggestion and "ss -ltnp" in finding.suggestion


def test_a_port_can_be_shared_by_choice() -> None:
    listener = Listener(address=f"127.0.0.1:{free_port()}", reuse_port=True)
    (one,), (two,) = bind("a", listener, {}), bind("b", listener, {})
    with one, two:
        assert one.getsockname() == two.getsockname()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        bind("public", Listener(address="192.0.2.1:8282"), {})
    assert "does not have" in caught.value.findings[0].suggestion


def test_a_unix_socket_has_the_permissions_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    mask = os.umask(0o022)
    try:
        (sock,) = bind("public", Listener(address=f"unix:{path}", mode="0666"), {})
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(mask)
    with sock:
        assert path.stat().st_mode & 0o777 == 0o666


def test_a_unix_socket_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
        old.listen()
    (sock,) = bind("public", Listener(address=f"unix:{path}"), {})
    with sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_unix_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    (sock,) = bind("public", Listener(address=f"unix:{path}"), {})
    with sock:
        with pytest.raises(ConfigError, match="another process"):
            bind("other", Listener(address=f"unix:{path}"), {})
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        bind("public", Listener(address=f"unix:{path}"), {})
    assert path.read_text() == "precious"


@pytest.mark.parametrize("options", [{"owner": "nobody-of-that-name"}, {"owner": ":no-such-group"}])
def test_an_owner_that_does_not_exist_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="unknown user or group"):
        bind("public", Listener(address=f"unix:{tmp_path / 'a.sock'}", **options), {})


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        bind("public", Listener(address=f"unix:{tmp_path / 'no' / 'a.sock'}"), {})


def test_a_socket_of_systemd_is_found_by_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        assert bind("public", Listener(address="systemd:web"), {"web": [passed]}) == [passed]
        with pytest.raises(ConfigError, match=r"passed: web") as caught:
            bind("public", Listener(address="systemd:other"), {"web": [passed]})
        assert "FileDescriptorName" in caught.value.findings[0].suggestion


def test_all_addresses_of_ipv6_are_all_of_ipv4_too_unless_a_listener_of_its_own_has_them() -> None:
    (both,) = bind("a", Listener(address="[::]:0"), {})
    port = both.getsockname()[1]
    with both, socket.create_connection(("127.0.0.1", port), 5), socket.create_connection(("::1", port), 5):
        pass
    address = f"[::]:{port}"
    (four,) = bind("four", Listener(address=f"0.0.0.0:{port}"), {}, other_addresses=(address,))
    (six,) = bind("six", Listener(address=address), {}, other_addresses=(f"0.0.0.0:{port}",))
    with four, six:
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
