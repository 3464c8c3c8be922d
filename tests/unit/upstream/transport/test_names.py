"""Names and their routes: when one is looked up, and what a new address changes."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import pytest
from tornado.ioloop import IOLoop

from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.names import Name, Names, without_route
from tests.unit.upstream.scripted import driver_of

Found = Callable[..., None]


class Retired:
    """Who holds the connections."""

    def __init__(self) -> None:
        self.names: list[Name] = []

    def retire(self, name: Name) -> None:
        self.names.append(name)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the system's resolver says; a name that is not in it does not exist."""
    known: dict[str, list[str]] = {}

    def look_up(host: str, port: int, type: int = 0) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, type, 6, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


async def looked_up(names: Names, name: Name) -> None:
    """One lookup, when its time has come."""
    names._stop(name)
    names._look_up(name)
    async with asyncio.timeout(60):
        while name.timer is None:
            await asyncio.sleep(0)


async def test_an_address_that_is_gone_makes_a_new_route_and_nothing_else_does(answers: dict[str, list[str]]) -> None:
    retired = Retired()
    names = Names(IOLoop.current(), retired)
    answers["up.test"] = ["10.0.0.1", "10.0.0.2"]
    name = names.join("up.test", 443, 30.0)
    assert name is not None and name.route is None
    await looked_up(names, name)
    first = name.route
    assert first is not None and retired.names == [name]  # what libcurl resolved by itself gives way, once
    assert first.connect_to == [f"::{first.host}:443"] and first.resolve == [f"{first.host}:443:10.0.0.1,10.0.0.2"]
    for same in (["10.0.0.2", "10.0.0.1"], ["10.0.0.2", "10.0.0.1", "2001:db8::1"]):
        answers["up.test"] = same
        await looked_up(names, name)
        assert name.route is not None and name.route.host == first.host and len(retired.names) == 1
    assert name.route is not None and name.route.resolve == [f"{first.host}:443:10.0.0.2,10.0.0.1,[2001:db8::1]"]
    answers["up.test"] = ["10.0.0.2"]
    await looked_up(names, name)
    assert name.route.host != first.host and len(retired.names) == 2
    assert name.route.resolve == [f"{name.route.host}:443:10.0.0.2", f"+{first.host}:443:10.0.0.2,10.0.0.1,[2001:db8::1]"]
    names.close()


async def test_a_failed_lookup_changes_nothing_and_is_told_once(answers: dict[str, list[str]], caplog: pytest.LogCaptureFixture) -> None:
    retired = Retired()
    names = Names(IOLoop.current(), retired)
    answers["up.test"] = ["10.0.0.1"]
    name = names.join("up.test", 80, 30.0)
    assert name is not None
    await looked_up(names, name)
    route = name.route
    del answers["up.test"]
    with caplog.at_level(logging.WARNING, logger="relayd.transport"):
        for _ in range(3):
            await looked_up(names, name)
    assert name.route is route and name.addresses == ("10.0.0.1",) and len(retired.names) == 1 and len(caplog.records) == 1
    assert name.describe(name.resolved_s + 5.0) == {"addresses": ["10.0.0.1"], "addresses_age_s": 5.0, "lookup_fault": "Name or service not known"}
    answers["up.test"] = ["10.0.0.1"]
    await looked_up(names, name)
    assert name.fault == "" and name.route is route
    names.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "fe80::1%eth0", "localhost", "LocalHost.", "api.localhost", "x" * 240])
async def test_an_address_and_a_name_of_this_machine_are_not_looked_up(host: str) -> None:
    assert Names(IOLoop.current(), Retired()).join(host, 80, 30.0) is None


async def test_pools_share_a_name_and_the_last_one_ends_its_lookups(answers: dict[str, list[str]]) -> None:
    names = Names(IOLoop.current(), Retired())
    answers["up.test"] = ["10.0.0.1"]
    first, second, other = names.join("up.test", 80, 30.0), names.join("up.test", 80, 30.0), names.join("up.test", 80, 5.0)
    assert first is second and first is not None and other is not None and other is not first
    await looked_up(names, first)
    names.leave(first)
    assert first.timer is not None and names.join("up.test", 80, 30.0) is first
    names.leave(first)
    names.leave(first)
    assert first.timer is None and names.join("up.test", 80, 30.0) is not first
    names.close()


async def test_no_thread_left_is_a_failed_lookup(answers: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise RuntimeError("can't start new thread")

    names = Names(IOLoop.current(), Retired())
    name = names.join("up.test", 80, 30.0)
    assert name is not None
    monkeypatch.setattr("threading.Thread.start", refuse)
    await looked_up(names, name)
    assert name.fault == "can't start new thread" and name.route is None
    names.close()


def test_what_libcurl_says_of_a_route_names_the_host() -> None:
    message = "Failed to connect to api.example.com.17.relayd.invalid port 443 after 3 ms: Couldn't connect to server"
    assert without_route(message) == "Failed to connect to api.example.com port 443 after 3 ms: Couldn't connect to server"


async def test_a_lookup_that_ends_after_the_loop_hurts_nobody(client: StreamClient, answers: dict[str, list[str]]) -> None:
    answers["up.test"] = ["10.0.0.1"]
    names = driver_of(client).names
    name = names.join("up.test", 80, 30.0)
    assert name is not None
    names.close()
    names._found(name, ("10.0.0.1",), "")
    assert name.route is None
