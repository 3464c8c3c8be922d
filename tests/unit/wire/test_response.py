"""The response gate: what passes as it came, what is repaired, what becomes a 502."""

from __future__ import annotations

import pytest

from relayd.wire.head_shape_cache import MIN_COUNT
from relayd.wire.response import BadResponse, ResponseHead, parse_response


def take(*lines: bytes, first: bytes = b"HTTP/1.1 200 OK\r\n") -> ResponseHead:
    return parse_response(b"".join([first, *lines, b"\r\n"]))


@pytest.mark.parametrize(
    ("first", "status", "reason"),
    [(b"HTTP/1.1 200 OK\r\n", 200, b" OK"), (b"HTTP/1.0 404 \r\n", 404, b" "), (b"HTTP/2 451\r\n", 451, b""),
     (b"HTTP/2 599 \r\n", 599, b" "), (b"HTTP/1.1 103 Early Hints\r\n", 103, b" Early Hints"), (b"HTTP/1.1 200 \xc4 \r\n", 200, b" \xc4 ")],
)  # fmt: skip
def test_unusual_statuses_and_reasons_pass(first: bytes, status: int, reason: bytes) -> None:
    head = take(first=first)
    assert (head.status, head.reason) == (status, reason)


def test_fields_go_on_in_order_and_byte_for_byte() -> None:
    lines = [b"X-B:  1 \r\n", b"x-a:\r\n", b"Set-Cookie: a=1\r\n", b"set-cookie: b=\xff\r\n", b"X-B: 2\r\n"]
    assert take(*lines).keep == lines


def test_a_large_head_passes() -> None:
    line = b"X: " + b"y" * 60_000 + b"\r\n"
    assert take(line, line).keep == [line, line]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ([b"X : y\r\n"], [b"X: y\r\n"]),
        ([b"X: a\r\n", b"  b\r\n", b"\tc\r\n"], [b"X: a b c\r\n"]),
        ([b"X: a\n", b"Y: b\r\n"], [b"X: a\r\n", b"Y: b\r\n"]),
    ],
)
def test_what_a_gateway_may_repair_is_repaired(sent: list[bytes], kept: list[bytes]) -> None:
    assert take(*sent).keep == kept


def test_a_repaired_framing_field_counts() -> None:
    assert take(b"Content-Length : 5\r\n").length == 5
    with pytest.raises(BadResponse):
        take(b"Content-Length : 5\r\n", b"Content-Length:\r\n", b" 6\r\n")


@pytest.mark.parametrize(
    ("lines", "length"),
    [([], None), ([b"Content-Length: 5\r\n"], 5), ([b"Content-Length: 5\r\n", b"content-length: 5\r\n"], 5),
     ([b"Content-Length: 5, 5\r\n"], 5), ([b"Content-Length: 5\r\n", b"Transfer-Encoding: Chunked\r\n"], None)],
)  # fmt: skip
def test_the_length_is_read_and_its_lines_do_not_go_on(lines: list[bytes], length: int | None) -> None:
    head = take(*lines)
    assert (head.length, head.keep) == (length, [])


@pytest.mark.parametrize("first", [b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 103 Early Hints\r\n"])
def test_answers_without_a_body_have_no_length(first: bytes) -> None:
    assert take(b"Content-Length: 5\r\n", first=first).length is None


def test_hop_by_hop_fields_and_what_connection_names_do_not_go_on() -> None:
    lines = [b"Connection: close, X-Own, Set-Cookie\r\n", b"Keep-Alive: 5\r\n", b"X-Own: 1\r\n", b"Trailer: x\r\n",
             b"Proxy-Authenticate: Basic\r\n", b"Set-Cookie: a\r\n", b"X: y\r\n"]  # fmt: skip
    assert take(*lines).keep == [b"Set-Cookie: a\r\n", b"X: y\r\n"]


def test_an_upgrade_and_fields_that_relayd_writes_too_are_noted() -> None:
    head = take(b"Upgrade: websocket\r\n", b"X-Request-ID: theirs\r\n", first=b"HTTP/1.1 101 Switching Protocols\r\n")
    assert head.upgrade == b"websocket"
    assert head.has_relayd_fields
    assert not take(b"X: y\r\n").has_relayd_fields


@pytest.mark.parametrize(
    "line",
    [b"Content-Length: +5\r\n", b"Content-Length: 5x\r\n", b"Content-Length: 5,\r\n", b"Content-Length: 5, 6\r\n",
     b"Content-Length: 9999999999999999999\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding:\r\n",
     b"X\r\n", b": y\r\n", b"X\x00: y\r\n", b"X: \x00\r\n", b"X: a\rb\r\n", b"X: \x7f\r\n"],
)  # fmt: skip
def test_what_two_readers_see_differently_is_refused(line: bytes) -> None:
    with pytest.raises(BadResponse):
        take(line)


def test_a_head_without_its_blank_line_is_cut() -> None:
    with pytest.raises(BadResponse):
        parse_response(b"HTTP/1.1 200 OK\r\nX: y\r\n")


@pytest.mark.parametrize(("kind", "stream", "json"), [
    (b"text/event-stream; charset=utf-8", True, False), (b"Text/Event-Stream", True, False),
    (b"application/x-ndjson", True, False), (b"application/json", False, True),
    (b"application/problem+json; a=b", False, True), (b"text/html", False, False), (b"application/jsonp", False, False),
])
def test_the_kind_of_an_answer_is_what_its_head_says(kind: bytes, stream: bool, json: bool) -> None:
    media = take(b"content-TYPE:  " + kind + b"\r\n", b"Content-Type: text/plain\r\n").media
    assert (media.text, media.is_stream, media.is_json) == (kind.decode(), stream, json)


def test_the_kind_and_the_coding_are_known_however_often_a_head_was_met() -> None:
    for _ in range(MIN_COUNT + 4):  # at first by the full parser, then by a shape
        head = take(b"X-A: 1\r\n", b"Content-Length: 3\r\n", b"Content-Encoding: gzip\r\n", b"Content-Type: a/b\r\n")
        assert (head.coding, head.media.text, head.length) == ("gzip", "a/b", 3)
        assert head.keep == [b"X-A: 1\r\n", b"Content-Encoding: gzip\r\n", b"Content-Type: a/b\r\n"]


def test_a_head_that_does_not_say_what_its_body_is_has_no_kind() -> None:
    for head in (take(b"X: y\r\n"), take(b"Content-Type: a/b\r\n", b"Content-Encoding: br\r\n",
                                         b"Connection: content-type, content-encoding\r\n")):
        assert (head.media.text, head.coding) == ("", "")
