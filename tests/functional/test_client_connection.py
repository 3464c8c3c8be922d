"""The client's side of a connection: keep-alive, pipelining, old clients, expectations, chunked bodies, early answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream, saying, saying_then_close


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    """The listener `impatient` is for clients that are too slow; a busy machine makes all clients slow."""
    return {
        "routes": [
            {"name": "small", "match": {"prefix": "/small"}, "upstream": "up", "body_limit": 1000},
            {"name": "trailers", "match": {"prefix": "/trailers"}, "upstream": "up", "trailers": True},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
        ],
        "listeners": {
            "public": {"limits": {"requests": 50}},
            "impatient": {
                "address": f"127.0.0.1:{free_port()}", "timeouts": {"header": "600ms", "keepalive": "800ms", "body": "600ms"},
            },
        },
    }


def impatient(relay: Relay) -> Client:
    """A connection to the listener with short timeouts."""
    host, _, port = relay.config["listeners"]["impatient"]["address"].rpartition(":")
    return Client((host, int(port)))


def test_many_requests_use_one_connection_on_both_sides(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.ask(request(b"/warm"))
        before = upstream.connections
        for number in range(10):
            upstream.script = saying(answer(b"n%d" % number))
            assert client.ask(request(b"/%d" % number)).body == b"n%d" % number
    assert upstream.connections == before


def test_connection_close_is_honoured_and_said(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        message = client.ask(request(b"/", b"Connection: close"))
        assert (message.get("connection") or b"").lower() == b"close"
        assert client.ended()


def test_after_the_allowed_number_of_requests_the_connection_ends_politely(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        for number in range(50):
            message = client.ask(request())
            assert ((message.get("connection") or b"").lower() == b"close") == (number == 49)
        assert client.ended()


def test_pipelined_requests_are_answered_in_order(relay: Relay, upstream: Upstream) -> None:
    upstream.script = lambda peer, message: peer.send(answer(peer.whole(message).target + b"=" + message.body))
    with relay.client() as client:
        client.send(b"".join(request(b"/%d" % number, method=b"POST", body=b"b%d" % number) for number in range(20)))
        for number in range(20):
            assert client.answer().body == b"/%d=b%d" % (number, number)


def test_a_pipelined_request_behind_a_chunked_one_is_not_taken_for_its_body(relay: Relay, upstream: Upstream) -> None:
    upstream.script = lambda peer, message: peer.send(answer(peer.whole(message).target + b"=" + message.body))
    first = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"abc") + b"0\r\n\r\n"
    with relay.client() as client:
        client.send(first + request(b"/b"))
        assert client.answer().body == b"/a=abc"
        assert client.answer().body == b"/b="


@pytest.mark.parametrize("size", [1, 7])
def test_a_request_that_comes_in_small_pieces_is_the_same_request(size: int, relay: Relay, upstream: Upstream) -> None:
    data = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;e=1\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"
    with relay.client() as client:
        for place in range(0, len(data), size):
            client.send(data[place : place + size])
        assert client.answer().status == 200
    assert upstream.heads[-1].body == b"hello"


def test_an_old_client_gets_an_old_answer_and_the_end_of_the_connection(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                             + chunk(b"abc") + b"0\r\n\r\n")
    with relay.client() as client:
        message = client.ask(request(b"/", version=b"HTTP/1.0"))
        assert message.interim == []
        assert message.get("transfer-encoding") is None
        assert message.body == b"abc"
        assert client.ended()


def test_an_old_client_may_keep_its_connection_when_the_length_is_known(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        for _ in range(2):
            message = client.ask(request(b"/", b"Connection: keep-alive", version=b"HTTP/1.0"))
            assert message.body == b"hello"
            assert message.framing == b"length"
            assert (message.get("connection") or b"").lower() == b"keep-alive"


def test_100_continue_is_answered_before_the_body_is_sent(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert client.take_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.send(b"hello")
        assert client.answer().status == 200
    assert upstream.heads[-1].body == b"hello"


def test_who_would_be_refused_is_not_asked_to_upload(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.send(b"POST /small HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n")
        message = client.answer()
        assert message.interim == [] and message.status == 413
    assert upstream.nothing_came()


def test_100_continue_means_nothing_to_an_old_client(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.send(b"POST / HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        message = client.head()
        assert message.status == 200


def test_a_chunked_body_with_extensions_and_trailers_arrives_whole(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b'3;name=value\r\nabc\r\n4;q="a;b"\r\ndefg\r\n0;last\r\nX-Sum: 1\r\nContent-Length: 99\r\n\r\n'
        )
        assert client.answer().status == 200
    seen = upstream.heads[-1]
    assert seen.body == b"abcdefg" and seen.complete
    assert b"x-sum" not in seen.names and seen.trailers == []


def test_trailers_of_a_response_are_dropped_unless_the_route_wants_them(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")
    with relay.client() as client:
        message = client.ask(request(b"/"))
        assert message.body == b"abc" and message.complete and message.trailers == []


def test_the_trailer_field_goes_with_the_trailers_that_it_announces(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(b"HTTP/1.1 200 OK\r\nTrailer: X-Sum, Content-Length\r\nTrailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")
    with relay.client() as client:
        for _ in range(4):  # a head that was met often is read in another way
            message = client.ask(request(b"/trailers"))
            assert message.get_all("trailer") == [b"X-Sum, X-End"] and message.trailers == [(b"X-Sum", b"1")]
            assert client.ask(request(b"/")).get("trailer") is None
        client.send(b"GET /trailers HTTP/1.0\r\nHost: x\r\n\r\n")
        assert client.answer().get("trailer") is None  # without chunks there are none


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_a_426_says_which_protocol_it_wants(version: bytes, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno")
    with relay.client() as client:
        client.send(b"GET /old " + version + b"\r\nHost: x\r\n\r\n")
        message = client.answer()
        assert message.status == 426 and message.get("upgrade") == b"TLS/1.0, websocket"
        assert b"upgrade" in (message.get("connection") or b"").lower()
    upstream.script = saying(b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok")
    with relay.client() as client:
        assert client.ask(request(b"/offer")).get("upgrade") is None  # what relayd does not speak is not offered


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_answers_without_a_body_have_none(status: bytes, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(b"HTTP/1.1 " + status + b"\r\nETag: \"a\"\r\n\r\n")
    with relay.client() as client:
        client.send(request(b"/none") + request(b"/next"))
        first = client.answer()
        assert first.start.split(b" ", 1)[1] == status and first.get("etag") == b'"a"'
        assert first.get("transfer-encoding") is None
        assert status.startswith(b"304") or first.get("content-length") is None
        assert client.answer().start.split(b" ", 1)[1] == status


def test_head_keeps_the_length_and_has_no_body(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nX-A: b\r\n\r\n")
    with relay.client() as client:
        client.send(request(b"/", method=b"HEAD"))
        message = client.answer(b"HEAD")
        assert message.get("content-length") == b"12345"
        upstream.script = saying(answer(b"after"))
        assert client.ask(request()).body == b"after"


def test_304_keeps_its_length(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 55\r\n\r\n")
    with relay.client() as client:
        message = client.ask(request())
        assert message.status == 304 and message.get("content-length") == b"55"
        upstream.script = saying(answer(b"after"))
        assert client.ask(request()).body == b"after"


def test_early_hints_reach_the_client_before_the_answer(relay: Relay, upstream: Upstream) -> None:
    go = threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        go.wait(60)
        peer.send(answer())

    upstream.script = script
    with relay.client() as client:
        client.send(request())
        interim = client.head()
        assert interim.status == 103 and interim.get("link") == b"</style.css>; rel=preload"
        go.set()
        assert client.answer().body == b"hello"


def test_an_unasked_100_from_the_upstream_is_swallowed(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(b"HTTP/1.1 100 Continue\r\n\r\n" + answer())
    with relay.client() as client:
        message = client.ask(request())
        assert message.status == 200 and message.interim == []


def test_the_host_of_an_absolute_target_decides(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        assert client.ask(request(b"http://other.test/a/b?c=d", host=b"ignored.test")).status == 200
    seen = upstream.heads[-1]
    assert seen.target == b"/a/b?c=d"
    assert seen.get("x-forwarded-host") == b"other.test"


def test_options_star_is_answered_here(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        for target in (b"*", b"http://relayd.test"):  # RFC 9112 3.2.4
            message = client.ask(request(target, method=b"OPTIONS"))
            assert message.status == 200 and message.get("allow")
    assert upstream.nothing_came()


def test_max_forwards_zero_on_options_is_answered_here_and_more_is_counted_down(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        assert client.ask(request(b"/", b"Max-Forwards: 0", method=b"OPTIONS")).status in (200, 204)
        assert upstream.nothing_came()
        assert client.ask(request(b"/", b"Max-Forwards: 5", method=b"OPTIONS")).status == 200
    assert upstream.heads[-1].get("max-forwards") == b"4"


@pytest.mark.parametrize("stays", [True, False])
def test_an_early_refusal_reaches_the_client_while_it_still_uploads(stays: bool, relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.send(answer(b"no", status=b"401 Unauthorized"))
        if stays:
            peer.wait_gone()
        peer.close()

    upstream.script = script
    with relay.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 65536)
        message = client.answer()
        assert message.status == 401 and message.body == b"no"
        try:
            for _ in range(100):
                client.send(b"x" * 65536)
        except OSError:
            pass
        assert client.ended()


@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"])
def test_an_early_answer_is_whole_for_a_client_that_then_ends_its_side(framing: bytes, relay: Relay, upstream: Upstream) -> None:
    go = threading.Event()

    def script(peer: Peer, message: Message) -> None:
        whole = answer(b"early")
        peer.send(whole[:-2])
        assert go.wait(60)
        peer.send(whole[-2:])
        peer.wait_gone()

    upstream.script = script
    for waits in (True, False):  # for its last bytes, or for nothing but the rest of the body
        go.clear()
        with relay.client() as client:
            client.send(b"POST /upload HTTP/1.1\r\nHost: x\r\n" + framing)
            seen = client.take_until(b"ear")
            if waits:
                client.finish()
            go.set()
            if not waits:
                seen += client.take(2)
                client.finish()
            assert (seen + client.read_all()).endswith(b"\r\n\r\nearly")
        relay.wait_quiet()
        assert upstream.left.get(timeout=60)


def test_a_half_closed_client_that_waits_gets_no_wrong_answer(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.send(request(b"/half"))
        client.finish()
        said = client.read_all()
    assert said == b"" or said.startswith(b"HTTP/1.1 200 ")
    relay.wait_quiet()
    upstream.drop_idle()  # it may have gone on already, and must not be taken for the next test's


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, module_upstream: Upstream) -> Iterator[Relay]:
    """A relayd that answers clients that have closed their sending direction."""
    with Relay(tmp_path_factory.mktemp("patient"), module_upstream.url, {"listeners": {"public": {"half_close": True}}}) as relay:
        yield relay


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_with_half_close_a_client_that_has_ended_its_side_gets_its_answer(patient: Relay, upstream: Upstream, body: bytes) -> None:
    go = threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        for piece in (answer(b"late")[:-2], b"te"):
            assert go.wait(60)
            go.clear()
            peer.send(piece)

    upstream.script = script
    with patient.client() as client:
        client.send(request(b"/half", method=b"POST", body=body) if body else request(b"/half"))
        client.finish()
        assert len(patient.status()["exchanges"]) == 1  # it has seen the end, and waits
        go.set()
        seen = client.take_until(b"la")
        assert len(patient.status()["exchanges"]) == 1
        go.set()
        assert (seen + client.read_all()).endswith(b"\r\n\r\nlate")
    assert patient.record(path="/half", code="")["status"] == 200
    patient.wait_quiet()


def test_with_half_close_pipelined_requests_before_the_end_are_answered(patient: Relay, upstream: Upstream) -> None:
    upstream.script = lambda peer, message: peer.send(answer(message.target))
    with patient.client() as client:
        client.send(request(b"/one") + request(b"/two") + request(b"/three"))
        client.finish()
        said = client.read_all()
    assert [said.count(b"\r\n\r\n/" + name) for name in (b"one", b"two", b"three")] == [1, 1, 1]
    patient.wait_quiet()


def test_with_half_close_a_client_that_has_left_ends_its_stream_at_a_write(patient: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                peer.send(chunk(b"data: x\n\n"))
        except OSError:
            return

    upstream.script = script
    with patient.client() as client:
        client.send(request(b"/left"))
        client.take_until(b"data: x")
    patient.wait_quiet()
    assert patient.record(path="/left")["code"] == "client_gone"


def test_a_known_length_above_the_limit_is_refused_unread(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.send(b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
        assert client.answer().status == 413
    assert upstream.nothing_came()


def test_a_chunked_body_is_counted_and_refused_when_it_crosses_the_limit(relay: Relay, upstream: Upstream) -> None:
    bodies: list[Message] = []
    upstream.script = lambda peer, message: bodies.append(peer.whole(message))
    with relay.client() as client:
        client.send(b"POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 600))
        client.send(chunk(b"x" * 600))
        assert client.answer().status == 413
    assert not [message for message in bodies if message.complete]


def test_a_body_at_the_limit_passes(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        assert client.ask(request(b"/small", method=b"POST", body=b"x" * 1000)).status == 200


def test_slow_headers_end_in_408_or_the_end(relay: Relay, upstream: Upstream) -> None:
    with impatient(relay) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        stop = threading.Event()

        def dribble() -> None:
            while not stop.wait(0.1):
                try:
                    client.send(b"X-A: b\r\n")
                except OSError:
                    return

        thread = threading.Thread(target=dribble)
        thread.start()
        message = client.answer_or_none()
        stop.set()
        thread.join()
        assert message is None or message.status == 408
    assert upstream.nothing_came()


def test_an_idle_connection_is_closed_without_a_word(relay: Relay, upstream: Upstream) -> None:
    with impatient(relay) as client:
        client.ask(request())
        assert client.ended()
        assert client.rest() == b""


def test_a_body_that_stops_coming_ends_in_408_and_cancels_the_upstream(relay: Relay, upstream: Upstream) -> None:
    bodies: list[Message] = []

    def script(peer: Peer, message: Message) -> None:
        bodies.append(peer.whole(message))
        peer.close()

    upstream.script = script
    with impatient(relay) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100000)
        assert client.answer().status == 408
        assert client.ended()
    assert not [message for message in bodies if message.complete]


def test_the_upstream_closing_after_its_answer_does_not_end_the_client(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying_then_close(answer(b"bye", b"Connection: close"))
    with relay.client() as client:
        for _ in range(3):
            assert client.ask(request()).body == b"bye"
