"""Listeners: accepting, bounding, and changing on a reload."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import resource
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relayd.config.listener import Listener, ListenerLimits
from relayd.errors import ConfigError
from relayd.server import acceptor
from relayd.server.listener import ListenerSet
from relayd.server.sockets import apply_socket_options, bind
from tests.aids.ports import free_port
from tests.aids.turns import turned
from tests.unit.proxy.harness import Harness, Side, get, running, soon, status_of, until


async def silent(side: Side) -> None:
    await side.message()
    await side.gone()


# ---- one listener


async def test_a_peer_above_its_limit_gets_503_with_retry_after(tmp_path: Path) -> None:
    async with running(tmp_path, listener="limits: {connections_per_peer: 2}") as harness:
        first, second = await harness.connect(), await harness.connect()
        await until(lambda: len(harness.listening.connections) == 2)
        third = await harness.connect()
        head, _ = await third.message()
        assert status_of(head) == 503 and b"Retry-After: 1" in head and await third.rest() == b""
        assert (await harness.accounted(1))[0].code == "too_many_connections"
        first.close()
        await until(lambda: len(harness.listening.connections) == 1)
        fourth = await harness.connect()
        fourth.write(get())
        assert status_of((await fourth.message())[0]) == 200
        second.write(get())
        assert status_of((await second.message())[0]) == 200
        await harness.accounted(3)


async def test_a_trusted_proxy_may_bring_as_many_connections_as_its_clients_need(tmp_path: Path) -> None:
    async with running(tmp_path, listener='trusted_proxies: ["127.0.0.1"], limits: {connections_per_peer: 1}') as harness:
        for number in range(3):
            side = await harness.connect()
            side.write(get("/x", f"X-Forwarded-For: 203.0.113.{number}"))
            assert status_of((await side.message())[0]) == 200
        assert [record.client for record in await harness.accounted(3)] == [f"203.0.113.{number}" for number in range(3)]


async def test_at_its_limit_a_listener_lets_newcomers_wait(tmp_path: Path) -> None:
    async with running(tmp_path, listener="limits: {connections: 1}") as harness:
        first, second = await harness.connect(), await harness.connect()
        second.write(get())
        first.write(get())
        assert status_of((await first.message())[0]) == 200
        await turned()
        assert harness.listening.count == 1 and len(harness.accounts) == 1
        first.close()
        assert status_of((await second.message())[0]) == 200
        await harness.accounted(2)
        assert "listener_paused" in harness.log_output.getvalue()


async def test_at_its_limit_a_listener_accepts_as_soon_as_a_connection_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer alone would accept `connections` clients in each of its intervals."""
    monkeypatch.setattr(acceptor, "RETRY_S", 3600.0)
    async with running(tmp_path, listener="limits: {connections: 1}") as harness:
        clients = [await harness.connect() for _ in range(30)]
        for side in clients:
            side.write(get("/", "Connection: close"))
        for side in clients:
            assert status_of((await side.message())[0]) == 200
        assert harness.telemetry.metrics.value("relayd.listener.refused", reason="limit") < len(clients)


async def test_a_listener_that_the_drain_has_paused_stays_paused(tmp_path: Path) -> None:
    async with running(tmp_path, listener="limits: {connections: 1}") as harness:
        first, second = await harness.connect(), await harness.connect()
        first.write(get())
        assert status_of((await first.message())[0]) == 200
        await until(lambda: "listener_paused" in harness.log_output.getvalue())
        harness.listening.pause()
        first.close()
        await until(lambda: harness.listening.count == 0)
        second.write(get())
        await turned()
        assert harness.listening.count == 0


async def test_the_gateway_may_be_full_too(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        room: list[int] = []
        harness.gateway.full = lambda: not room
        side = await harness.connect()
        side.write(get())
        await turned()
        assert harness.listening.count == 0
        room.append(1)
        assert status_of((await side.message())[0]) == 200


async def test_a_paused_listener_accepts_again(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        harness.listening.pause()
        harness.listening.pause()
        side = await harness.connect()
        side.write(get())
        await turned()
        assert harness.listening.count == 0
        harness.listening.accept()
        harness.listening.accept()
        assert status_of((await side.message())[0]) == 200


async def test_peers_on_a_unix_socket_are_named_so_and_not_counted(tmp_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "a.sock"))
    sock.listen()
    options = 'trusted_proxies: [unix], limits: {connections_per_peer: 1}'
    async with running(tmp_path, listener=options, sock=sock) as harness:
        for name in ("one", "two"):
            side = await harness.connect()
            side.write(get("/x", f"X-Request-ID: {name}", "X-Forwarded-For: 203.0.113.9"))
            assert status_of((await side.message())[0]) == 200
        found = await harness.accounted(2)
        assert [(record.peer, record.client, record.id) for record in found] == [
            ("unix", "203.0.113.9", "one"), ("unix", "203.0.113.9", "two")]


# ---- all of them


@contextlib.asynccontextmanager
async def listeners(tmp_path: Path, script: object = None) -> AsyncIterator[tuple[Harness, ListenerSet]]:
    async with running(tmp_path, script) as harness:  # type: ignore[arg-type]
        every = ListenerSet(harness.gateway, harness.telemetry)
        try:
            yield harness, every
        finally:
            every.abort_all()
            every.close()
            await asyncio.sleep(0)


async def ask(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get("/x", "Connection: close"))
    answer = await soon(reader.read())
    writer.close()
    await asyncio.sleep(0)
    return status_of(answer)


async def test_committed_listeners_are_served_and_removed_ones_are_not(tmp_path: Path) -> None:
    async with listeners(tmp_path) as (_, every):
        one, two = free_port(), free_port()
        every.commit(every.prepare({"one": Listener(address=f"127.0.0.1:{one}")}))
        assert await ask(one) == 200
        kept = every.active["one"].sockets
        every.commit(every.prepare({
            "renamed": Listener(address=f"127.0.0.1:{one}"), "two": Listener(address=f"127.0.0.1:{two}")}))
        assert every.active["renamed"].sockets is kept
        assert [await ask(one), await ask(two)] == [200, 200]
        every.commit(every.prepare({"two": Listener(address=f"127.0.0.1:{two}")}))
        with pytest.raises(ConnectionRefusedError):
            await ask(one)
        assert await ask(two) == 200


async def test_a_failed_preparation_leaves_nothing_behind(tmp_path: Path) -> None:
    async with listeners(tmp_path) as (_, every):
        port, path = free_port(), tmp_path / "a.sock"
        with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigError):
            every.prepare({
                "good": Listener(address=f"127.0.0.1:{port}"), "file": Listener(address=f"unix:{path}"),
                "bad": Listener(address=f"127.0.0.1:{other.getsockname()[1]}")})
        assert not path.exists() and not every.active
        with socket.create_server(("127.0.0.1", port)):
            pass


