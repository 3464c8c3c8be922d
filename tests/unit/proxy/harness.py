"""A small running relayd: a real listener, client, telemetry and transport, with a scripted endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from relayd import clock
from relayd.acme.state import State
from relayd.config.load import load_text
from relayd.plan.compile import compile_plan
from relayd.proxy.gateway import Gateway
from relayd.server.connection import Connection
from relayd.server.listener import Listener
from relayd.telemetry.outcome import Record
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.aids.turns import turned

WAIT_S = 60.0
LISTENER = 'listeners: {public: {address: "127.0.0.1:8282", LISTENER}}\n'
CONFIG = LISTENER + """
upstreams: {web: {endpoints: ["http://127.0.0.1:PORT"], UPSTREAM}}
TOP
routes: [BEFORE {name: all, upstream: web, ROUTE}]
"""


async def soon(what: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(what, WAIT_S)


async def until(holds: Callable[[], Any]) -> None:
    """Run the event loop until this holds."""
    end = clock.monotonic() + WAIT_S
    while not holds():
        assert clock.monotonic() < end, "it never came to hold"
        await asyncio.sleep(0.002)


class Turns:
    """Counts the turns of the event loop in its context, and the events noted in each turn."""

    def __init__(self) -> None:
        self._happened: dict[int, int] = {}
        self._number, self._runs = 0, False

    def note(self, amount: int = 1) -> None:
        self._happened[self._number] = self._happened.get(self._number, 0) + amount

    @property
    def most(self) -> int:
        """The largest number of events in one turn."""
        return max(self._happened.values())

    @property
    def total(self) -> int:
        return sum(self._happened.values())

    def _turn(self) -> None:
        self._number += 1
        if self._runs:
            asyncio.get_running_loop().call_soon(self._turn)

    def __enter__(self) -> Turns:
        self._runs = True
        self._turn()
        return self

    def __exit__(self, *fault: object) -> None:
        self._runs = False


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Side:
    """One end of a connection: writes bytes, reads messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> bytes:
        found: bytes = await soon(self.reader.readuntil(b"\r\n\r\n"))
        return found

    async def exactly(self, size: int) -> bytes:
        found: bytes = await soon(self.reader.readexactly(size))
        return found

    async def rest(self) -> bytes:
        """Everything up to the clean end."""
        found: bytes = await soon(self.reader.read())
        return found

    async def gone(self) -> None:
        """Wait until the other side has closed the connection, normally or not."""
        with contextlib.suppress(ConnectionError):
            await self.rest()

    async def chunk(self) -> bytes:
        size = int((await soon(self.reader.readuntil(b"\r\n"))).split(b";")[0], 16)
        return (await self.exactly(size + 2))[:-2]

    async def message(self, bodyless: bool = False) -> tuple[bytes, bytes]:
        """Head and body of one message."""
        head = await self.head()
        low = head.lower()
        if bodyless:
            return head, b""
        if b"\r\ntransfer-encoding: chunked" in low:
            body = b""
            while piece := await self.chunk():
                body += piece
            return head, body
        if b"\r\ncontent-length: " in low:
            return head, await self.exactly(int(low.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]))
        return head, b""

    def reset(self) -> None:
        reset(self.writer)

    def close(self) -> None:
        self.writer.close()


Script = Callable[[Side], Awaitable[None]]


