"""What passes through unchanged, what is taken away, and what relayd adds of its own."""

from __future__ import annotations

import gzip
import os
import re
import time

import pytest

from tests.functional.harness.message import answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream, saying

OWN_REQUEST = {
    b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip", b"forwarded", b"via", b"host",
}
OWN_RESPONSE = {b"x-request-id", b"x-process-time", b"x-proxy-by", b"via", b"connection"}


def test_request_fields_keep_order_case_duplicates_and_bytes(relay: Relay, upstream: Upstream) -> None:
    sent = [(b"X-One", b"1"), (b"x-LOWER", b"Mixed Case"), (b"X-Dup", b"a"), (b"X-Between", b""), (b"X-Dup", b"b"),
            (b"X-8bit", b"caf\xe9 \xff\x80"), (b"Cookie", b"a=1; b=2"), (b"X-Inner", b"a  b\tc"), (b"Accept", b"*/*;q=0.1")]
    with relay.client() as client:
        assert client.ask(request(b"/", *[name + b": " + value for name, value in sent])).status == 200
    seen = [pair for pair in upstream.heads[-1].fields if pair[0].lower() not in OWN_REQUEST]
    assert seen == sent


def test_response_fields_keep_order_case_duplicates_and_bytes(relay: Relay, upstream: Upstream) -> None:
    sent = [(b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"Server", b"thing/1"), (b"Set-Cookie", b"a=1"), (b"X-8bit", b"\xe9\xff"),
            (b"set-cookie", b"b=2; Path=/"), (b"ETag", b'W/"x"'), (b"X-Empty", b""), (b"X-Inner", b"a  b"), (b"Retry-After", b"7"),
            (b"x-ratelimit-remaining", b"5"), (b"Content-Type", b"text/x"), (b"Content-Length", b"5")]
    upstream.script = saying(b"HTTP/1.1 200 OK\r\n" + b"".join(n + b": " + v + b"\r\n" for n, v in sent) + b"\r\nhello")
    with relay.client() as client:
        message = client.ask(request())
    assert [pair for pair in message.fields if pair[0].lower() not in OWN_RESPONSE] == sent
    assert message.body == b"hello"


