"""An exchange frees its memory in the turn in which it ends: every phase, every kind of end, without the collector.

The tests run a real relayd with a scripted endpoint. They do not depend on the internals of the proxy: leaked objects
are found by the packages of live objects, and by the bytes of bodies.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from relayd import clock
from relayd.config.listener import Tls
from relayd.daemon.generations import Generations  # noqa: F401  (what the daemon imports is alive before a test begins)
from relayd.errors import ExchangeError
from relayd.limits.overload import Reading
from relayd.proxy import mirror
from relayd.proxy.attempt import Attempt
from relayd.proxy.sweep import enforce_timeouts
from relayd.server.connection import Connection
from relayd.server.tls import make_context
from relayd.upstream.transport.pool import Pool
from tests.unit.proxy.harness import Harness, Side, get, running, until
from tests.unit.proxy.live_objects import count_live_objects, marked
from tests.unit.proxy.scripted_endpoints import DONE, completion, delta
from tests.unit.proxy.test_upgrade import AGREED, ASK
from tests.unit.proxy.test_websocket_session import HANDSHAKE, frame
from tests.unit.server.certificates import certificate
from tests.unit.server.test_tls import trusting

HOUR = 3600.0
TEXT = marked(300_000)
JSON = b'{"model":"m","messages":[{"role":"user","content":"' + TEXT + b'"}]}'
STREAMED = JSON[:-1] + b',"stream":true}'
ASKED = b'{"model":"m","store":false,"stream":true,"input":"' + TEXT + b'"}'
FORM = (
    b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + TEXT
    + b'\r\n--cut\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--cut--\r\n'
)
FORM_FIRST = (
    b'--cut\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--cut\r\n'
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + TEXT + b"\r\n--cut--\r\n"
)
FORM_TYPE = "Content-Type: multipart/form-data; boundary=cut"

PLAIN = 'upstreams: {up: {endpoints: ["http://127.0.0.1:PORT"], MORE}}\nroutes: [{name: all, upstream: up, ROUTE}]'
LIMITED = PLAIN.replace("MORE", "limits: {requests: 1, queue: 9, queue_timeout: 0}, MORE")
CHAT = 'upstreams: {up: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/v1"], MORE}}\nTOP\n'
CHAT_ROUTE = CHAT + "routes: [{name: all, upstream: up, protocol: openai_chat, ROUTE}]"
BY_MODEL = CHAT + "models: {m: up}\nroutes: [{name: all, upstream: by_model, ROUTE}]"
ON_MODEL = CHAT + "routes: [{name: a, match: {model: m}, upstream: up, ROUTE}, {name: b, upstream: up, ROUTE}]"
RESPONSES = CHAT + "routes: [{name: all, upstream: up, protocol: openai_responses, ROUTE}]"
AGAIN = "retries: {attempts: 3, backoff: 1000s, on: [5xx], idempotent: true}, timeouts: {total: 3000s}"
HELD = "retries: {attempts: 3, backoff: 1000s}"
MIRRORED = """
upstreams:
  up: {endpoints: ["http://127.0.0.1:PORT/a"]}
  copy: {endpoints: ["http://127.0.0.1:PORT/b"], limits: 3, TIMES}
