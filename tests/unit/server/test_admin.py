"""The admin application on its socket."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import socket
from pathlib import Path

import pytest

from relayd.proxy.application import Handler, LocalRequest, Responder
from relayd.proxy.gateway import Gateway
from relayd.proxy.respond import answer
from relayd.server.admin import HIGH, AdminServer
from relayd.server.admin_application import AdminApplication
from relayd.server.admin_views import AdminViews, ProcessState, ReloadResult
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.unit.proxy.harness import Side, until


def send_request(path: str, method: str, target: str) -> tuple[int, dict[str, str], bytes]:
    """One request over the socket; runs in a thread."""
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(path)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


class Running:
    """An admin server whose reload result is set by the test."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "admin.sock")
        self.telemetry = Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO())
        self.client = StreamClient(force_instance=True)
        self.views = AdminViews(
            Gateway(self.client, self.telemetry), self.telemetry, ProcessState("relayd.yaml", phase="serving")
        )
        self.result: asyncio.Future[ReloadResult] = asyncio.get_running_loop().create_future()
        self.server = AdminServer(self.path)
        self.server.serve(AdminApplication(self.views, {"/reload": self.reload}))

    async def reload(self) -> ReloadResult:
        return await self.result

    async def ask(self, method: str, target: str) -> tuple[int, dict[str, str], bytes]:
        return await asyncio.to_thread(send_request, self.path, method, target)

    def close(self) -> None:
        self.server.close()
        self.client.close()
        self.telemetry.close()


async def test_the_pages_are_served_and_never_cached(tmp_path: Path) -> None:
    running = Running(tmp_path)
    status, fields, body = await running.ask("GET", "/health")
    assert (status, json.loads(body)["status"]) == (200, "healthy")
    assert fields["Cache-Control"] == "no-store"
    assert "Etag" not in fields
    assert (await running.ask("GET", "/nothing"))[0] == 404
    assert (await running.ask("PUT", "/health"))[0] == 405
    running.close()


async def test_head_has_the_fields_and_no_body(tmp_path: Path) -> None:
    running = Running(tmp_path)
    status, fields, body = await running.ask("HEAD", "/ping")
    assert (status, body) == (200, b"")
    assert int(fields["Content-Length"]) > 0
    running.close()


async def test_health_answers_while_a_reload_is_waited_for(tmp_path: Path) -> None:
    running = Running(tmp_path)
    waiting = asyncio.create_task(running.ask("POST", "/reload"))
    assert (await running.ask("GET", "/health"))[0] == 200
    assert not waiting.done()
    running.result.set_result(ReloadResult(False, 1, findings=("bad",)))
    status, _, body = await waiting
    assert (status, json.loads(body)["findings"]) == (422, ["bad"])
    running.close()


async def test_the_socket_is_closed_to_strangers_and_gone_afterwards(tmp_path: Path) -> None:
    running = Running(tmp_path)
    assert os.stat(running.path).st_mode & 0o777 == 0o660
    running.close()
    assert not os.path.exists(running.path)


# ---- the seam: the same handlers as over a route, whatever the method and the body


