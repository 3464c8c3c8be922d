"""The watch: one epoll for many connections, and what is told behind each turn."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop

from relayd.server.watch import Watch
from tests.aids.turns import turned
from tests.unit.proxy.house import until


class Ear:
    """A watched socket that notes what it is told."""

    def __init__(self, heard: list[str], name: str) -> None:
        self.mine, self.theirs = socket.socketpair()
        self.mine.setblocking(False)
        self.heard, self.name, self.wanted = heard, name, True

    def receive(self) -> None:
        self.heard.append(f"{self.name}:{self.mine.recv(100).decode()}")

    def hung_up(self) -> None:
        self.heard.append(f"{self.name} hung up")
        self.wanted = True

    def close(self) -> None:
        self.mine.close()
        self.theirs.close()


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def ears(heard: list[str]) -> Iterator[list[Ear]]:
    made = [Ear(heard, name) for name in "ab"]
    yield made
    for ear in made:
        ear.close()


async def test_what_one_turn_brought_is_followed_by_one_call(heard: list[str], ears: list[Ear]) -> None:
    watch = Watch(IOLoop.current(), lambda: heard.append("after"))
    for ear in ears:
        watch.add(ear.mine.fileno(), ear)
        ear.theirs.send(b"x")
    await until(lambda: "after" in heard)
    assert sorted(heard[:2]) == ["a:x", "b:x"] and heard[2:] == ["after"]
    watch.close()


async def test_a_paused_connection_wakes_nobody_until_it_is_woken(heard: list[str], ears: list[Ear]) -> None:
    turns: list[int] = []
    watch = Watch(IOLoop.current(), lambda: turns.append(1))
    ear = ears[0]
    watch.add(ear.mine.fileno(), ear)
    ear.wanted = False
    ear.theirs.send(b"later")
    await until(lambda: turns)
    await turned()
    assert len(turns) == 1 and not heard
    ear.wanted = True
    watch.wake(ear.mine.fileno())
    await until(lambda: heard)
    assert heard == ["a:later"]
    watch.close()


async def test_the_end_of_a_paused_connection_is_told(heard: list[str], ears: list[Ear]) -> None:
    watch = Watch(IOLoop.current(), lambda: None)
    ear = ears[0]
    watch.add(ear.mine.fileno(), ear)
    ear.wanted = False
    ear.theirs.send(b"unread")
    await turned()
    ear.theirs.close()
    await until(lambda: heard)
    assert heard[0] == "a hung up"
    watch.close()


async def test_a_connection_that_raises_stops_no_other(heard: list[str], ears: list[Ear]) -> None:
    class Broken(Ear):
        def receive(self) -> None:
            super().receive()
            raise ValueError(self.name)

    watch = Watch(IOLoop.current(), lambda: heard.append("after"))
    broken = Broken(heard, "c")
    for ear in (broken, *ears):
        watch.add(ear.mine.fileno(), ear)
        ear.theirs.send(b"x")
    await until(lambda: "after" in heard)
    assert sorted(heard) == ["a:x", "after", "b:x", "c:x"]
    watch.close()
    broken.close()


async def test_what_was_removed_is_not_heard_again(heard: list[str], ears: list[Ear]) -> None:
    watch = Watch(IOLoop.current(), lambda: heard.append("after"))
    first = ears[0]

    class Remover(Ear):
        def receive(self) -> None:
            super().receive()
            for ear in ears:
                watch.remove(ear.mine.fileno())

    remover = Remover(heard, "r")
    watch.add(remover.mine.fileno(), remover)
    remover.theirs.send(b"x")
    await until(lambda: "after" in heard)
    for ear in ears:
        watch.add(ear.mine.fileno(), ear)
        ear.theirs.send(b"y")
    watch.remove(first.mine.fileno())
    heard.clear()
    await until(lambda: "after" in heard)
    assert heard[0] == "b:y" and "a:y" not in heard
    watch.close()
    remover.close()