routes: [{name: all, upstream: up, mirror: copy}]
"""
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def plain(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


EARLY = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"
WORD = chunked(delta(role="assistant") + delta(content="hello"))
ROLE = chunked(delta(role="assistant"))
LAST = chunked(delta("stop") + DONE) + b"0\r\n\r\n"
WHOLE = plain(json.dumps(completion("hello")).encode())


def posted(body: bytes, *lines: str, path: str = "/v1/chat/completions", send: float = 1.0) -> bytes:
    head = get(path, "Content-Type: application/json" if not lines else lines[0], f"Content-Length: {len(body)}", method="POST")
    return head + body[: int(len(body) * send)]


def posted_chunked(body: bytes, send: float = 1.0) -> bytes:
    head = get("/v1/chat/completions", "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST")
    data = body[: int(len(body) * send)]
    return head + b"".join(chunked(data[at : at + 9000]) for at in range(0, len(data), 9000))


class Endpoint:
    """The script of the upstream: discards bodies, sends the phase's response, then follows orders."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.orders: asyncio.Queue[bytes | str] = asyncio.Queue()
        self.asked = 0

    async def __call__(self, side: Side) -> None:
        phase = self.phase
        while True:
            head = (await side.head()).lower()
            self.asked += 1
            if phase.reads:
                await self._skip(side, head)
            side.write(phase.response)
            if phase.response_complete:
                continue
            gone = asyncio.ensure_future(self._gone(side))
            order: asyncio.Future[bytes | str] = asyncio.ensure_future(self.orders.get())
            await asyncio.wait((gone, order), return_when=asyncio.FIRST_COMPLETED)
            if not order.done():
                order.cancel()
                return
            gone.cancel()
            action = order.result()
            if action == "reset":
                side.reset()
                return
            if action == "close":
                return
            assert isinstance(action, bytes)
            side.write(action)

    @staticmethod
    async def _skip(side: Side, head: bytes) -> None:
        if b"transfer-encoding: chunked" in head:
            while (await side.reader.readuntil(b"\r\n")) != b"0\r\n":
                pass
            await side.reader.readuntil(b"\r\n")
        elif b"content-length: " in head:
            left = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while left:
                left -= len(await side.reader.read(min(left, 65536)))

    @staticmethod
    async def _gone(side: Side) -> None:
        with contextlib.suppress(ConnectionError):
            while await side.reader.read(65536):
                pass


At = Callable[[Harness, Endpoint], bool]


def asked(harness: Harness, endpoint: Endpoint) -> bool:
    return endpoint.asked > 0


def uploading(harness: Harness, endpoint: Endpoint) -> bool:
    """All data sent so far has been read, if it can be."""
    return any(exchange.record.bytes_in > 10_000 for exchange in harness.gateway.exchanges)


def answering(harness: Harness, endpoint: Endpoint) -> bool:
    return any(exchange.record.bytes_out > 0 or exchange.record.status == 101 for exchange in harness.gateway.exchanges)


def over(harness: Harness, endpoint: Endpoint) -> bool:
    return bool(harness.accounts) and not harness.gateway.exchanges


@dataclass(frozen=True)
class Phase:
    """The state of an exchange when it is ended."""

    name: str
    text: str
    sends: bytes
    at: At
    more: str = ""
    route: str = ""
    response: bytes = b""
    then: bytes = b""  # what completes the endpoint's answer
    reads: bool = True  # whether the endpoint reads the body
    response_complete: bool = False  # whether `response` is a whole answer
    rest: bytes = b""  # what the client sends once it is there
    endings: str = "close reset half_close drain stop"
    occupied: bool = False  # another exchange holds the only permit
    overload: bool = False  # relayd is overloaded


