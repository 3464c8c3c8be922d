"""Sockets passed by the service manager."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from relayd.daemon.activation import close_unnamed, inherited_sockets, named

FIRST = 200  # far above the open descriptors of the test runner


@pytest.fixture
def handed_over() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two blocking listening sockets, also at descriptors FIRST and FIRST + 1."""
    pair = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    for number, one in enumerate(pair):
        os.dup2(one.fileno(), FIRST + number)
    yield pair
    for number, one in enumerate(pair):
        one.close()
        try:
            os.close(FIRST + number)
        except OSError:
            pass


def environment(**change: str) -> dict[str, str]:
    return {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "public:other", **change}


Pair = tuple[socket.socket, socket.socket]


def close(found: dict[str, list[socket.socket]]) -> None:
    for sockets in found.values():
        for one in sockets:
            one.close()


def test_sockets_are_found_by_name_and_made_non_blocking(handed_over: Pair) -> None:
    found = inherited_sockets(environment(), FIRST)
    assert {name: [one.getsockname() for one in sockets] for name, sockets in found.items()} == {
        "public": [handed_over[0].getsockname()], "other": [handed_over[1].getsockname()],
    }
    for sockets in found.values():
        assert not sockets[0].getblocking()
        assert not os.get_inheritable(sockets[0].fileno())
    close(found)


def test_two_sockets_of_one_name_belong_together(handed_over: Pair) -> None:
    found = inherited_sockets(environment(LISTEN_FDNAMES="public:public"), FIRST)
    assert [len(sockets) for sockets in found.values()] == [2]
    close(found)


def test_sockets_without_names_are_called_unknown(handed_over: Pair) -> None:
    found = inherited_sockets(environment(LISTEN_FDNAMES=""), FIRST)
    assert list(found) == ["unknown"]
    close(found)


def test_sockets_for_another_process_are_not_used(handed_over: Pair) -> None:
    assert inherited_sockets(environment(LISTEN_PID="1"), FIRST) == {}
    os.fstat(FIRST)


def test_nothing_handed_over_is_nothing_found() -> None:
    assert inherited_sockets({}) == {}


def test_a_descriptor_that_is_no_socket_is_passed_over(handed_over: Pair) -> None:
    reading, writing = os.pipe()
    os.dup2(reading, FIRST)
    found = inherited_sockets(environment(), FIRST)
    assert list(found) == ["other"]
    close(found)
    os.close(reading)
    os.close(writing)


def test_the_variables_do_not_reach_children() -> None:
    left = environment(LISTEN_FDS="0", PATH="/bin")
    inherited_sockets(left)
    assert left == {"PATH": "/bin"}


def test_sockets_that_no_listener_names_are_closed(handed_over: Pair) -> None:
    found = inherited_sockets(environment(), FIRST)
    assert close_unnamed(found, named(["127.0.0.1:80", "systemd:public", "unix:/other"])) == ["other"]
    assert found["other"][0].fileno() == -1
    assert found["public"][0].fileno() >= 0
    close(found)
