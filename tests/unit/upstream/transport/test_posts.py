"""POST requests of sinks, against a real server on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from relayd.telemetry.outlet import Reply
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.posts import RESPONSE_BYTES, Posts


class Server:
    """Answers each connection with `answer`; None keeps the connection open."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer, self.port = answer, 0
        self.asked: list[bytes] = []
        self.came, self.gone = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            self.asked.append(head + await reader.readexactly(length))
            self.came.set()
            if self.answer is None:
                await reader.read()
            else:
                writer.write(self.answer)
                await writer.drain()
        writer.close()
        self.gone.set()


@contextlib.asynccontextmanager
async def serving(answer: bytes | None) -> AsyncIterator[tuple[Server, Posts]]:
    server = Server(answer)
    client: StreamClient = StreamClient(force_instance=True)
    posts = Posts(client)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server, posts
    finally:
        posts.close()
        client.close()
        listening.close()


async def ask(posts: Posts, port: int, timeout_s: float = 30.0) -> Reply:
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    posts.post(f"http://127.0.0.1:{port}/v1/x", None, [b"X-Key: k"], b"{}", timeout_s, future.set_result)
    return await asyncio.wait_for(future, 60)


async def test_a_response_with_its_status_body_and_retry_after() -> None:
    async with serving(b"HTTP/1.1 429 Slow\r\nRetry-After: 5\r\nContent-Length: 3\r\n\r\nnot") as (server, posts):
        assert await ask(posts, server.port) == (429, b"not", "5", "")
        head, _, body = server.asked[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/x HTTP/1.1\r\n") and body == b"{}"
        assert b"Content-Type: application/json" in head and b"X-Key: k" in head and b"Expect" not in head and b"Host: 127.0.0.1:%d" % server.port in head


@pytest.mark.parametrize("answer", [b"", b"\x00garbage\r\n\r\n", b"HTTP/1.1 2"])
async def test_no_valid_response_is_a_fault(answer: bytes) -> None:
    async with serving(answer) as (server, posts):
        reply = await ask(posts, server.port)
        assert reply.status == 0 and reply.fault


async def test_a_port_that_refuses_is_a_fault() -> None:
    async with serving(b"") as (_, posts):
        reply = await ask(posts, 1)
        assert reply.status == 0 and "connect" in reply.fault


async def test_a_status_counts_although_the_response_is_cut() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut") as (server, posts):
        assert await ask(posts, server.port) == (200, b"cut", "", "")


async def test_an_endless_response_is_cut() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000) as (server, posts):
        reply = await ask(posts, server.port)
        assert reply.status == 200 and len(reply.body) == RESPONSE_BYTES


async def test_a_server_that_hangs_is_left_after_the_timeout() -> None:
    async with serving(None) as (server, posts):
        assert (await ask(posts, server.port, 0.05)).fault == "no response for 0.05 s"
        await asyncio.wait_for(server.gone.wait(), 60)


async def test_a_cancelled_request_is_not_reported() -> None:
    async with serving(None) as (server, posts):
        replies: list[Reply] = []
        cancel = posts.post(f"http://127.0.0.1:{server.port}/", None, [], b"{}", 60, replies.append)
        await asyncio.wait_for(server.came.wait(), 60)
        cancel()
        cancel()
        await asyncio.wait_for(server.gone.wait(), 60)
        assert replies == []