async def test_connections_of_a_removed_listener_finish(tmp_path: Path) -> None:
    async with listeners(tmp_path, silent) as (harness, every):
        port = free_port()
        every.commit(every.prepare({"one": Listener(address=f"127.0.0.1:{port}")}))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get())
        await until(lambda: harness.endpoint_sides and every.connections == 2)
        every.commit(every.prepare({}))
        assert await soon(idle.read()) == b"" and every.connections == 1
        harness.endpoint_sides[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert (await soon(reader.readuntil(b"ok"))).startswith(b"HTTP/1.1 200 OK")
        writer.close()
        idle_writer.close()
        await harness.accounted(1)


async def test_limits_change_for_connections_that_exist(tmp_path: Path) -> None:
    async with listeners(tmp_path) as (_, every):
        config = Listener(address=f"127.0.0.1:{free_port()}")
        every.commit(every.prepare({"one": config}))
        first = every.active["one"]
        every.commit(every.prepare({"one": dataclasses.replace(config, limits=ListenerLimits(requests=3))}))
        assert every.active["one"] is first and first.max_requests == 3


async def test_the_limit_of_all_listeners_together_holds(tmp_path: Path) -> None:
    async with listeners(tmp_path) as (harness, every):
        port = free_port()
        every.commit(every.prepare({"one": Listener(address=f"127.0.0.1:{port}")}))
        every.limit = 1
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: every.connections == 1)
        assert harness.gateway.full()
        writer.close()
        await until(lambda: not harness.gateway.full())
        assert await ask(port) == 200


async def test_a_stop_closes_idle_connections_and_then_all(tmp_path: Path) -> None:
    async with listeners(tmp_path, silent) as (harness, every):
        port, path = free_port(), tmp_path / "a.sock"
        every.commit(every.prepare({"one": Listener(address=f"127.0.0.1:{port}"), "two": Listener(address=f"unix:{path}")}))
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(get())
        await until(lambda: harness.endpoint_sides and every.connections == 2)
        every.close()
        assert not path.exists()
        every.close_idle_connections()
        assert await soon(idle.read()) == b""
        every.abort_all()
        assert status_of(await soon(reader.read())) == 503
        for one in (writer, idle_writer):
            one.close()
        assert (await harness.accounted(1))[0].code == "stopped"


# ---- out of descriptors

SCARCE = """
import asyncio, os, resource, sys, time
from pathlib import Path
from tests.unit.proxy.harness import get, running, status_of, until

async def main():
    async with running(Path(sys.argv[1])) as house:
        first = await house.connect()
        first.write(get())
        await first.message()
        used = max(int(name) for name in os.listdir("/proc/self/fd"))
        import socket
        waiting = socket.socket()
        waiting.setblocking(False)
        fill = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, hard))
        try:
            while True:
                fill.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        await asyncio.get_running_loop().sock_connect(waiting, house.address)
        await asyncio.get_running_loop().sock_sendall(waiting, get())
        loop, turns = asyncio.get_running_loop(), []
        once = loop._run_once
        loop._run_once = lambda: (turns.append(1), once())
        await asyncio.sleep(0.4)
        assert len(turns) < 100, "it spins"
        loop._run_once = once
        first.write(get())
        assert status_of((await first.message())[0]) == 200
        assert len(house.accounts) == 2 and "listener_paused" in house.log_output.getvalue()
        for fd in fill:
            os.close(fd)
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(waiting, 4096), 60)
        assert status_of(answer) == 200
        waiting.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

asyncio.run(main())
print("served again")
"""


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 64, reason="too few descriptors to begin with")
def test_out_of_descriptors_it_waits_without_spinning_and_comes_back(tmp_path: Path) -> None:
    here = Path(__file__).resolve().parents[3]
    made = subprocess.run(
        [sys.executable, "-c", SCARCE, str(tmp_path)], cwd=here, env={**os.environ, "PYTHONPATH": str(here)},
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert made.stdout == "served again\n", made.stderr


async def test_backlog_mode_and_owner_change_on_the_socket_that_stays(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    old = Listener(address=f"unix:{path}", mode="0600", backlog=10)
    sock = bind("a", old, {})[0]
    with contextlib.closing(sock):
        apply_socket_options([sock], old, Listener(address=f"unix:{path}", mode="0666", backlog=20))
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
