"""The HTTP/1.1 writer: framing, pieces, the commit point; and the discarding writer."""

from __future__ import annotations

import pytest

from relayd import clock
from relayd.proxy.exchange import Exchange
from relayd.proxy.response_writer import NullWriter, ResponseWriter
from relayd.wire.response import ResponseHead
from tests.unit.proxy.fakes import PLAIN, Client, FakeGateway, head_for, plan_of

PLAN = plan_of(PLAIN)


def made(start: str = "GET /x HTTP/1.1") -> tuple[Exchange, ResponseWriter, Client]:
    client = Client()
    client.exchange = exchange = Exchange(FakeGateway(), PLAN, client, head_for(start=start), clock.monotonic())
    return exchange, exchange.writer, client


def head(length: int | None = None, status: int = 200) -> ResponseHead:
    response = ResponseHead(status, b"")
    response.length = length
    return response


@pytest.mark.parametrize(("start", "length", "framed"), [
    ("GET /x HTTP/1.1", None, b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"), ("GET /x HTTP/1.1", 3, b"abc"),
    ("GET /x HTTP/1.0", None, b"abc"), ("HEAD /x HTTP/1.1", 3, b""),
])
def test_pieces_are_framed_as_the_client_can_read_them(start: str, length: int | None, framed: bytes) -> None:
    exchange, writer, client = made(start)
    writer.head(head(length))
    writer.body(b"ab")
    writer.body(b"c")
    writer.end()
    writer.close()
    assert client.body == framed and client.ended
    assert exchange.record.bytes_out == (0 if start.startswith("HEAD") else 3)


def test_a_head_leaves_with_the_first_piece_behind_it() -> None:
    _, writer, client = made()
    writer.head(head(2))
    assert writer.started and not writer.committed and client.sent == b""
    writer.body(b"ab")
    assert writer.committed and client.status == 200 and client.body == b"ab"


def test_a_head_without_a_body_yet_leaves_when_it_is_flushed() -> None:
    _, writer, client = made()
    writer.head(head())
    assert writer.flush() and client.status == 200 and client.body == b"" and writer.committed


def test_a_comment_starts_a_response_and_does_not_commit_it() -> None:
    _, writer, client = made()
    writer.head(head())
    writer.comment(b": x\n\n")
    assert client.body == b"5\r\n: x\n\n\r\n" and writer.started and not writer.committed


def test_a_slow_client_is_reported() -> None:
    _, writer, client = made()
    client.room = False
    writer.head(head())
    assert not writer.body(b"x")
    client.room = True
    assert writer.body(b"y")


@pytest.mark.parametrize(("start", "explained", "ending"), [
    ("GET /x HTTP/1.1", False, "abort"), ("GET /x HTTP/1.0", False, "reset"), ("GET /x HTTP/1.0", True, "abort"),
])
def test_a_response_that_breaks_off_never_looks_complete(start: str, explained: bool, ending: str) -> None:
    _, writer, client = made(start)
    writer.head(head())
    writer.body(b"x")
    writer.abort(explained)
    assert client.ended == [ending] and not client.body.endswith(b"0\r\n\r\n")


def test_what_is_thrown_away_is_committed_all_the_same() -> None:
    writer = NullWriter()
    writer.head(head())
    assert writer.started and not writer.committed and writer.body(b"x") and writer.committed
