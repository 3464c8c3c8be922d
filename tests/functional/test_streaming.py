"""Both directions at the slower side's pace, everything at once, and nobody works for a client that has left."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import stuck_for, until
from tests.functional.harness.message import PATIENCE_S, Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream, hello

MIB = 1 << 20
OK = b"HTTP/1.1 200 OK\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CONFIG = {
    "upstreams": {"hole": {"endpoints": ["http://127.0.0.1:1"], "timeouts": {"connect": "20s"}}},
    "routes": [
        {"name": "finish", "match": {"prefix": "/finish"}, "upstream": "up", "on_disconnect": "finish"},
        {"name": "hole", "match": {"prefix": "/hole"}, "upstream": "hole"},
        {"name": "kept", "match": {"prefix": "/kept"}, "upstream": "up", "keepalive": "200ms"},
        {"name": "all", "match": {"prefix": "/"}, "upstream": "up", "body_limit": "1GiB"},
    ],
}


def full_listener() -> tuple[socket.socket, list[socket.socket]]:
    """An address that accepts no connection: its queue is full."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    waiting = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        waiting.append(sock)
    return listener, waiting


def test_the_head_goes_out_before_the_first_body_byte(relay: Relay, upstream: Upstream) -> None:
    go = threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(OK + b"Content-Length: 5\r\n\r\n")
        go.wait(60)
        peer.send(b"hello")

    upstream.script = script
    with relay.client() as client:
        client.send(request())
        message = client.head_of_answer()
        assert message.status == 200
        go.set()
        client.body(message, until_close=True)
        assert message.body == b"hello"


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_every_event_reaches_the_client_before_the_next_one_is_made(version: bytes, relay: Relay, upstream: Upstream) -> None:
    go = threading.Semaphore(0)

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE)
        for number in range(20):
            assert go.acquire(timeout=60)
            peer.send(chunk(b": comment %d\ndata: {\"n\": %d}\n\n" % (number, number)))
        peer.send(b"0\r\n\r\n")

    upstream.script = script
    with relay.client() as client:
        client.send(request(b"/events", method=b"POST", body=b"{}", version=version))
        client.head_of_answer()
        for number in range(20):
            go.release()
            seen = client.take_until(b'data: {"n": %d}\n\n' % number)
            assert b": comment %d\n" % number in seen
        client.read_all() if version == b"HTTP/1.0" else client.take_until(b"0\r\n\r\n")


def test_a_silent_event_stream_of_a_plain_route_gets_comments_between_its_events(relay: Relay, upstream: Upstream) -> None:
    go, half = threading.Event(), threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: 1\n\n"))
        assert go.wait(60)
        peer.send(chunk(b"data: "))
        assert half.wait(60)
        peer.send(chunk(b"2\n\n") + b"0\r\n\r\n")

    upstream.script = script
    with relay.client() as client:
        client.send(request(b"/kept"))
        client.head_of_answer()
        assert client.take_until(b"data: 1\n\n\r\n")
        for _ in range(2):
            assert client.take_until(b"\r\n: keep-alive\n\n\r\n")
        go.set()
        client.take_until(b"6\r\ndata: \r\n")
        assert client.silent(1.0)  # nothing stands inside an event
        half.set()
        assert client.take_until(b"0\r\n\r\n") == b"3\r\n2\n\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("head", [
    b"Content-Type: text/event-stream\r\nContent-Length: 18", b"Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked",
    b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked", b"Content-Type: text/plain\r\nTransfer-Encoding: chunked",
])
def test_what_has_no_room_for_comments_gets_none(head: bytes, relay: Relay, upstream: Upstream) -> None:
    go = threading.Event()
    frame = bytes if b"Length" in head else chunk

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + frame(b"data: 1\n\n"))
        assert go.wait(60)
        peer.send(frame(b"data: 2\n\n") + (b"" if b"Length" in head else b"0\r\n\r\n"))

    upstream.script = script
    with relay.client() as client:
        client.send(request(b"/kept"))
        client.head_of_answer()
        assert client.take_until(b"data: 1\n\n") and (frame is bytes or client.take(2)) and client.silent(1.0)
        go.set()
        assert client.take_until(b"data: 2\n\n") == (b"data: 2\n\n" if frame is bytes else b"9\r\ndata: 2\n\n")


def test_a_piece_of_an_event_is_not_held_until_the_event_is_whole(relay: Relay, upstream: Upstream) -> None:
    go = threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + b"20\r\ndata: half")
        go.wait(60)
        peer.send(b"x" * 22 + b"\r\n0\r\n\r\n")

    upstream.script = script
    with relay.client() as client:
        client.send(request())
        client.take_until(b"data: half")
        go.set()
        client.take_until(b"0\r\n\r\n")


