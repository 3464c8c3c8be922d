"""An upstream in the test's own loop that plays a script per request, and the sink that keeps what a transfer brought."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType

from relayd.upstream.spec import EndpointSpec, Timeouts, TlsSpec, UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.driver import Driver
from relayd.upstream.transport.pool import Pool
from relayd.upstream.transport.slot import Slot
from relayd.wire.response import ResponseHead
from tests.functional.harness.message import Message, answer, reset_on_close, split_field

PATIENCE_S = 60.0
FIELDS = [b"Host: upstream.test", b"Expect:", b"User-Agent:", b"Accept:", b"Content-Type:"]


class Peer:
    """One connection to the scripted upstream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.closed = False

    async def head(self) -> Message:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        lines = raw[:-4].split(b"\r\n")
        return Message(start=lines[0], fields=[split_field(line) for line in lines[1:]])

    async def whole(self, message: Message) -> Message:
        """Read the body that the head announced."""
        if message.get("transfer-encoding") is not None:
            message.framing = b"chunked"
            while size := int(await self.reader.readline(), 16):
                message.body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        elif message.get("content-length") is not None:
            message.framing = b"length"
            message.body = await self.reader.readexactly(int(message.get("content-length") or b"0"))
        message.complete = True
        return message

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Until the other side has left; what it still sends is read over."""
        with contextlib.suppress(OSError):
            while await asyncio.wait_for(self.reader.read(65536), PATIENCE_S):
                pass

    def close(self) -> None:
        self.closed = True
        self.writer.close()

    def reset(self) -> None:
        """End as a process does that died."""
        self.closed = True
        reset_on_close(self.writer.get_extra_info("socket"))
        self.writer.transport.abort()


Script = Callable[[Peer, Message], Awaitable[None]]


async def hello(peer: Peer, message: Message) -> None:
    await peer.whole(message)
    await peer.send(answer(b"hello"))


def saying(data: bytes, *, close: bool = False) -> Script:
    """Read the whole request, then send these bytes."""

    async def script(peer: Peer, message: Message) -> None:
        await peer.whole(message)
        await peer.send(data)
        if close:
            peer.close()

    return script


class Upstream:
    """Listens on a loopback port or a Unix socket while its context lasts; `script` may be changed at any time."""

    def __init__(self, script: Script = hello, *, unix: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.script, self.unix, self.tls = script, unix, tls
        self.requests: list[Message] = []
        self.peers: list[Peer] = []
        self.port = 0
        self.faults: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many were ever accepted."""
        return len(self.peers)

    @property
    def endpoint(self) -> EndpointSpec:
        if self.unix is not None:
            return EndpointSpec("http://localhost", "", "unix", self.unix)
        return EndpointSpec(f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}", "", "loopback")

    async def __aenter__(self) -> Upstream:
        if self.unix is not None:
            self._server: asyncio.Server = await asyncio.start_unix_server(self._accept, self.unix)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self.tls)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        for _ in range(5):  # a connection may just be on its way through accept, which a closed server would leak
            await asyncio.sleep(0)
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for peer in self.peers:
            with contextlib.suppress(AttributeError):  # asyncio's own, of a transport that is closed already
                peer.writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(3):  # transports close in a later turn
            await asyncio.sleep(0)
        if kind is None and self.faults:
            raise self.faults[0]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        task = asyncio.get_running_loop().create_task(self._serve(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: Peer) -> None:
        try:
            while not peer.closed:
                message = await peer.head()
                self.requests.append(message)
                await self.script(peer, message)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass
        except Exception as fault:  # shown by the test that runs now
            self.faults.append(fault)
        finally:
            peer.writer.close()  # what was sent still goes out


class Keeper:
    """A sink that keeps everything and gives the slot back at the end."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.slot: Slot | None = None
        self.response: ResponseHead | None = None
        self.interim: list[ResponseHead] = []
        self.body = bytearray()
        self.trailers: list[bytes] = []
        self.errno: int | None = None
        self.message = self.protocol_error = ""
        self.broken = False
        self.changed = asyncio.Event()

    def on_progress(self, slot: Slot) -> None:
        self._take(slot)
        self.changed.set()

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        self._take(slot)
        self.errno, self.message, self.protocol_error = errno, message, slot.protocol_error
        self.trailers = slot.trailers or []
        self.slot = None
        self.pool.release(slot)
        self.changed.set()

    def on_broken(self) -> None:
        self.broken = True
        self.changed.set()

    def _take(self, slot: Slot) -> None:
        self.response = slot.response
        if slot.interim:
            self.interim += slot.interim
            slot.interim = None
        for chunk in slot.chunks:
            self.body += chunk
        slot.chunks = []

    @property
    def status(self) -> int:
        assert self.response is not None, (self.errno, self.message, self.protocol_error)
        return self.response.status

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                self.changed.clear()
                await self.changed.wait()

    async def head(self) -> None:
        await self.until(lambda: self.response is not None or self.errno is not None)

    async def done(self) -> Keeper:
        await self.until(lambda: self.errno is not None or self.broken)
        return self

    def cancel(self) -> None:
        """What an exchange does whose client left."""
        slot, self.slot = self.slot, None
        assert slot is not None
        slot.driver.cancel(slot)
        self.pool.release(slot)


def spec_of(
    *endpoints: EndpointSpec, tls: TlsSpec | None = None, connect_s: float = 2.0, max_connections: int = 0,
    head_bytes: int = 256 * 1024, name: str = "up",
) -> UpstreamSpec:
    return UpstreamSpec(
        name, endpoints, tls=tls or TlsSpec(), timeouts=Timeouts(connect_s=connect_s), max_connections=max_connections,
        response_header_bytes=head_bytes,
    )


def driver_of(client: StreamClient) -> Driver:
    assert client.driver is not None
    return client.driver


def pool_of(client: StreamClient, endpoint: EndpointSpec, spec: UpstreamSpec | None = None) -> Pool:
    return Pool(driver_of(client), spec or spec_of(endpoint), endpoint)


def begin(
    pool: Pool, method: bytes = b"GET", target: bytes = b"/", *lines: bytes, length: int | None = None,
    body: bytes | None = None, keeper: Keeper | None = None,
) -> Keeper:
    """Start a transfer. With `body` its length is sent; with `length` alone the body is fed."""
    if body is not None and length is None:
        length = len(body)
    keeper = keeper or Keeper(pool)
    slot = pool.acquire(method, length is not None)
    keeper.slot = slot
    pool.start(slot, keeper, method, target, [*FIELDS, *lines], length, body)
    return keeper


async def ask(pool: Pool, method: bytes = b"GET", target: bytes = b"/", *lines: bytes, body: bytes | None = None) -> Keeper:
    """A whole exchange."""
    return await begin(pool, method, target, *lines, body=body).done()


async def wait_for(true: Callable[[], object]) -> None:
    """Until something outside of the transfers has happened; each try is one turn of the loop."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.001)
