"""HTTP/2 to upstreams: multiplexed, held back, cancelled and cut as over HTTP/1.1."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pycurl
import pytest

from tests.functional.harness.faults import until
from tests.functional.harness.message import request
from tests.functional.harness.relay import Relay
from tests.functional.test_listeners import make_certificate

pytest.importorskip("h2")
from tests.functional.harness.http2 import CHUNK, Http2

Certificate = tuple[str, str]
# libcurl before 8 takes up to 32 MiB of a stream that nobody reads, and tells of a cancelled one with the next traffic.
OLD = pycurl.version_info()[1].startswith("7.")
HELD_KIB = (48 if OLD else 24) * 1024


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certs"), "127.0.0.1")


def relay_for(tmp_path: Path, up: Http2) -> Relay:
    change = {"upstreams": {"up": {"http": "2", "tls": {"verify": False}}}}
    return Relay(tmp_path / "r", up.url, change)


def arrived(up: Http2, path: bytes) -> bool:
    return bool(up.seen[-1].headers[":path"] == path.decode())


def test_requests_of_many_clients_share_one_connection(tmp_path: Path, certificate: Certificate) -> None:
    with Http2(certificate) as up, relay_for(tmp_path, up) as relay:
        with relay.client() as first:
            assert first.ask(request(b"/echo", method=b"POST", body=b"one")).body == b"one"
        clients = [relay.client() for _ in range(8)]
        for number, client in enumerate(clients):
            client.send(request(b"/echo", method=b"POST", body=b"%d" % number * 1000))
        for number, client in enumerate(clients):
            message = client.answer(b"POST")
            assert message.status == 200 and message.body == b"%d" % number * 1000
            client.close()
        assert len(up.seen) == 9 and len({seen.connection for seen in up.seen}) <= 2
        assert up.seen[0].headers[":authority"] == up.url.removeprefix("https://")


def test_events_arrive_one_by_one(tmp_path: Path, certificate: Certificate) -> None:
    with Http2(certificate) as up, relay_for(tmp_path, up) as relay, relay.client() as client:
        client.send(request(b"/events?3"))
        head = client.head_of_answer()
        assert head.status == 200
        for number in range(3):
            up.more.release()
            assert b"data: %d\n\n" % number in client.read_some()


def test_a_large_upload_and_a_large_download_arrive_whole(tmp_path: Path, certificate: Certificate) -> None:
    with Http2(certificate) as up, relay_for(tmp_path, up) as relay, relay.client() as client:
        body = CHUNK * 256
        message = client.ask(request(b"/echo", method=b"PUT", body=body))
        assert message.status == 200 and message.body == body and bytes(up.seen[0].body) == body


def test_a_client_that_does_not_read_holds_back_its_stream_and_no_other(tmp_path: Path, certificate: Certificate) -> None:
    size = 32 * 1024 * 1024
    with Http2(certificate) as up, relay_for(tmp_path, up) as relay:
        before = relay.rss_kib()
        slow = relay.client(receive_buffer=4096)
        slow.send(request(b"/big?%d" % size))
        until(lambda: up.seen and up.seen[0].sent, what="the beginning of the stream")
        last = -1

        def stands() -> bool:
            nonlocal last
            now, last = up.seen[0].sent == last, up.seen[0].sent
            time.sleep(0.1)
            return now

        until(stands, what="a held-back endpoint")
        assert up.seen[0].sent < size // 2
        with relay.client() as other:
            for _ in range(3):
                assert other.ask(request(b"/echo", method=b"POST", body=b"x" * 50_000)).body == b"x" * 50_000
        assert relay.rss_kib() - before < HELD_KIB
        assert len(slow.answer().body) == size
        slow.close()


def test_the_client_leaving_resets_its_stream_and_keeps_the_connection(tmp_path: Path, certificate: Certificate) -> None:
    with Http2(certificate) as up, relay_for(tmp_path, up) as relay:
        with relay.client() as first:
            assert first.ask(request(b"/echo", method=b"POST", body=b"x")).body == b"x"
        for path in (b"/hang", b"/events?9"):
            client = relay.client()
            client.send(request(path))
            up.more.release()
            until(partial(arrived, up, path))
            client.close()
            if not OLD:
                until(lambda: up.seen[-1].reset, what="the reset of the stream")
        with relay.client() as last:
            assert last.ask(request(b"/echo", method=b"POST", body=b"y")).body == b"y"
        assert len({seen.connection for seen in up.seen[:3]}) == 1  # a reset ends a stream, not its connection


def test_a_stream_that_is_cut_never_looks_complete(tmp_path: Path, certificate: Certificate) -> None:
    with Http2(certificate) as up, relay_for(tmp_path, up) as relay, relay.client() as client:
        client.send(request(b"/cut"))
        message = client.answer_or_none()
        assert message is None or not message.complete or message.status == 502
        assert relay.record(path="/cut")["code"] in ("upstream_cut", "upstream_closed")
