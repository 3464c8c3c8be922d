"""The client's half of an exchange: framing, pieces, and what comes too late."""

from __future__ import annotations

import pytest

from relayd import clock
from relayd.proxy.exchange import Exchange
from relayd.wire.response import ResponseHead
from tests.unit.proxy.scene import PLAIN, Client, Counting, head_for, plan_of

PLAN = plan_of(PLAIN)


def made(start: str = "GET /x HTTP/1.1") -> tuple[Exchange, Client]:
    client = Client()
    client.exchange = exchange = Exchange(Counting(), PLAN, client, head_for(start=start), clock.monotonic())
    return exchange, client


def head(length: int | None = None, status: int = 200) -> ResponseHead:
    response = ResponseHead(status, b"")
    response.length = length
    return response


@pytest.mark.parametrize(("start", "length", "framed"), [
    ("GET /x HTTP/1.1", None, b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"), ("GET /x HTTP/1.1", 3, b"abc"),
    ("GET /x HTTP/1.0", None, b"abc"), ("HEAD /x HTTP/1.1", 3, b""),
])
def test_pieces_are_framed_as_the_client_can_read_them(start: str, length: int | None, framed: bytes) -> None:
    exchange, client = made(start)
    exchange.deliver(head(length), None, b"ab")
    exchange.deliver(head(length), None, b"c")
    exchange.finish()
    assert client.body == framed and exchange.over
    assert exchange.record.bytes_out == (0 if start.startswith("HEAD") else 3)


def test_the_head_goes_once_and_an_empty_piece_sends_nothing_else() -> None:
    exchange, client = made()
    assert not exchange.begun
    exchange.deliver(head(), None, b"")
    assert exchange.begun and client.body == b""
    sent = client.sent
    exchange.deliver(head(status=500), None, b"")
    assert client.sent == sent and exchange.record.status == 200


def test_a_client_that_is_behind_says_so() -> None:
    exchange, client = made()
    client.room = False
    assert not exchange.deliver(head(), None, b"x")
    client.room = True
    assert exchange.deliver(head(), None, b"y")


def test_nothing_is_delivered_to_who_has_left() -> None:
    exchange, client = made()
    exchange.deliver(head(), None, b"x")
    exchange.client_gone()
    sent = client.sent
    assert exchange.deliver(head(), None, b"y") and client.sent == sent and exchange.record.code == "client_gone"