def saying(answer: bytes) -> Script:
    """An endpoint that gives the same answer to every request."""

    async def script(side: Side) -> None:
        while True:
            await side.message()
            side.write(answer)

    return script


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Harness:
    """The running relayd and its endpoint; created by `running`."""

    def __init__(self, tmp_path: Path) -> None:
        self.log = tmp_path / "access.log"
        self.state = State(str(tmp_path / "acme"))
        self.log_output = io.StringIO()
        self.telemetry = Telemetry.build(TelemetrySettings(access_format="json", access_file=str(self.log)), self.log_output)
        self.client: StreamClient = StreamClient(force_instance=True)
        self.gateway = Gateway(self.client, self.telemetry)
        self.accounts: list[Record] = []
        account = self.gateway.account

        def counted(record: Record) -> None:
            self.accounts.append(record)
            account(record)

        self.gateway.account = counted
        self.endpoint_sides: list[Side] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.peers: list[Side] = []

    async def open(self, script: Script, text: str, context: ssl.SSLContext | None, sock: socket.socket | None) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            side = Side(reader, writer)
            self.endpoint_sides.append(side)
            task = asyncio.current_task()
            assert task is not None
            self.tasks.add(task)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError):
                await script(side)
            writer.close()

        self.server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        config = load_text(text.replace("PORT", str(port)), "relayd.yaml").config
        self.plan = self.gateway.plan = compile_plan(config, 1, gates=self.gateway.gates, ledger=self.gateway.ledger)
        self.gateway.gates.apply(self.plan.gate_limits)
        self.gateway.ledger.apply(self.plan.counters)
        for upstream in self.plan.upstreams.values():
            upstream.open(self.client.connect)
        if sock is None:
            sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        self.address = sock.getsockname()
        self.listening = Listener("public", config.listeners["public"], self.gateway, self.telemetry, [sock], self.state)
        self.listening.configure(config.listeners["public"], context)
        self.listening.accept()

    async def connect(self, **options: Any) -> Side:
        if isinstance(self.address, str):
            reader, writer = await asyncio.open_unix_connection(self.address, **options)
        else:
            reader, writer = await asyncio.open_connection(self.address[0], self.address[1], **options)
        side = Side(reader, writer)
        self.peers.append(side)
        return side

    async def ask(self, request: bytes, bodyless: bool = False) -> tuple[bytes, bytes]:
        """Send one request on a new connection."""
        side = await self.connect()
        side.write(request)
        return await side.message(bodyless)

    @property
    def connection(self) -> Connection:
        """The only client connection."""
        (one,) = self.listening.connections
        return one

    async def accounted(self, count: int) -> list[Record]:
        """Wait for exactly this many records, in memory and in the log file."""
        await until(lambda: len(self.accounts) >= count)
        await turned()
        self.telemetry.flush()
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        assert len(lines) == len(self.accounts) == count
        assert len({id(record) for record in self.accounts}) == count
        assert not self.gateway.exchanges
        assert all(upstream.in_flight == 0 for upstream in self.plan.upstreams.values())
        return self.accounts

    async def close(self) -> None:
        for side in self.peers:
            side.writer.transport.abort()
        for connection in list(self.listening.connections):
            connection.end()
        self.listening.close_sockets()
        for upstream in self.plan.upstreams.values():
            upstream.close()
        self.client.close()
        self.server.close()
        for side in self.endpoint_sides:
            side.writer.transport.abort()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)
        self.listening.end()
        self.telemetry.close()


@contextlib.asynccontextmanager
async def running(
    tmp_path: Path, script: Script | None = None, *, listener: str = "", upstream: str = "", route: str = "", top: str = "",
    before: str = "", context: ssl.SSLContext | None = None, sock: socket.socket | None = None, whole: str = "",
) -> AsyncIterator[Harness]:
    """`whole` replaces the configuration except its listener."""
    text = LISTENER + whole if whole else CONFIG
    for placeholder, value in (("LISTENER", listener), ("UPSTREAM", upstream), ("ROUTE", route), ("TOP", top), ("BEFORE", before)):
        text = text.replace(placeholder, value)
    harness = Harness(tmp_path)
    await harness.open(script or saying(OK), text, context, sock)
    try:
        yield harness
    finally:
        await harness.close()


def get(path: str = "/x", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: relay.example", *lines, "", ""]).encode("latin-1")


def post(body: bytes, *lines: str, path: str = "/x") -> bytes:
    return get(path, f"Content-Length: {len(body)}", *lines, method="POST") + body


def status_of(head: bytes) -> int:
    return int(head.split(b" ", 2)[1])