UP = " cut upstream_reset upstream_ends first_byte total fault"
PHASES = (
    Phase("gathering a body of known length", BY_MODEL, posted(JSON, send=0.9), uploading,
          endings="close reset half_close drain stop slow_client"),
    Phase("gathering a chunked body", BY_MODEL, posted_chunked(JSON, send=0.8), uploading, route="body_limit: 280KiB",
          endings="close reset half_close drain stop slow_client too_large malformed"),
    Phase("gathering for a rule on the model", ON_MODEL, posted_chunked(JSON, send=0.8), uploading,
          route="body_limit: 280KiB", endings="close reset half_close drain stop slow_client too_large malformed"),
    Phase("gathering a form up to its model", BY_MODEL, posted(FORM, FORM_TYPE, path="/v1/audio/transcriptions", send=0.9),
          uploading, endings="close reset half_close drain stop slow_client"),
    Phase("streaming a body", PLAIN, posted_chunked(JSON, send=0.5), uploading, reads=False, route="body_limit: 280KiB",
          more="timeouts: {total: 1000s}", then=EARLY,
          endings="close reset half_close drain stop slow_client too_large malformed upstream_reset upstream_ends total fault"),
    Phase("streaming a form", BY_MODEL, posted(FORM_FIRST, FORM_TYPE, path="/v1/audio/transcriptions", send=0.5), uploading,
          reads=False, more="timeouts: {total: 1000s}", then=EARLY,
          endings="close reset half_close drain stop slow_client upstream_reset upstream_ends total fault"),
    Phase("waiting in a queue", LIMITED, posted(JSON), lambda harness, _: queued(harness), occupied=True, reads=False,
          endings="reset drain stop queue_timeout total", more="timeouts: {total: 1000s}"),
    Phase("waiting in a queue with a gathered body", BY_MODEL, posted(JSON), lambda harness, _: queued(harness), occupied=True,
          more="limits: {requests: 1, queue: 9, queue_timeout: 0}, timeouts: {total: 1000s}",
          endings="close reset half_close drain stop queue_timeout total"),
    Phase("waiting in a queue with a begun form", BY_MODEL,
          posted(FORM_FIRST, FORM_TYPE, path="/v1/audio/transcriptions", send=0.9), lambda harness, _: queued(harness),
          occupied=True, more="limits: {requests: 1, queue: 9, queue_timeout: 0}, timeouts: {total: 1000s}",
          endings="reset drain stop queue_timeout total"),
    Phase("waiting for another try", CHAT_ROUTE, posted(JSON), lambda harness, _: waiting(harness), more=AGAIN,
          response=b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", response_complete=True,
          endings="close reset half_close drain stop total"),
    Phase("waiting for another try of opaque bytes", PLAIN, posted(marked(3000), path="/x").replace(b"POST", b"PUT", 1),
          lambda harness, _: waiting(harness), more=AGAIN, response=b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", response_complete=True,
          endings="close reset half_close drain stop total"),
    Phase("connecting", PLAIN.replace("PORT", "FULL"), get(), lambda harness, _: bool(harness.gateway.exchanges),
          endings="close reset half_close drain stop total first_byte", more="timeouts: {connect: 1000s, total: 1000s}"),
    Phase("connecting with a gathered body", BY_MODEL.replace("PORT", "FULL"), posted(JSON),
          lambda harness, _: any(one.phase == "attempt" for one in harness.gateway.exchanges),
          endings="close reset half_close drain stop total first_byte", more="timeouts: {connect: 1000s, total: 1000s}"),
    Phase("connecting for a tunnel", PLAIN.replace("PORT", "FULL"), get("/ws", *ASK), lambda harness, _: bool(harness.gateway.exchanges),
          endings="close reset half_close drain stop first_byte", route="upgrade: true", more="timeouts: {connect: 1000s}"),
    Phase("waiting for the first byte", PLAIN, get(), asked, then=WHOLE,
          endings="close reset half_close drain stop" + UP, more="timeouts: {total: 1000s}"),
    Phase("waiting for the first byte within limits", PLAIN, get(), asked, then=WHOLE,
          endings="close reset half_close drain stop" + UP, more="limits: 3, timeouts: {total: 1000s}"),
    Phase("waiting for the first byte of an answer that passes", BY_MODEL, posted(JSON), asked, then=WHOLE,
          endings="close reset half_close drain stop" + UP, more="timeouts: {total: 1000s}"),
    Phase("waiting for the first byte of an answer that is refused", BY_MODEL, posted(JSON), asked,
          then=b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nno", endings="upstream_ends"),
    Phase("waiting for the first byte of an answer to translate", RESPONSES, posted(ASKED, path="/v1/responses"), asked,
          then=SSE + WORD + LAST, endings="close reset half_close drain stop" + UP, more="timeouts: {total: 1000s}"),
    Phase("waiting for the first byte, told to finish", BY_MODEL, posted(JSON), asked, then=WHOLE,
          route="on_disconnect: finish", endings="finish"),
    Phase("streaming an answer", PLAIN, get(), answering, response=HALF, then=b"x" * 500,
          endings="close reset half_close drain stop idle" + UP, more="timeouts: {total: 1000s}"),
    Phase("streaming an answer, told to finish", PLAIN, get(), answering, response=HALF, then=b"x" * 500,
          route="on_disconnect: finish", endings="finish"),
    Phase("streaming an answer that passes", BY_MODEL, posted(STREAMED), answering, response=SSE + WORD, then=LAST,
          endings="close reset half_close drain stop idle" + UP, more="timeouts: {total: 1000s}"),
    Phase("streaming a translated answer", RESPONSES, posted(ASKED, path="/v1/responses"), answering, response=SSE + WORD,
          then=LAST, endings="close reset half_close drain stop idle" + UP, more="timeouts: {total: 1000s}"),
    Phase("streaming a translated answer, told to finish", RESPONSES, posted(ASKED, path="/v1/responses"), answering,
          response=SSE + WORD, then=LAST, route="on_disconnect: finish", endings="finish"),
    Phase("translating a whole answer", RESPONSES, posted(ASKED.replace(b'"stream":true,', b""), path="/v1/responses"),
          asked, response=WHOLE[:-20], then=WHOLE[-20:], endings="close reset half_close drain stop" + UP,
          more="timeouts: {total: 1000s}"),
    Phase("holding an answer for its first content", BY_MODEL, posted(STREAMED), asked, response=SSE + ROLE, then=WORD + LAST,
          more=HELD + ", timeouts: {total: 1000s}", endings="close reset half_close drain stop" + UP),
    Phase("in a tunnel", PLAIN, get("/ws", *ASK), answering, response=AGREED, route="upgrade: true", rest=TEXT,
          endings="close reset half_close drain stop cut upstream_reset idle"),
    Phase("waiting for the agreement to a tunnel", PLAIN, get("/ws", *ASK), asked, route="upgrade: true",
          then=b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno",
          endings="close reset half_close drain stop cut upstream_reset upstream_ends first_byte"),
    Phase("waiting for the answer to a WebSocket turn", RESPONSES, HANDSHAKE, asked, then=SSE + WORD + LAST,
          rest=b"TURN", endings="close reset half_close drain stop"),
    Phase("streaming the answer to a WebSocket turn", RESPONSES, HANDSHAKE, asked, response=SSE + WORD, then=LAST, rest=b"TURN",
          endings="close reset half_close drain stop"),
    Phase("waiting for the answer to a WebSocket turn, told to finish", RESPONSES, HANDSHAKE, asked, response=SSE,
          then=WORD + LAST, rest=b"TURN", route="on_disconnect: finish", endings="finish"),
    Phase("with a WebSocket and no turn", RESPONSES, HANDSHAKE, answering, endings="close reset half_close drain stop"),
    Phase("keeping the connection", PLAIN, get(), over, response=WHOLE, response_complete=True, endings="close reset half_close drain stop nothing"),
    Phase("keeping the connection after a gathered body", BY_MODEL, posted(JSON), over, response=WHOLE, response_complete=True,
          endings="close nothing"),
    Phase("keeping the connection after a translation", RESPONSES, posted(ASKED, path="/v1/responses"), over,
          response=SSE + WORD + LAST, response_complete=True, endings="close nothing"),
    Phase("keeping the connection after a fixed answer", PLAIN.replace("upstream: up,", "respond: {status: 200, body: a},"),
          get(), over, endings="close nothing"),
    Phase("keeping the connection after a refusal", BY_MODEL, posted(b"{}"), over, endings="close nothing"),
    Phase("keeping the connection in an overload", PLAIN, get(), over, response=WHOLE, response_complete=True, endings="close nothing",
          overload=True),
)
CELLS = [(phase, ending) for phase in PHASES for ending in phase.endings.split()]


def queued(harness: Harness) -> bool:
    return any(one.phase == "queue" for one in harness.gateway.exchanges)


def waiting(harness: Harness) -> bool:
    return any(one.record.attempts == 1 and one.cancel_timer is not None for one in harness.gateway.exchanges)


def ours(harness: Harness) -> list[Any]:
    """The exchanges of this cell, except the one that only holds a permit."""
    return [one for one in harness.gateway.exchanges if "occupies" not in one.record.path]


class Cell:
    """One combination of phase and end."""

    def __init__(self, harness: Harness, endpoint: Endpoint, phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
        self.harness, self.endpoint, self.phase, self.monkeypatch = harness, endpoint, phase, monkeypatch
        self.tls: dict[str, Any] = {}

    async def once(self, ending: str) -> Counter[str]:
        """The live objects in the turn after the end."""
        harness, endpoint, phase = self.harness, self.endpoint, self.phase
        known = len(harness.accounts)
        endpoint.asked = 0
        for _ in range(20 * phase.overload):
            harness.gateway.overload.update(Reading(loop_lag_s=100.0))
        side = await harness.connect(**self.tls)
        side.write(phase.sends)
        if phase.rest:
            await side.head()
            side.write(turn() if phase.rest == b"TURN" else phase.rest)
        await until(lambda: phase.at(harness, endpoint))
        await settled()  # what else was sent is read
        counted: list[Counter[str]] = []
        account, loop = harness.gateway.account, asyncio.get_running_loop()

        def last(record: Any) -> None:
            account(record)
            if not ours(harness):
                loop.call_soon(lambda: counted.append(self.count_live_objects()))

        harness.gateway.account = last
        try:
            if ending != "nothing":
                await getattr(self, ending)(side)
            else:
                counted.append(self.count_live_objects())
            if phase.at is over and ending != "nothing":
                await until(lambda: not harness.listening.connections)
                counted.append(self.count_live_objects())
            await until(lambda: counted)
            if ending in ("close", "reset", "stop"):
                await until(lambda: len(harness.listening.connections) == int(phase.occupied))
                await settled()
                counted.append(self.count_live_objects(("relayd.server.",)))
        finally:
            harness.gateway.account = account
        side.writer.transport.abort()
        harness.peers.remove(side)
        await until(lambda: len(harness.listening.connections) == int(phase.occupied))
        del harness.accounts[known if phase.at is not over else 0:]
        while not endpoint.orders.empty():
            endpoint.orders.get_nowait()
        await settled()
        return counted[-1]

    def count_live_objects(self, also: tuple[str, ...] = ()) -> Counter[str]:
        return count_live_objects(KNOWN, also)

    # ---- the client

    async def close(self, side: Side) -> None:
        side.close()

    async def reset(self, side: Side) -> None:
        side.reset()

    async def half_close(self, side: Side) -> None:
        side.writer.write_eof()

    async def too_large(self, side: Side) -> None:
        side.write(chunked(marked(200_000)))

    async def malformed(self, side: Side) -> None:
        side.write(b"zz\r\n")

    async def slow_client(self, side: Side) -> None:
        now = clock.monotonic()
        self.harness.listening.sweep(now + HOUR)
        self.sweep(now)

    # ---- the upstream

    async def upstream_ends(self, side: Side) -> None:
        await self.endpoint.orders.put(self.phase.then)

    async def cut(self, side: Side) -> None:
        await self.endpoint.orders.put("close")

    async def upstream_reset(self, side: Side) -> None:
        await self.endpoint.orders.put("reset")

    async def finish(self, side: Side) -> None:
        side.close()
        await until(lambda: not self.harness.listening.connections)
        assert ours(self.harness)
        await self.endpoint.orders.put(self.phase.then)

    # ---- time

    async def first_byte(self, side: Side) -> None:
        self.sweep(clock.monotonic() + 500)

    idle = first_byte

    async def total(self, side: Side) -> None:
        self.sweep(clock.monotonic() + HOUR)

    async def queue_timeout(self, side: Side) -> None:
        for gate in self.harness.gateway.gates:
            if gate.depth:
                gate.sweep(clock.monotonic() + HOUR)
        self.sweep(clock.monotonic() + HOUR)

    def sweep(self, now: float) -> None:
        for exchange in ours(self.harness):
            enforce_timeouts(exchange, now)

    # ---- relayd

    async def drain(self, side: Side) -> None:
        for exchange in ours(self.harness):
            exchange.fail(ExchangeError("stopped"))
        for connection in list(self.harness.listening.connections):
            connection.close_idle()

    async def stop(self, side: Side) -> None:
        for connection in self.harness.listening.connections:
            if connection.exchange is None or "occupies" not in connection.exchange.record.path:
                connection.end()
                break

    async def fault(self, side: Side) -> None:
        """A fault of relayd itself while the response is sent."""
        send = Connection.send
        with self.monkeypatch.context() as patched:

            def broken(connection: Connection, data: bytes) -> bool:
                patched.setattr(Connection, "send", send)
                raise RuntimeError("as planned")

            patched.setattr(Connection, "send", broken)
            await self.endpoint.orders.put(self.phase.then)
            await until(lambda: not ours(self.harness))


async def settled() -> None:
    """Wait until data on the loopback has arrived."""
    for _ in range(4):
        await asyncio.sleep(0.0005)


def turn() -> bytes:
    """A turn with marked input."""
    return frame({"type": "response.create", "model": "m", "store": False, "input": marked(9000).decode()})


KNOWN = [TEXT, JSON, STREAMED, ASKED, FORM, FORM_FIRST, *(phase.sends for phase in PHASES), *(phase.rest for phase in PHASES)]


@pytest.fixture(autouse=True)
def _no_timers_of_other_tests() -> None:
    """Cancel what earlier tests have scheduled: the tests of a worker share a loop, and what a timer makes is counted."""
    loop: Any = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]
    for timer in list(loop._scheduled):
        timer.cancel()


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """Disable the collector, and exclude all older objects."""
    logging.disable()  # pytest holds log records and their tracebacks
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    logging.disable(logging.NOTSET)


@contextlib.asynccontextmanager
async def nobody_accepts(text: str) -> AsyncIterator[str]:
    """For FULL, the port of a listener with a full queue, so that connecting never completes."""
    if "FULL" not in text:
        yield text
        return
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        name = server.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for one in fillers:
                one.setblocking(False)
                one.connect_ex(name)
            await settled()
            yield text.replace("FULL", str(name[1]))
        finally:
            for one in fillers:
                one.close()


@pytest.mark.parametrize(("phase", "ending"), CELLS, ids=[f"{phase.name}-{ending}" for phase, ending in CELLS])
async def test_nothing_is_left_of_an_exchange(
    tmp_path: Path, phase: Phase, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Endpoint(phase)
    async with nobody_accepts(phase.text.replace("ROUTE", phase.route).replace("MORE", phase.more).replace("TOP", "")) as text:
        async with running(tmp_path, endpoint, whole=text) as harness:
            cell = Cell(harness, endpoint, phase, monkeypatch)
            if phase.occupied:
                side = await harness.connect()
                side.write(get("/occupies") if phase.text is LIMITED else posted(b'{"model":"m"}', path="/v1/occupies"))
                await until(lambda: endpoint.asked)
            before, after = await cell.once(ending), await cell.once(ending)
            grown = after - before
            assert not grown, grown
            assert "bytes of a body" not in after
            assert not {name for name in after if name.endswith("exchange.Exchange")} or phase.occupied or "socket" in phase.name


ENCRYPTED = [
    (phase, ending) for phase, ending in CELLS
    if phase.name in ("gathering a chunked body", "streaming a translated answer", "in a tunnel", "keeping the connection")
    and ending in ("close", "reset", "stop", "drain", "slow_client", "malformed", "upstream_ends", "cut")
]


@pytest.mark.parametrize(("phase", "ending"), ENCRYPTED, ids=[f"{phase.name}-{ending}" for phase, ending in ENCRYPTED])
async def test_nothing_is_left_of_an_exchange_over_tls(
    tmp_path: Path, phase: Phase, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = certificate(tmp_path, "one.example")
    context, endpoint = make_context("public", Tls(certificates=(one,))), Endpoint(phase)
    text = phase.text.replace("ROUTE", phase.route).replace("MORE", phase.more).replace("TOP", "")
    async with running(tmp_path, endpoint, whole=text, context=context) as harness:
        cell = Cell(harness, endpoint, phase, monkeypatch)
        cell.tls = {"ssl": trusting(one), "server_hostname": "one.example"}
        before, after = await cell.once(ending), await cell.once(ending)
        assert not after - before, after - before
        assert not {name: count for name, count in after.items() if "body" in name}


@pytest.mark.parametrize("raw", [b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"relayd-" * 2000, b""], ids=["half a head", "nothing"])
@pytest.mark.parametrize("ending", ["close", "reset", "half_close", "stop", "slow_client"])
async def test_nothing_is_left_of_a_connection_without_a_request(tmp_path: Path, raw: bytes, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = Phase("", PLAIN, raw, asked)
    async with running(tmp_path, Endpoint(phase), whole=PLAIN.replace("MORE", "").replace("ROUTE", "")) as harness:
        cell, counts = Cell(harness, Endpoint(phase), phase, monkeypatch), []
        for _ in range(3):
            side = await harness.connect()
            side.write(raw)
            await until(lambda: harness.listening.connections)
            await settled()
            await getattr(cell, ending)(side)
            if ending == "slow_client" and raw:
                await side.rest()
                side.close()
            await until(lambda: not harness.listening.connections)
            await settled()
            counts.append(count_live_objects((raw,), ("relayd.server.",)))
            side.writer.transport.abort()
            harness.peers.remove(side)
        assert not counts[2] - counts[1] and "bytes of a body" not in counts[2]


@pytest.mark.parametrize("ending", ["answer", "cut", "upstream_reset", "first_byte", "fault"])
async def test_nothing_is_left_of_a_copy(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "CHECK_S", 0.01)
    orders: asyncio.Queue[str] = asyncio.Queue()
    there = 0

    async def script(side: Side) -> None:
        nonlocal there
        while True:
            head = await side.head()
            await Endpoint._skip(side, head.lower())
            if b" /a" in head[:10]:
                side.write(WHOLE)
                continue
            there += 1
            order = await orders.get()
            if order == "upstream_reset":
                side.reset()
            elif order in ("answer", "fault"):
                side.write(plain(TEXT))
                continue
            elif order == "first_byte":
                await side.gone()
            return

    def has_come(number: int) -> bool:
        return there == number

    body, times = marked(50_000), "timeouts: {first_byte: 50ms}" if ending == "first_byte" else ""
    sends = posted(body)
    async with running(tmp_path, script, whole=MIRRORED.replace("TIMES", times)) as harness:
        copies, counts = harness.plan.upstreams["copy"], []
        for turn_ in range(1, 4):
            side = await harness.connect()
            side.write(sends)
            await side.message()
            side.close()
            await until(partial(has_come, turn_))
            if ending == "fault":
                monkeypatch.setattr(Attempt, "on_progress", raising)
            orders.put_nowait(ending)
            await until(lambda: not copies.in_flight)
            await settled()
            counts.append(count_live_objects((body, sends, TEXT)))
            pool = copies.endpoints[0].pool
            assert isinstance(pool, Pool) and not pool.in_use
        assert counts[2] == counts[1] and "bytes of a body" not in counts[2]


def raising(self: object, slot: object) -> None:
    raise RuntimeError("as planned")