def test_a_slow_client_holds_back_the_upstream_and_costs_no_memory(relay: Relay, upstream: Upstream) -> None:
    sent = 0
    size = 64 * MIB
    piece = bytes(range(256)) * 256

    def script(peer: Peer, message: Message) -> None:
        nonlocal sent
        peer.whole(message)
        peer.send(OK + b"Content-Length: %d\r\n\r\n" % size)
        while sent < size:
            peer.send(piece)
            sent += len(piece)

    with relay.client() as other:
        other.ask(request(b"/warm"))
    upstream.script = script
    before = relay.rss_kib()
    with relay.client(receive_buffer=65536) as client:
        client.send(request(b"/slow"))
        message = client.head_of_answer()
        stuck_for(lambda: sent, 0.5)
        assert sent < 24 * MIB, "the upstream was not held back"
        assert relay.rss_kib() - before < 2048, "the body was kept in memory"
        assert relay.exchanges() == 1
        total = 0
        while len(client.buffer) or total < size:
            data = client.read_some()
            assert data, "the rest did not come"
            start = total % 256
            assert data == (bytes(range(256)) * (len(data) // 256 + 2))[start : start + len(data)]
            total += len(data)
        assert total == size and message.status == 200
    assert relay.rss_kib() - before < 4096


def test_a_stalled_client_does_not_hold_back_others(relay: Relay, upstream: Upstream) -> None:
    big = answer(b"x" * (16 * MIB))

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(big if message.target == b"/big" else answer())

    upstream.script = script
    with relay.client(receive_buffer=65536) as stalled:
        stalled.send(request(b"/big"))
        stalled.head_of_answer()
        for _ in range(5):
            with relay.client() as client:
                assert client.ask(request(b"/other")).body == b"hello"
        assert relay.exchanges() == 1, "the stalled one is still there: nobody waited for it"


def test_a_slow_upstream_holds_back_the_client_and_costs_no_memory(relay: Relay, upstream: Upstream) -> None:
    go = threading.Event()
    size = 64 * MIB

    def script(peer: Peer, message: Message) -> None:
        go.wait(60)
        total = len(peer.rest())
        while total < size:
            total += len(peer.read_some())
        peer.send(answer(b"%d" % total))

    upstream.script = script
    before = relay.rss_kib()
    sent = 0
    with relay.client() as client:
        client.send(b"PUT /up HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)

        def upload() -> None:
            nonlocal sent
            piece = b"x" * 65536
            while sent < size:
                client.send(piece)
                sent += len(piece)

        client.sock.settimeout(30)
        thread = threading.Thread(target=upload)
        thread.start()
        stuck_for(lambda: sent, 0.5)
        held = sent
        grown = relay.rss_kib() - before
        go.set()
        thread.join(60)
        assert client.answer().body == b"%d" % size
    assert held < 24 * MIB, "the client was not held back"
    assert grown < 2048, "the body was kept in memory"


def leave(client: object, how: str) -> None:
    if how == "reset":
        client.reset()  # type: ignore[attr-defined]
    elif how == "half_close":
        client.finish()  # type: ignore[attr-defined]
    else:
        client.close()  # type: ignore[attr-defined]


def is_connected(peer: Peer) -> bool:
    """Whether relayd has kept this connection, as the kernel sees it: the peer's own thread may look later."""
    established = 1  # TCP_ESTABLISHED of <netinet/tcp.h>
    try:
        return peer.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == established
    except OSError:
        return False


# A half-closed upload is a cut body: the next test.
LEAVING = [(phase, how) for phase in ("silent", "streaming", "uploading", "paused") for how in ("close", "reset", "half_close")
           if (phase, how) != ("uploading", "half_close")]


@pytest.mark.parametrize(("phase", "how"), LEAVING)
def test_when_the_client_leaves_the_upstream_is_cancelled_at_once(phase: str, how: str, relay: Relay, upstream: Upstream) -> None:
    """Whoever asks after the client has left is answered by a relayd that has cancelled the exchange already."""
    ready, peers = threading.Event(), list[Peer]()

    def script(peer: Peer, message: Message) -> None:
        if message.target == b"/after":
            hello(peer, message)
            return
        peers.append(peer)
        if phase != "uploading":
            peer.whole(message)
        if phase == "streaming":
            peer.send(SSE + chunk(b"data: 1\n\n"))
        if phase == "paused":
            peer.send(OK + b"Content-Length: %d\r\n\r\n" % (64 * MIB))
            peer.sock.settimeout(0.3)
            try:
                while True:
                    peer.sock.sendall(b"x" * 65536)
            except TimeoutError:
                pass
            ready.set()
            try:
                peer.sock.settimeout(PATIENCE_S)
                while True:
                    peer.sock.sendall(b"x" * 65536)
            except OSError:
                upstream.left.put(time.monotonic())
                return
        ready.set()
        peer.wait_gone()

    upstream.script = script
    client = relay.client(receive_buffer=65536) if phase == "paused" else relay.client()
    with client:
        if phase == "uploading":
            client.send(b"POST /gone HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50000)
        else:
            client.send(request(b"/gone", method=b"POST", body=b"{}"))
        if phase == "streaming":
            client.take_until(b"data: 1\n\n")
        assert ready.wait(60)
        leave(client, how)
        with relay.client() as other:
            assert other.ask(request(b"/after")).status == 200
        assert not relay.exchanges()
        assert not is_connected(peers[0])
        upstream.left.get(timeout=60)
    relay.wait_quiet()
    record = relay.record(path="/gone", code="client_gone")
    assert record["outcome"].startswith("client.") and record["status"] in (200, 499)


def test_a_half_closed_upload_never_becomes_a_whole_request(relay: Relay, upstream: Upstream) -> None:
    bodies: list[Message] = []
    done = threading.Event()

    def script(peer: Peer, message: Message) -> None:
        bodies.append(peer.whole(message))
        done.set()

    upstream.script = script
    for framing in (b"Content-Length: 1000\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"):
        done.clear()
        with relay.client() as client:
            client.send(b"POST /cutup HTTP/1.1\r\nHost: x\r\n" + framing)
            upstream.request()
            client.finish()
            assert done.wait(60)
    assert [message.complete for message in bodies] == [False, False]


def test_a_client_that_leaves_while_connecting_is_forgotten(tmp_path, upstream: Upstream) -> None:  # type: ignore[no-untyped-def]
    listener, waiting = full_listener()
    try:
        change = {"upstreams": {"up": {"endpoints": [f"http://127.0.0.1:{listener.getsockname()[1]}"], "timeouts": {"connect": "1h"}}}}
        with Relay(tmp_path / "r", "", change) as relay:
            with relay.client() as client:
                client.send(request(b"/hole"))
                until(lambda: relay.exchanges() == 1)
            relay.wait_quiet()
            assert relay.record(path="/hole")["code"] == "client_gone"
    finally:
        for sock in (listener, *waiting):
            sock.close()


def test_a_route_may_let_the_upstream_finish(relay: Relay, upstream: Upstream) -> None:
    ready, go, finished = threading.Event(), threading.Event(), threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: 1\n\n"))
        ready.set()
        go.wait(60)
        for _ in range(1000):  # more than any kernel buffers: a cancelled upstream could not send it
            peer.send(chunk(b"data: " + b"x" * 20000 + b"\n\n"))
        peer.send(b"0\r\n\r\n")
        finished.set()

    upstream.script = script
    with relay.client() as client:
        client.send(request(b"/finish", method=b"POST", body=b"{}"))
        client.take_until(b"data: 1\n\n")
        assert ready.wait(60)
    go.set()
    assert finished.wait(60), "the upstream was cancelled"
    relay.wait_quiet()


def longest_wait(relay: Relay, client: Client) -> float:
    """The longest of twenty waits for another answer, in what relayd worked meanwhile: a loaded machine adds nothing."""
    worst = 0.0
    for _ in range(20):
        begun = relay.cpu_s()
        assert client.ask(request(b"/other")).status == 200
        worst = max(worst, relay.cpu_s() - begun)
    return worst


def test_many_tiny_chunks_do_not_delay_others(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        if message.target == b"/tiny":
            peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        else:
            peer.send(answer())

    upstream.script = script
    def beside() -> bool:
        with relay.client() as busy, relay.client() as client:
            client.ask(request(b"/other"))
            begun = relay.cpu_s()
            busy.send(request(b"/tiny"))
            worst = longest_wait(relay, client)
            assert busy.answer().body == b"x" * 100_000
            return worst < max(0.05, (relay.cpu_s() - begun) / 3)

    assert any(beside() for _ in range(5)), "somebody waits for all of it"


def test_many_tiny_request_chunks_do_not_delay_others(relay: Relay, upstream: Upstream) -> None:
    body = b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"

    def beside() -> bool:
        with relay.client() as busy, relay.client() as client:
            client.ask(request(b"/other"))
            head = b"POST /tiny HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            thread = threading.Thread(target=busy.send, args=(head + body,))
            begun = relay.cpu_s()
            thread.start()
            worst = longest_wait(relay, client)
            thread.join()
            assert busy.answer().status == 200
            return worst < max(0.05, (relay.cpu_s() - begun) / 3)

    assert any(beside() for _ in range(5)), "somebody waits for all of it"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_bodies_pass_byte_for_byte(framing: str, relay: Relay, upstream: Upstream) -> None:
    body = bytes(range(256)) * 4096 * 8
    upstream.script = lambda peer, message: peer.send(answer(peer.whole(message).body))
    with relay.client() as client:
        if framing == "length":
            data = request(b"/big", method=b"POST", body=body)
        else:
            pieces = b"".join(chunk(body[place : place + 70_001]) for place in range(0, len(body), 70_001))
            data = b"POST /big HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
        message = client.ask(data)
        assert message.body == body
