"""The admin application on its socket."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import socket
from pathlib import Path

from relayd.proxy.gateway import Gateway
from relayd.server.admin import AdminServer
from relayd.server.admin_views import AdminViews, ProcessState, ReloadResult
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient


def asked(path: str, method: str, target: str) -> tuple[int, dict[str, str], bytes]:
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
    """An admin server whose reload is told by the test."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "admin.sock")
        self.telemetry = Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO())
        self.client = StreamClient(force_instance=True)
        self.views = AdminViews(
            Gateway(self.client, self.telemetry), self.telemetry, ProcessState("relayd.yaml", phase="serving")
        )
        self.result: asyncio.Future[ReloadResult] = asyncio.get_running_loop().create_future()
        self.server = AdminServer(self.path)
        self.server.serve(self.views, self.reload)

    async def reload(self) -> ReloadResult:
        return await self.result

    async def ask(self, method: str, target: str) -> tuple[int, dict[str, str], bytes]:
        return await asyncio.to_thread(asked, self.path, method, target)

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