def test_nothing_is_invented_for_the_upstream(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.ask(request(b"/bare"))
        assert set(upstream.heads[-1].names) <= OWN_REQUEST
        client.ask(request(b"/bare", method=b"POST", body=b"abc"))
        assert set(upstream.heads[-1].names) <= OWN_REQUEST | {b"content-length"}
        client.ask(request(b"/bare", method=b"POST", body=b""))
        assert upstream.heads[-1].get("content-length") == b"0"


def test_the_upstream_is_asked_under_its_own_name(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.ask(request(b"/"))
    assert upstream.heads[-1].get_all("host") == [b"127.0.0.1:%d" % upstream.port]


def test_hop_by_hop_fields_stay_on_their_hop(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(
        b"x", b"Connection: X-Hop, keep-alive", b"X-Hop: 1", b"Keep-Alive: timeout=5", b"Proxy-Authenticate: Basic",
        b"Upgrade: foo", b"Trailer: X", b"X-Stays: 1",
    ))
    lines = (b"Connection: keep-alive, X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"Proxy-Connection: keep-alive", b"TE: gzip",
             b"Trailer: X", b"Upgrade: h2c", b"HTTP2-Settings: AAAA", b"Proxy-Authorization: Basic eA==", b"X-Stays: 1")
    with relay.client() as client:
        message = client.ask(request(b"/", *lines))
    gone = {b"x-hop", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"http2-settings", b"proxy-authorization",
            b"proxy-authenticate"}
    assert not gone & set(upstream.heads[-1].names)
    assert upstream.heads[-1].get("x-stays") == b"1"
    assert not gone & set(message.names)
    assert message.get("x-stays") == b"1"


@pytest.mark.parametrize("name", [
    b"X-Forwarded-For", b"Content-Length", b"Host", b"Cookie", b"X-Request-ID", b"Via", b"Authorization", b"traceparent",
])
def test_connection_cannot_make_an_end_to_end_field_vanish(name: bytes, relay: Relay, upstream: Upstream) -> None:
    lines = [b"Connection: " + name, b"Cookie: a=b", b"traceparent: 00-1-2-01", b"Authorization: Bearer mine"]
    with relay.client() as client:
        client.send(request(b"/", *lines, method=b"POST", body=b"abc"))
        assert client.answer().status == 200
    seen = upstream.heads[-1]
    assert seen.body == b"abc"
    assert seen.get(name.decode()) is not None or name == b"Authorization"


@pytest.mark.parametrize("target", [
    b"/a%2fb", b"/a%2Fb", b"/a/../b", b"/./a", b"//a//b", b"/a?", b"/a??", b"/a?b=c&b=d&&", b"/?x=%zz", b"/a%00", b"/%0d%0a",
    b"/a;b=c/d", b"/a:b@c!$'()*+,=", b"/a|b\\c^d`e{f}\"<>", b"/%e4%F6", b"/a/", b"/%41",
])
def test_the_bytes_of_the_target_are_exact(target: bytes, relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        assert client.ask(request(target)).status == 200
    assert upstream.heads[-1].target == target


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PURGE", b"M-SEARCH"])
def test_the_method_is_the_clients(method: bytes, relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        assert client.ask(request(b"/m", method=method)).status == 200
    assert upstream.heads[-1].start == method + b" /m HTTP/1.1"


def test_a_compressed_body_is_not_opened(relay: Relay, upstream: Upstream) -> None:
    packed = gzip.compress(os.urandom(5000) + b"a" * 50000)
    upstream.script = saying(answer(packed, b"Content-Encoding: gzip", b"Vary: Accept-Encoding"))
    with relay.client() as client:
        message = client.ask(request(b"/"))
        assert message.body == packed and message.get("content-encoding") == b"gzip"
        assert upstream.heads[-1].get("accept-encoding") is None
        client.ask(request(b"/", b"Content-Encoding: gzip", method=b"POST", body=packed))
        assert upstream.heads[-1].body == packed


@pytest.mark.parametrize("status", [b"200 All Good Here", b"402 Pay", b"418 I'm a teapot", b"451 No", b"529 Busy", b"599 X", b"201 \xe9"])
def test_unusual_statuses_and_reasons_pass(status: bytes, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b"x", status=status))
    with relay.client() as client:
        assert client.ask(request()).start == b"HTTP/1.1 " + status


@pytest.mark.parametrize("size", [8_000, 60_000])
def test_long_response_lines_pass(size: int, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b"x", b"X-Long: " + b"a" * size))
    with relay.client() as client:
        assert len(client.ask(request()).get("x-long") or b"") == size


def test_a_close_delimited_answer_becomes_a_framed_one(relay: Relay, upstream: Upstream) -> None:
    from tests.functional.harness.upstream import saying_then_close

    upstream.script = saying_then_close(b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n" + b"abc" * 1000)
    with relay.client() as client:
        message = client.ask(request())
        assert message.framing == b"chunked" and message.complete and message.body == b"abc" * 1000


def test_an_answer_of_an_old_upstream_passes(relay: Relay, upstream: Upstream) -> None:
    from tests.functional.harness.upstream import saying_then_close

    upstream.script = saying_then_close(answer(b"old", version=b"HTTP/1.0"))
    with relay.client() as client:
        message = client.ask(request())
        assert message.start == b"HTTP/1.1 200 OK" and message.body == b"old"


def test_a_request_gets_an_id_that_client_upstream_and_log_share(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        message = client.ask(request(b"/id"))
    mine = message.get("x-request-id") or b""
    assert re.fullmatch(rb"[A-Za-z0-9._-]{8,128}", mine)
    assert upstream.heads[-1].get_all("x-request-id") == [mine]
    assert relay.record(id=mine.decode())["path"] == "/id"


def test_an_id_from_a_stranger_is_replaced(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        message = client.ask(request(b"/", b"X-Request-ID: stranger-1"))
    assert message.get_all("x-request-id") != [b"stranger-1"]
    assert b"stranger-1" not in upstream.heads[-1].get_all("x-request-id")


def test_forwarding_fields_of_a_stranger_are_replaced_by_the_truth(relay: Relay, upstream: Upstream) -> None:
    lie = [b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil", b"X-Real-IP: 6.6.6.6", b"Forwarded: for=6.6.6.6",
           b"X_Forwarded_For: 6.6.6.6", b"X-Forwarded_For: 6.6.6.6", b"X-Forwarded-Port: 1"]
    with relay.client() as client:
        client.ask(request(b"/", *lie))
    seen = upstream.heads[-1]
    assert seen.get_all("x-forwarded-for") == [b"127.0.0.1"]
    assert seen.get_all("x-forwarded-proto") == [b"http"]
    assert seen.get_all("x-forwarded-host") == [b"relayd.test"]
    assert seen.get_all("x-real-ip") == [b"127.0.0.1"]
    assert b"6.6.6.6" not in b"|".join(value for _, value in seen.fields)
    assert b"for=127.0.0.1" in (seen.get("forwarded") or b"")


def test_via_names_the_house_and_a_loop_is_seen(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.ask(request(b"/", b"Via: 1.0 other"))
        assert b", ".join(upstream.heads[-1].get_all("via")) == b"1.0 other, 1.1 relayd"
        assert client.ask(request(b"/", b"Via: 1.1 relayd")).status == 508


def test_the_answer_says_who_relayed_it_and_how_long_its_head_took(relay: Relay, upstream: Upstream) -> None:
    begun = time.monotonic()
    with relay.client() as client:
        message = client.ask(request(b"/"))
    assert message.get("x-proxy-by") == b"relayd"
    assert 0 < float(message.get("x-process-time") or b"0") < time.monotonic() - begun


@pytest.mark.parametrize("name", [b"Content_Length", b"Transfer_Encoding", b"X_Real_IP", b"Authorization_", b"X_Request_ID"])
def test_underscore_twins_of_guarded_fields_do_not_pass(name: bytes, relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.ask(request(b"/", name + b": 7"))
    assert name == b"Authorization_" or name.lower() not in upstream.heads[-1].names
