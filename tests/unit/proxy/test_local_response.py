"""An application answers a route: any method, body and response in pieces, every kind of end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from relayd.plan.compile import compile_plan
from relayd.proxy.application import Handler, LocalRequest, Responder
from relayd.proxy.request_body import HIGH
from relayd.proxy.respond import answer
from relayd.wire.response import ResponseHead
from tests.unit.proxy.harness import Harness, Side, get, post, running, status_of, until

KEYED = "{name: keyed, match: {prefix: /in/}, upstream: admin, admin_prefix: /in, allow: [team]},"
INSIDE = """
  {name: small, match: {prefix: /in/small/}, upstream: admin, admin_prefix: /in, body_limit: 10},
  {name: inside, match: {prefix: /in/}, upstream: admin, admin_prefix: /in, admin_write: true},"""
TOP = "consumers: {team: {bearer: {env: RELAYD_TEST_TEAM}}}"


class Scripted:
    """An application and Handler controlled by a test. `begins` is called with each request."""

    def __init__(self, harness: Harness, begins: Callable[[Responder], None] | None = None) -> None:
        self._begins = begins
        self.requests: list[LocalRequest] = []
        self.got = b""
        self.queued = self.unheld = self.closed = 0
        self.is_whole = False
        self.given: Responder | None = None
        harness.gateway.admin = self.begin

    def begin(self, request: LocalRequest, responder: Responder) -> Handler:
        self.requests.append(request)
        self.given = responder
        if self._begins is not None:
            self._begins(responder)
        return self

    @property
    def responder(self) -> Responder:
        assert self.given is not None
        return self.given

    def feed(self, piece: bytes, last: bool) -> None:
        assert not self.is_whole
        self.got += piece
        self.queued += len(piece)
        self.is_whole = last

    def unhold(self) -> None:
        self.unheld += 1

    def close(self) -> None:
        self.closed += 1


def stream_head() -> ResponseHead:
    response = answer(200, "text/event-stream", b"").response
    response.length = None
    return response


async def begun(harness: Harness, request: bytes, admin: Scripted) -> Side:
    side = await harness.connect()
    side.write(request)
    await until(lambda: admin.requests)
    return side


async def test_any_method_with_a_body_reaches_the_application_piece_by_piece(tmp_path: Path) -> None:
    async with running(tmp_path, before=INSIDE) as harness:
        admin = Scripted(harness)
        side = await begun(harness, get("/in/a%20b?q", "Transfer-Encoding: chunked", method="PATCH") + b"3\r\nabc\r\n", admin)
        await until(lambda: admin.got == b"abc")
        assert admin.requests == [LocalRequest("PATCH", "/a%20b", True)] and not admin.is_whole
        side.write(b"1\r\nd\r\n0\r\n\r\n")
        await until(lambda: admin.is_whole)
        assert admin.got == b"abcd"
        made = answer(201, "text/plain", b"done")
        admin.responder.head(made.response)
        admin.responder.end(made.body)
        head, body = await side.message()
        assert status_of(head) == 201 and body == b"done" and b"Connection: close" not in head
        (record,) = await harness.accounted(1)
        assert (record.status, record.ended_by, record.bytes_in, record.bytes_out) == (201, "relayd", 4, 4)
        assert admin.closed == 1
        side.write(get("/x"))
        assert status_of((await side.message())[0]) == 200


async def test_a_body_that_came_with_the_head_and_none_at_all_are_whole_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, before=INSIDE) as harness:
        admin = Scripted(harness, lambda responder: responder.head(stream_head()))
        await begun(harness, post(b"xyz", path="/in/"), admin)
        await until(lambda: admin.is_whole)
        assert admin.got == b"xyz"
        admin.responder.end()
        admin = Scripted(harness)
        await begun(harness, get("/in/", method="DELETE"), admin)
        assert admin.is_whole and admin.got == b""
        admin.responder.fail()
        await harness.accounted(2)


async def test_a_response_in_pieces_is_sent_as_it_is_made(tmp_path: Path) -> None:
    async with running(tmp_path, before=INSIDE) as harness:
        admin = Scripted(harness)
        side = await begun(harness, get("/in/"), admin)
        admin.responder.head(stream_head())
        assert admin.responder.body(b"one")
        head = await side.head()
        assert b"Content-Type: text/event-stream\r\n" in head and b"X-Request-ID: " in head
        assert await side.chunk() == b"one"
        admin.responder.body(b"two")
        assert await side.chunk() == b"two"
        admin.responder.end(b"three")
        assert await side.chunk() == b"three" and await side.chunk() == b""
        (record,) = await harness.accounted(1)
        assert (record.outcome, record.phase, record.ended_by) == ("complete", "transfer", "relayd")
        assert record.bytes_out == 11 and admin.closed == 1


async def test_a_client_that_does_not_read_holds_back_the_application_and_is_told_when_it_may_go_on(tmp_path: Path) -> None:
    async with running(tmp_path, before=INSIDE) as harness:
        admin = Scripted(harness)
        side = await begun(harness, get("/in/"), admin)
        admin.responder.head(stream_head())
        sent = 1
        while admin.responder.body(b"x" * 65536):
            sent += 1
        assert not admin.unheld
        (exchange,) = harness.gateway.exchanges
        assert exchange.buffered() > 0
        await side.head()
        for _ in range(sent):
            await side.chunk()
        await until(lambda: admin.unheld)
        admin.responder.end()
        await harness.accounted(1)


async def test_an_application_that_does_not_read_holds_back_the_client(tmp_path: Path) -> None:
    async with running(tmp_path, before=INSIDE) as harness:
        admin = Scripted(harness)
        size = 1 << 23
        side = await begun(harness, get("/in/", f"Content-Length: {size}", method="PUT"), admin)
        side.write(b"x" * size)
        (exchange,) = harness.gateway.exchanges
        await until(lambda: exchange.body.paused)
        held = admin.queued
        for _ in range(50):
            await asyncio.sleep(0)
        assert HIGH < admin.queued == held < HIGH + 4 * 65536

        def use() -> bool:
            admin.queued = 0
            admin.responder.resume_body()
            return admin.is_whole

        await until(use)
        assert len(admin.got) == size
        admin.responder.fail()
        assert status_of((await side.message())[0]) == 500
        await harness.accounted(1)


async def test_the_client_leaving_closes_the_handler_in_every_state(tmp_path: Path) -> None:
    async with running(tmp_path, before=INSIDE) as harness:
        for number, begins in enumerate((False, True), 1):
            admin = Scripted(harness)
            side = await begun(harness, get("/in/"), admin)
            if begins:
                admin.responder.head(stream_head())
                admin.responder.body(b"one")
                await side.head()
            side.close()
            await until(lambda admin=admin: admin.closed)  # type: ignore[misc]
            assert not admin.responder.body(b"late")
            admin.responder.end()
            admin.responder.fail()
            admin.responder.resume_body()
            assert admin.closed == 1
            assert (await harness.accounted(number))[-1].code == "client_gone"


async def test_a_stream_that_fails_ends_broken(tmp_path: Path) -> None:
    async with running(tmp_path, before=INSIDE) as harness:
        admin = Scripted(harness)
        side = await begun(harness, get("/in/"), admin)
        admin.responder.head(stream_head())
        admin.responder.body(b"one")
        await side.head()
        admin.responder.fail()
        assert await side.rest() == b"3\r\none\r\n"
        assert (await harness.accounted(1))[0].code == "internal" and admin.closed == 1


async def test_a_body_above_the_limit_of_the_route_is_refused_and_the_handler_closed(tmp_path: Path) -> None:
    async with running(tmp_path, before=INSIDE) as harness:
        admin = Scripted(harness)
        side = await begun(harness, get("/in/small/", "Transfer-Encoding: chunked", method="POST"), admin)
        side.write(b"b\r\n" + b"x" * 11 + b"\r\n")
        assert status_of((await side.message())[0]) == 413
        assert admin.closed == 1 and not admin.got


async def test_allow_stands_before_the_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_TEST_TEAM", "sk-team-0123456789")
    async with running(tmp_path, before=KEYED, top=TOP) as harness:
        admin = Scripted(harness, lambda responder: responder.end())
        assert status_of((await harness.ask(post(b"x", path="/in/")))[0]) == 401
        assert not admin.requests


async def test_head_gets_the_head_of_a_whole_answer(tmp_path: Path) -> None:
    def page(responder: Responder) -> None:
        made = answer(200, "text/plain", b"four")
        responder.head(made.response)
        responder.end(made.body)

    async with running(tmp_path, before=INSIDE) as harness:
        admin = Scripted(harness, page)
        head, _ = await harness.ask(get("/in/", method="HEAD"), bodyless=True)
        assert b"Content-Length: 4\r\n" in head
        await harness.accounted(1)
        assert admin.closed == 1 and admin.requests[0].method == "HEAD"


async def test_a_response_is_superseded_by_a_newer_plan(tmp_path: Path) -> None:
    async with running(tmp_path, before=INSIDE) as harness:
        admin = Scripted(harness)
        await begun(harness, get("/in/"), admin)
        assert not admin.responder.is_superseded()
        harness.gateway.plan = compile_plan(harness.plan.config, 2)
        assert admin.responder.is_superseded()
        admin.responder.fail()
        await harness.accounted(1)
