"""Upgrade requests: tunnels after a valid 101, plain HTTP after any other response."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path

import pytest

from relayd import clock
from relayd.proxy.sweep import enforce_timeouts
from relayd.proxy.upgrade import GUID, Upgrade
from relayd.upstream.transport.tunnel import PIECE
from tests.aids.turns import turned
from tests.unit.proxy.harness import OK, Side, Turns, get, post, running, status_of, until

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
PROOF = base64.b64encode(hashlib.sha1(KEY.encode() + GUID).digest())
ASK = ("Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")
AGREED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + PROOF + b"\r\n\r\n"
ON = "upgrade: true"


async def test_after_a_valid_101_bytes_go_both_ways(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        heads.append(await side.head())
        side.write(AGREED + b"early")
        side.write(b"got " + await side.exactly(4))
        await side.exactly(3)

    heads: list[bytes] = []
    async with running(tmp_path, script, route=ON) as harness:
        side = await harness.connect()
        side.write(get("/ws", *ASK, "X-Empty:", "Authorization: a"))
        head = await side.head()
        assert status_of(head) == 101 and b"Sec-WebSocket-Accept: " + PROOF in head
        assert await side.exactly(5) == b"early"
        side.write(b"ping")
        assert await side.exactly(8) == b"got ping"
        side.write(b"end")
        assert await side.rest() == b""
        (record,) = await harness.accounted(1)
        assert (record.status, record.phase, record.code) == (101, "tunnel", "")
        assert (record.bytes_in, record.bytes_out) == (7, 13)
    lines = heads[0].split(b"\r\n")
    assert b"Connection: Upgrade" in lines and b"Upgrade: websocket" in lines and b"X-Empty:" in lines
    assert not any(line.lower().startswith((b"user-agent", b"accept:", b"expect")) for line in lines)


@pytest.mark.parametrize("answer", [
    AGREED.replace(PROOF, b"AAAA"), AGREED.replace(b"Upgrade: websocket", b"Upgrade: chat"),
    b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\n\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 101 Sw",
])
async def test_a_101_that_was_not_asked_for_opens_nothing(tmp_path: Path, answer: bytes) -> None:
    async def script(side: Side) -> None:
        await side.head()
        side.write(answer)

    async with running(tmp_path, script, route=ON) as harness:
        assert status_of((await harness.ask(get("/ws", *ASK)))[0]) == 502
        assert (await harness.accounted(1))[0].ended_by == "upstream"


@pytest.mark.parametrize(("answer", "body"), [
    (b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", b"no"),
    (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", b"no"),
    (b"HTTP/1.1 403 No\r\n\r\nno", b"no"), (b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 204 None\r\n\r\n", b""),
])
async def test_a_refused_upgrade_stays_http(tmp_path: Path, answer: bytes, body: bytes) -> None:
    async def script(side: Side) -> None:
        await side.head()
        side.write(answer)
        await side.writer.drain()

    async with running(tmp_path, script, route=ON) as harness:
        side = await harness.connect()
        side.write(get("/ws", *ASK))
        head, found = await side.message()
        assert status_of(head) in (403, 204) and found == body
        await harness.accounted(1)


async def test_a_route_without_upgrades_ignores_the_wish(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def script(side: Side) -> None:
        seen.append(await side.head())
        side.write(OK)

    async with running(tmp_path, script) as harness:
        assert (await harness.ask(get("/ws", *ASK)))[1] == b"ok"
        assert b"upgrade" not in seen[0].lower()
        await harness.accounted(1)


@pytest.mark.parametrize("split", [False, True])
async def test_the_body_of_an_upgrade_request_is_never_the_endpoints_next_request(tmp_path: Path, split: bool) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def script(side: Side) -> None:
        while True:
            seen.append(await side.message())
            side.write(OK)

    hidden = get("/hidden")
    async with running(tmp_path, script, route=ON) as harness:
        side = await harness.connect()
        whole = post(hidden, *ASK, path="/ws")
        side.write(whole[: -len(hidden)] if split else whole)
        if split:
            await until(lambda: harness.gateway.exchanges)
            side.write(hidden)
        assert (await side.message())[1] == b"ok"
        assert [(head.split(b" ")[1], body) for head, body in seen] == [(b"/ws", hidden)]
        await harness.accounted(1)


async def test_bytes_behind_the_request_wait_for_the_101(tmp_path: Path) -> None:
    go = asyncio.Event()
    seen: list[bytes] = []

    async def script(side: Side) -> None:
        await side.head()
        await go.wait()
        side.write(AGREED)
        seen.append(await side.exactly(5))

    async with running(tmp_path, script, route=ON) as harness:
        side = await harness.connect()
        side.write(get("/ws", *ASK) + b"early")
        await until(lambda: harness.endpoint_sides)
        go.set()
        await side.head()
        await until(lambda: seen)
        assert seen == [b"early"]
        await harness.accounted(1)


async def test_a_tunnel_ends_with_either_side(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def script(side: Side) -> None:
        await side.head()
        side.write(AGREED)
        await side.gone()
        left.set()

    async with running(tmp_path, script, route=ON) as harness:
        side = await harness.connect()
        side.write(get("/ws", *ASK))
        await side.head()
        side.close()
        await asyncio.wait_for(left.wait(), 60)
        (record,) = await harness.accounted(1)
        assert (record.code, record.phase, record.status) == ("client_gone", "tunnel", 101)


async def test_a_tunnel_has_limits_of_time(tmp_path: Path) -> None:
    answer = asyncio.Event()

    async def script(side: Side) -> None:
        await side.head()
        await answer.wait()
        side.write(AGREED)
        await side.gone()

    async with running(tmp_path, script, route=ON + ", timeouts: {first_byte: 10s, idle: 20s}") as harness:
        waiting = await harness.connect()
        waiting.write(get("/ws", *ASK))
        await until(lambda: harness.endpoint_sides)
        (exchange,) = harness.gateway.exchanges
        enforce_timeouts(exchange, clock.monotonic() + 9)
        enforce_timeouts(exchange, clock.monotonic() + 11)
        assert status_of((await waiting.message())[0]) == 504
        answer.set()
        side = await harness.connect()
        side.write(get("/ws", *ASK))
        await side.head()
        (exchange,) = harness.gateway.exchanges
        enforce_timeouts(exchange, clock.monotonic() + 19)
        assert harness.gateway.exchanges
        enforce_timeouts(exchange, clock.monotonic() + 21)
        assert [record.code for record in await harness.accounted(2)] == ["first_byte_timeout", "idle_timeout"]


async def test_an_endpoint_that_cannot_be_reached_is_a_502(tmp_path: Path) -> None:
    async with running(tmp_path, route=ON) as harness:
        harness.server.close()
        assert status_of((await harness.ask(get("/ws", *ASK)))[0]) == 502
        assert (await harness.accounted(1))[0].code == "connect_failed"


# ---- an endpoint without a final head


@pytest.mark.parametrize(("sent", "detail"), [
    (b"HTTP/1.1 102 Processing\r\n\r\n" * 2500 + AGREED, "too many interim heads"),
    (b"HTTP/1.1 103 Hints\r\nX: " + b"x" * 200_000 + b"\r\n\r\n" + b"HTTP/1.1 103 Hints\r\nX: " + b"x" * 200_000, "response head too large"),
    (AGREED[:-2] + b"X: y\r\n" * 6000 + b"\r\n", "too many fields"),
    (b"HTTP/1.1 101 X\r\nX: " + b"x" * 400_000 + b"\r\n\r\n", "response head too large"),
])
async def test_more_head_than_allowed_is_a_502_however_it_comes(tmp_path: Path, sent: bytes, detail: str) -> None:
    async def script(side: Side) -> None:
        await side.head()
        side.write(sent)
        await side.gone()

    async with running(tmp_path, script, route=ON) as harness:
        assert status_of((await harness.ask(get("/ws", *ASK)))[0]) == 502
        (record,) = await harness.accounted(1)
        assert (record.code, record.detail) == ("upstream_malformed", detail)


async def test_interim_heads_in_one_piece_with_the_answer_are_passed_over(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        await side.head()
        side.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 32 + AGREED + b"first")
        await side.exactly(3)

    async with running(tmp_path, script, route=ON) as harness:
        side = await harness.connect()
        side.write(get("/ws", *ASK))
        assert status_of(await side.head()) == 101 and await side.exactly(5) == b"first"
        side.write(b"end")
        assert await side.rest() == b""


@pytest.mark.parametrize("dribble", [b"X", b"HTTP/1.1 102 Processing\r\n\r\n"], ids=["bytes", "interim heads"])
@pytest.mark.parametrize("way", [ON, ""], ids=["tunnel", "transfer"])
async def test_nothing_before_the_final_head_extends_first_byte(tmp_path: Path, dribble: bytes, way: str) -> None:
    seen = asyncio.Event()

    async def script(side: Side) -> None:
        await side.head()
        side.write(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Pro"[: 27 if dribble[:1] == b"H" else None])
        await go_on.wait()
        side.write(dribble)
        await side.writer.drain()
        seen.set()
        await side.gone()

    go_on = asyncio.Event()
    async with running(tmp_path, script, route=way, upstream="timeouts: {first_byte: 10s}") as harness:
        side = await harness.connect()
        side.write(get("/ws", *ASK))
        await until(lambda: harness.endpoint_sides)
        (exchange,) = harness.gateway.exchanges
        began = clock.monotonic()
        enforce_timeouts(exchange, began + 9)
        assert not exchange.is_over
        go_on.set()
        await seen.wait()
        await turned()
        enforce_timeouts(exchange, began + 10.5)
        head = await side.head()
        while status_of(head) < 200:
            head = await side.head()
        assert status_of(head) == 504
        (record,) = await harness.accounted(1)
        assert record.code == "first_byte_timeout"


async def test_a_fast_endpoint_of_a_tunnel_leaves_the_loop_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()
    take = Upgrade.on_bytes

    def noted(self: Upgrade, data: bytes) -> None:
        turns.note(len(data))
        take(self, data)

    monkeypatch.setattr(Upgrade, "on_bytes", noted)

    async def script(side: Side) -> None:
        await side.head()
        side.write(AGREED + b"x" * 4_000_000)
        side.writer.write_eof()
        await side.gone()

    async with running(tmp_path, script, route=ON) as harness:
        side = await harness.connect()
        with turns:
            side.write(get("/ws", *ASK))
            assert status_of(await side.head()) == 101
            assert len(await side.rest()) == 4_000_000
        assert turns.most <= 2 * PIECE


async def test_a_tunnel_whose_client_is_behind_is_not_idle(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        await side.head()
        side.write(AGREED + b"x" * 8_000_000)
        await side.gone()

    async with running(tmp_path, script, route=ON, upstream="timeouts: {idle: 10s}") as harness:
        side = await harness.connect()
        side.write(get("/ws", *ASK))
        assert status_of(await side.head()) == 101
        side.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (exchange,) = harness.gateway.exchanges
        await until(lambda: exchange.tunnel._client_behind)  # type: ignore[union-attr]
        enforce_timeouts(exchange, clock.monotonic() + 11)
        assert not exchange.is_over
        side.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await side.exactly(8_000_000)) == 8_000_000


async def test_the_end_of_the_clients_side_goes_on_to_the_endpoint_and_its_last_bytes_come_back(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        await side.head()
        side.write(AGREED)
        received = await side.rest()
        side.write(b"%d bytes" % len(received))

    async with running(tmp_path, script, route=ON) as harness:
        side = await harness.connect()
        side.write(get("/ws", *ASK))
        assert status_of(await side.head()) == 101
        side.write(b"x" * 3_000_000)
        side.writer.write_eof()
        assert await side.rest() == b"3000000 bytes"
        await until(lambda: not harness.listening.connections)
        await harness.accounted(1)