class Scripted:
    """An application controlled by the test. It is its own Handler."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.server = AdminServer(path)
        self.server.serve(self.begin)
        self.requests: list[str] = []
        self.got = b""
        self.queued = 0
        self.is_whole = self.is_closed = False
        self.unheld = 0
        self.responder: Responder | None = None

    def begin(self, request: LocalRequest, responder: Responder) -> Handler:
        self.requests.append(f"{request.method} {request.path}")
        self.responder = responder
        return self

    def feed(self, piece: bytes, last: bool) -> None:
        self.got += piece
        self.queued += len(piece)
        self.is_whole = last

    def unhold(self) -> None:
        self.unheld += 1

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True

    async def connect(self, head: str) -> Side:
        side = Side(*await asyncio.open_unix_connection(self.path))
        side.write(head.replace("\n", "\r\n").encode())
        return side


STREAM = answer(200, "text/event-stream", b"").response
STREAM.length = None


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_and_body_reaches_the_application_and_a_response_comes_in_pieces(
    tmp_path: Path, method: str
) -> None:
    admin = Scripted(str(tmp_path / "a.sock"))
    side = await admin.connect(f"{method} /x/y?q=1 HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n3\nabc\n")
    await until(lambda: admin.got == b"abc")
    assert admin.requests == [f"{method} /x/y"] and not admin.is_whole
    assert admin.responder is not None
    admin.responder.head(STREAM)
    admin.responder.body(b"one")
    assert b"Transfer-Encoding: chunked" in await side.head()
    assert await side.chunk() == b"one"
    await until(lambda: admin.unheld == 1)
    side.write(b"1\r\nd\r\n0\r\n\r\n")
    await until(lambda: admin.is_whole)
    assert admin.got == b"abcd"
    admin.responder.end(b"two")
    assert await side.chunk() == b"two" and await side.chunk() == b""
    assert admin.is_closed
    side.close()
    admin.server.close()


async def test_an_application_that_has_enough_of_a_body_holds_back_its_client(tmp_path: Path) -> None:
    admin = Scripted(str(tmp_path / "a.sock"))
    side = await admin.connect(f"PUT / HTTP/1.1\nHost: a\nContent-Length: {1 << 24}\n\n")
    for _ in range(256):
        side.write(b"x" * 65536)
    await until(lambda: admin.queued > HIGH)
    held = admin.queued
    for _ in range(20):
        await asyncio.sleep(0)
    assert admin.queued == held <= HIGH + 65536
    assert admin.responder is not None

    def use() -> bool:
        assert admin.responder is not None
        admin.queued = 0
        admin.responder.resume_body()
        return admin.is_whole

    await until(use)
    assert len(admin.got) == 1 << 24
    admin.responder.fail()
    assert (await side.head()).startswith(b"HTTP/1.1 500")
    side.close()
    admin.server.close()


async def test_a_client_of_the_socket_that_leaves_ends_its_stream(tmp_path: Path) -> None:
    admin = Scripted(str(tmp_path / "a.sock"))
    side = await admin.connect("GET / HTTP/1.1\nHost: a\n\n")
    await until(lambda: admin.is_whole)
    assert admin.responder is not None
    admin.responder.head(STREAM)
    admin.responder.body(b"one")
    await side.head()
    side.close()
    await until(lambda: admin.is_closed)
    admin.responder.body(b"two")
    admin.responder.end()
    admin.server.close()


async def test_a_stream_that_fails_on_the_socket_has_no_clean_end(tmp_path: Path) -> None:
    admin = Scripted(str(tmp_path / "a.sock"))
    side = await admin.connect("GET / HTTP/1.1\nHost: a\n\n")
    await until(lambda: admin.is_whole)
    assert admin.responder is not None
    admin.responder.head(STREAM)
    admin.responder.body(b"one")
    await side.head()
    admin.responder.fail()
    assert await side.rest() == b"3\r\none\r\n"
    assert admin.is_closed
    side.close()
    admin.server.close()


async def test_the_events_are_served_on_the_socket(tmp_path: Path) -> None:
    running = Running(tmp_path)
    side = Side(*await asyncio.open_unix_connection(running.path))
    side.write(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"Content-Type: text/event-stream; charset=utf-8\r\n" in await side.head()
    event = await side.chunk()
    assert event.startswith(b"retry: 1000\n\nevent: status\ndata: {") and event.endswith(b"}\n\n")
    assert (await side.chunk()).startswith(b"event: status\ndata: {")
    side.close()
    status, fields, body = await running.ask("HEAD", "/events")
    assert status == 200 and "Content-Length" not in fields and not body
    assert (await running.ask("POST", "/events"))[1]["Allow"] == "GET, HEAD"
    running.close()


@pytest.mark.parametrize("method", ["TRACE", "BREW", "CONNECT"])
async def test_an_unknown_method_is_answered_like_every_error(tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture) -> None:
    running = Running(tmp_path)
    status, fields, body = await running.ask(method, "/status")
    assert (status, fields["Allow"], fields["Content-Type"]) == (405, "GET, HEAD, POST", "application/json")
    assert json.loads(body)["error"]["code"] == "method_not_allowed"
    reader, writer = await asyncio.open_unix_connection(running.path)
    writer.write(f"{method} /reload HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert (await running.ask("GET", "/ping"))[0] == 200
    assert not [record for record in caplog.records if record.exc_info]
    running.close()
