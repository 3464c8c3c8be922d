"""GET requests to an API on a Unix socket, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relayd.upstream.discovered import LookupFault
from relayd.upstream.spec import EndpointSpec
from relayd.upstream.transport.api_client import ApiEndpoint, ApiRequests
from relayd.upstream.transport.client import StreamClient

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Server:
    """Answers each connection with the next of `answers`; b"" closes, None keeps the connection open."""

    def __init__(self, path: Path) -> None:
        self.path, self.answers, self.asked = path, list[bytes | None](), list[bytes]()
        self.gone = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            while self.answers:
                answer = self.answers.pop(0)
                if answer is None:
                    await reader.read()
                    break
                if not answer:
                    break
                writer.write(answer)
        writer.close()
        self.gone.set()


@contextlib.asynccontextmanager
async def serving(folder: Path, *answers: bytes | None) -> AsyncIterator[tuple[Server, ApiEndpoint, ApiRequests]]:
    server = Server(folder / "api.sock")
    server.answers = list(answers)
    client: StreamClient = StreamClient(force_instance=True)
    requests = ApiRequests(client)
    endpoint = EndpointSpec("http://localhost", "/v1", f"unix:{server.path}", unix=str(server.path))
    listening = await asyncio.start_unix_server(server.serve, server.path)
    try:
        yield server, requests.connect(endpoint), requests
    finally:
        requests.close()
        client.close()
        listening.close()


async def test_a_whole_body_and_its_target(tmp_path: Path) -> None:
    async with serving(tmp_path, HEAD + b"Content-Length: 2\r\n\r\n[]") as (server, api, _):
        assert await api.get("/containers/json?all=1", 100, 10) == b"[]"
        assert server.asked[0].startswith(b"GET /v1/containers/json?all=1 HTTP/1.1\r\n")


@pytest.mark.parametrize(("answers", "fault"), [
    ((b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever",), "status 403 never"),
    ((HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000,), "larger than 100 bytes"),
    ((HEAD + b"Content-Length: 10\r\n\r\nx", b""), "upstream_cut"),
    ((b"",), "upstream_closed"),
    ((b"hello\r\n\r\n",), "api.sock"),
])
async def test_every_failure_has_a_reason(tmp_path: Path, answers: tuple[bytes, ...], fault: str) -> None:
    async with serving(tmp_path, *answers) as (_, api, _):
        with pytest.raises(LookupFault, match=fault):
            await api.get("/", 100, 10)


async def test_a_missing_socket_and_a_silent_server_are_failures(tmp_path: Path) -> None:
    async with serving(tmp_path, None) as (server, api, requests):
        with pytest.raises(LookupFault, match=r"has not answered for 0\.05 s"):
            await api.get("/", 100, 0.05)
        await asyncio.wait_for(server.gone.wait(), 10)  # the request was cancelled
        gone = requests.connect(EndpointSpec("http://localhost", "", "unix:gone", unix=str(tmp_path / "gone")))
        with pytest.raises(LookupFault, match="unix:gone: connect_failed"):
            await gone.get("/", 100, 10)


async def test_lines_arrive_whole_however_they_were_sent(tmp_path: Path) -> None:
    pieces = (CHUNKED, chunk(b'{"a"'), chunk(b":1}\n{}"), chunk(b"\n\n"), b"0\r\n\r\n")
    async with serving(tmp_path, *pieces) as (_, api, _):
        found = []
        with pytest.raises(LookupFault, match="ended the stream"):
            async for line in api.lines("/events", 100, 10):
                found.append(line)
        assert found == [b"", b'{"a":1}', b"{}", b""]


async def test_a_silent_stream_ends_normally(tmp_path: Path) -> None:
    async with serving(tmp_path, CHUNKED + chunk(b"one\n"), None) as (server, api, _):
        assert [line async for line in api.lines("/events", 100, 0.05)] == [b"", b"one"]
        await asyncio.wait_for(server.gone.wait(), 10)


@pytest.mark.parametrize(("answers", "fault"), [
    ((b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", b""), "status 404 no"),
    ((CHUNKED + chunk(b"x" * 1000), None), "larger than 100 bytes"),
    ((CHUNKED + chunk(b"x" * 60), chunk(b"x" * 60), None), "more than 100 bytes|larger than 100 bytes"),
    ((b"",), "upstream_closed"),
])
async def test_a_stream_that_is_no_stream_of_lines_is_a_failure(
    tmp_path: Path, answers: tuple[bytes | None, ...], fault: str
) -> None:
    async with serving(tmp_path, *answers) as (_, api, _):
        with pytest.raises(LookupFault, match=fault):
            async for _ in api.lines("/events", 100, 10):
                pass


async def test_the_end_of_relayd_ends_a_stream(tmp_path: Path) -> None:
    async with serving(tmp_path, CHUNKED, None) as (server, api, requests):
        stream = api.lines("/events", 100, 60)
        assert await anext(stream) == b""
        requests.close()
        with pytest.raises(LookupFault, match="relayd is stopping"):
            await anext(stream)
        await asyncio.wait_for(server.gone.wait(), 10)
