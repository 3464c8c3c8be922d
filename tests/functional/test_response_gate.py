"""What relayd does not believe of an upstream: malformed heads, two lengths, cut bodies, unasked tunnels."""

from __future__ import annotations

import threading

import pycurl
import pytest

from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream, saying, saying_then_close

OK = b"HTTP/1.1 200 OK\r\n"

MALFORMED = {
    "no_status_line": b"hello world\r\n\r\n",
    "http_0_9": b"<html>hi</html>",
    "status_99": b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
    "status_600": b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n",
    "status_1000": b"HTTP/1.1 1000 X\r\nContent-Length: 0\r\n\r\n",
    "status_word": b"HTTP/1.1 abc X\r\nContent-Length: 0\r\n\r\n",
    "version_3": b"HTTP/3.7 200 OK\r\nContent-Length: 0\r\n\r\n",
    "nul_in_value": OK + b"X-A: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "cr_in_value": OK + b"X-A: a\rb\r\nContent-Length: 0\r\n\r\n",
    "bad_name": OK + b"X(A: b\r\nContent-Length: 0\r\n\r\n",
    "no_colon": OK + b"garbage\r\nContent-Length: 0\r\n\r\n",
    "lengths_differ": OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length_signed": OK + b"Content-Length: +3\r\n\r\nabc",
    "length_negative": OK + b"Content-Length: -3\r\n\r\nabc",
    "length_junk": OK + b"Content-Length: 3x\r\n\r\nabc",
    "length_hex": OK + b"Content-Length: 0x3\r\n\r\nabc",
    "length_list": OK + b"Content-Length: 3, 4\r\n\r\nabcd",
    "coding_unknown": OK + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "coding_twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "coding_reversed": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "unasked_101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "big_head": OK + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 8000) for n in range(40)) + b"Content-Length: 0\r\n\r\n",
    "nothing": b"",
    "cut_status_line": b"HTTP/1.1 20",
    "cut_head": OK + b"X-A: b\r\nContent-Le",
    "interim_flood": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100 + answer(),
}


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize("name", MALFORMED)
def test_an_answer_that_is_not_http_becomes_502(name: str, method: bytes, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying_then_close(MALFORMED[name])
    with relay.client() as client:
        message = client.ask(request(b"/", method=method, body=b"{}" if method == b"POST" else None))
        assert message.status == 502, message
        assert message.complete
        upstream.script = saying(answer(b"well"))
        assert client.ask(request()).body == b"well"
    assert len([head for head in upstream.heads if head.method == b"POST"]) == (method == b"POST")


def test_chunked_beats_a_length_and_only_one_of_them_goes_on(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"abcdef") + b"0\r\n\r\n")
    with relay.client() as client:
        message = client.ask(request())
        assert message.status == 200 and message.body == b"abcdef"
        assert message.get("content-length") is None
        upstream.script = saying(answer(b"well"))
        assert client.ask(request()).body == b"well"


@pytest.mark.parametrize("first", [
    OK + b"Content-Length: 3\r\n\r\nabcEXTRA HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    b"HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
])
def test_bytes_behind_an_answer_reach_nobody(first: bytes, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(first)
    with relay.client() as client:
        one = client.ask(request(b"/one"))
        assert b"poison" not in one.body and b"EXTRA" not in one.body
        upstream.script = saying(answer(b"clean"))
        for _ in range(3):
            assert client.ask(request(b"/two")).body == b"clean"


def test_a_body_on_head_reaches_nobody(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b"poison"))
    with relay.client() as client:
        client.send(request(b"/one", method=b"HEAD"))
        assert client.answer(b"HEAD").get("content-length") == b"6"
        upstream.script = saying(answer(b"clean"))
        for _ in range(3):
            assert client.ask(request(b"/two")).body == b"clean"


def test_a_folded_field_and_a_blank_before_the_colon_are_repaired_or_refused(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying_then_close(OK + b"X-A: one\r\n two\r\nX-B : c\r\nContent-Length: 2\r\n\r\nhi")
    with relay.client() as client:
        message = client.ask(request())
    if message.status == 200:
        assert (message.get("x-a") or b"").split() == [b"one", b"two"] and message.get("x-b") == b"c" and message.body == b"hi"
    else:
        assert message.status == 502


BODY = b"0123456789" * 2
WHOLE = {
    "length": OK + b"X-A: b\r\nContent-Length: 20\r\n\r\n" + BODY,
    "chunked": OK + b"X-A: b\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(BODY[:7]) + chunk(BODY[7:]) + b"0\r\n\r\n",
}


@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize("framing", WHOLE)
def test_an_answer_cut_at_any_byte_never_looks_complete(framing: str, end: str, relay: Relay, upstream: Upstream) -> None:
    whole = WHOLE[framing]
    head_length = whole.index(b"\r\n\r\n") + 4
    last = len(whole)
    if framing == "chunked" and pycurl.version_info()[2] < 0x080000:
        last -= 1  # libcurl 7.88 does not wait for the very last LF, behind the last chunk and a CR: nothing is missing
    for place in range(last):
        upstream.script = saying_then_close(whole[:place], reset=end == "reset")
        with relay.client() as client:
            client.send(request(b"/cut/%d" % place, method=b"POST", body=b"{}"))
            message = client.answer_or_none(b"POST")
            if place < head_length:
                assert message is not None and message.status == 502 and message.complete, (place, message)
            elif message is not None and message.status == 200:
                assert BODY.startswith(message.body), (place, message)
                # libcurl 7.88 does not wait for the very last LF of a chunked body: of the body nothing is missing.
                assert not message.complete or (framing == "chunked" and place == len(whole) - 1), (place, message)
    upstream.script = saying(whole)
    with relay.client() as client:
        message = client.ask(request(method=b"POST", body=b"{}"))
        assert message.complete and message.body == BODY


def test_a_reset_close_delimited_body_does_not_look_complete(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying_then_close(OK + b"\r\n" + BODY, reset=True)
    for version in (b"HTTP/1.1", b"HTTP/1.0"):
        with relay.client() as client:
            client.send(request(version=version))
            message = client.answer_or_none()
            assert message is None or message.status == 502 or not message.complete


@pytest.mark.parametrize("bad", [b"zz\r\nabc\r\n", b"-1\r\nabc\r\n", b"3\r\nabcXX\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n"])
def test_bad_chunks_break_the_answer(bad: bytes, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying_then_close(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"good") + bad)
    with relay.client() as client:
        client.send(request())
        message = client.answer_or_none()
        assert message is None or message.status == 502 or not message.complete


def test_a_broken_stream_is_not_logged_as_complete(relay: Relay, upstream: Upstream) -> None:
    shown = threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(OK + b"Content-Length: 100\r\n\r\nabc")
        assert shown.wait(60)
        peer.close()

    upstream.script = script
    with relay.client() as client:
        client.send(request(b"/logged-cut"))
        found = client.head_of_answer()
        shown.set()
        client.body(found, until_close=True)
        assert not found.complete
    assert relay.record(path="/logged-cut")["outcome"] == "upstream.transfer"
