"""The request gate: what it takes, what it makes of it, and the bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from relayd.errors import ExchangeError
from relayd.wire.http1 import ACCEPT, AGENT, TYPE, HeadLimits, RequestHead, early_refusal, parse_head
from tests.aids.growth import linear


def head(*lines: bytes, first: bytes = b"GET /p?q HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return first + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def take(*lines: bytes, first: bytes = b"GET /p?q HTTP/1.1", host: bytes = b"Host: a\r\n") -> RequestHead:
    return parse_head(head(*lines, first=first, host=host))


def refusal(message: bytes, limits: HeadLimits | None = None) -> tuple[int, str]:
    with pytest.raises(ExchangeError) as refused:
        parse_head(message, limits or HeadLimits())
    return refused.value.kind.status, refused.value.detail


def test_a_plain_request_is_taken_apart_byte_for_byte() -> None:
    request = take(b"X-Odd:  a\tb ", b"x-odd:c", b"X-Empty:", first=b"GET /a%2F..//b?x=%00&&y?z HTTP/1.1")
    assert (request.method, request.path, request.query) == (b"GET", b"/a%2F..//b", b"?x=%00&&y?z")
    assert request.version == 11
    assert request.keep == [b"X-Odd:  a\tb ", b"x-odd:c", b"X-Empty:"]
    assert request.lines == [b"Host: a", *request.keep]
    assert request.get(b"x-odd") == b"a\tb"
    assert request.get_all(b"x-odd") == [b"a\tb", b"c"]
    assert request.get(b"absent") is None
    assert request.empty
    assert not request.has_body


def test_an_empty_query_keeps_its_mark() -> None:
    assert take(first=b"GET /p? HTTP/1.1").query == b"?"
    assert take(first=b"GET /p HTTP/1.1").query == b""


@pytest.mark.parametrize(
    ("line", "length", "chunked"),
    [(b"Content-Length: 0", 0, False), (b"content-length:  0042 ", 42, False), (b"TRANSFER-ENCODING: Chunked", None, True),
     (b"Content-Length: 999999999999999999", 10**18 - 1, False)],
)  # fmt: skip
def test_framing_is_read_and_its_lines_do_not_go_on(line: bytes, length: int | None, chunked: bool) -> None:
    request = take(line, b"X: y")
    assert (request.length, request.chunked) == (length, chunked)
    assert request.has_body
    assert request.keep == [b"X: y"]


@pytest.mark.parametrize(
    ("value", "host", "authority"),
    [(b"Example.COM", b"example.com", b"Example.COM"), (b"a:8080", b"a", b"a:8080"), (b"a:", b"a", b"a:"),
     (b"[2001:DB8::1]:443", b"[2001:db8::1]", b"[2001:DB8::1]:443"), (b"192.0.2.1", b"192.0.2.1", b"192.0.2.1"),
     (b"a.test.:80", b"a.test", b"a.test.:80"), (b"a.test.", b"a.test", b"a.test."), (b"[0:0::1]", b"[::1]", b"[0:0::1]")],
)  # fmt: skip
def test_the_host_is_lower_case_without_its_port(value: bytes, host: bytes, authority: bytes) -> None:
    request = take(host=b"HOST:  " + value + b" \r\n")
    assert (request.host, request.authority) == (host, authority)
    assert request.keep == []


@pytest.mark.parametrize("value", [b"a.test..", b".a.test", b"a..test", b".", b"..", b"%61.test", b"a%2etest", b"a.test..:80"])
def test_a_host_that_readers_could_take_for_another_name_is_refused(value: bytes) -> None:
    assert refusal(head(host=b"Host: " + value + b"\r\n")) == (400, "host")
    assert refusal(head(first=b"GET http://" + value + b"/ HTTP/1.1"))[0] == 400


@pytest.mark.parametrize("method", [b"get", b"Post", b"pUT", b"connect", b"trace", b"m-search"])
def test_a_method_in_small_letters_is_refused_however_often_it_comes(method: bytes) -> None:
    for _ in range(40):  # more often than a shape is learnt after
        assert refusal(head(first=method + b" / HTTP/1.1")) == (400, "method in lower case")
    assert take(first=b"M-SEARCH / HTTP/1.1").method == b"M-SEARCH"


def test_http_1_0_may_do_without_a_host_but_not_with_two() -> None:
    assert take(first=b"GET / HTTP/1.0", host=b"").host == b""
    assert refusal(head(first=b"GET / HTTP/1.0", host=b"Host: a\r\nHost: a\r\n")) == (400, "host count")


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [(b"http://B.example:81/x?y", b"b.example", b"/x", b"?y"), (b"HTTPS://b", b"b", b"/", b""), (b"http://b?y", b"b", b"/", b"?y"),
     (b"http://[::1]/", b"[::1]", b"/", b""), (b"http://b/http://c/", b"b", b"/http://c/", b"")],
)  # fmt: skip
def test_an_absolute_target_decides_and_its_host_replaces_the_received_one(
    target: bytes, host: bytes, path: bytes, query: bytes
) -> None:
    request = take(first=b"GET " + target + b" HTTP/1.1")
    assert (request.host, request.path, request.query, request.target) == (host, path, query, path + query)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [(b"http://b.example", b"*", b""), (b"http://b.example/", b"/", b""), (b"http://b.example?y", b"/", b"?y")],
)
def test_options_of_a_host_alone_is_the_asterisk(target: bytes, path: bytes, query: bytes) -> None:
    request = take(first=b"OPTIONS " + target + b" HTTP/1.1")
    assert (request.host, request.path, request.query, request.target) == (b"b.example", path, query, path + query)


def test_hop_by_hop_fields_and_what_connection_names_do_not_go_on() -> None:
    request = take(
        b"Connection: X-One, keep-alive", b"connection: x-two", b"X-One: 1", b"X-TWO: 2", b"X-Three: 3", b"Keep-Alive: 5",
        b"TE: trailers", b"Trailer: X", b"Proxy-Connection: close", b"Proxy-Authorization: Basic x", b"HTTP2-Settings: x",
    )  # fmt: skip
    assert request.keep == [b"X-Three: 3"]
    assert request.keep_alive


@pytest.mark.parametrize(
    ("first", "connection", "expected"),
    [(b"GET / HTTP/1.1", None, True), (b"GET / HTTP/1.1", b"close", False), (b"GET / HTTP/1.1", b"keep-alive, Close", False),
     (b"GET / HTTP/1.0", None, False), (b"GET / HTTP/1.0", b"Keep-Alive", True), (b"GET / HTTP/1.1", b"closed", True)],
)  # fmt: skip
def test_the_connection_lives_on_as_its_version_says(first: bytes, connection: bytes | None, expected: bool) -> None:
    lines = [] if connection is None else [b"Connection: " + connection]
    assert take(*lines, first=first).keep_alive is expected


def test_keys_forwarding_fields_and_via_are_set_apart() -> None:
    request = take(b"X: 1", b"Authorization: Bearer k", b"X-Forwarded-For: 1.2.3.4", b"X-API-Key: k", b"Via: 1.1 a", b"via: 1.0 b")
    assert [request.keep[place] for place in request.keys] == [b"Authorization: Bearer k", b"X-API-Key: k"]
    assert list(request.forwarding) == [b"X-Forwarded-For: 1.2.3.4"]
    assert list(request.via) == [b"1.1 a", b"1.0 b"]


def test_places_of_keys_stay_right_when_connection_strips_lines_before_them() -> None:
    request = take(b"X-Gone: 1", b"X: 2", b"Api-Key: k", b"Connection: x-gone, api-key")
    assert request.keep == [b"X: 2", b"Api-Key: k"]
    assert list(request.keys) == [1]


def test_what_the_client_sent_of_the_fields_that_libcurl_invents_is_marked() -> None:
    assert take(b"User-Agent: x", b"Accept: y").sent == 1 << AGENT | 1 << ACCEPT
    assert take(b"Content-Type: x", b"Connection: user-agent", b"User-Agent: y").sent == 1 << TYPE


def test_an_expectation_is_seen_on_1_1_ignored_on_1_0_and_refused_if_it_is_another() -> None:
    assert take(b"Expect: 100-Continue", b"Content-Length: 1").expect
    assert not take(b"Expect: anything", first=b"GET / HTTP/1.0").expect
    assert refusal(head(b"Expect: 200-ok")) == (417, "expect")


def test_an_upgrade_counts_only_on_1_1_and_with_its_connection_option() -> None:
    assert take(b"Upgrade: websocket", b"Connection: keep-alive, Upgrade").upgrade == b"websocket"
    assert take(b"Upgrade: a", b"Upgrade: b", b"Connection: upgrade").upgrade == b"a, b"
    assert take(b"Upgrade: websocket").upgrade is None
    assert take(b"Upgrade: websocket", b"Connection: close").upgrade is None
    assert take(b"Upgrade: websocket", b"Connection: upgrade", first=b"GET / HTTP/1.0").upgrade is None


def test_eight_bit_values_and_a_hundred_fields_pass() -> None:
    lines = [b"X-%d: \xe4\xf6\xfc" % number for number in range(100)]
    assert take(*lines).keep == lines
    assert take(b"X: " + b"y" * 16384).keep == [b"X: " + b"y" * 16384]


SMALL = HeadLimits(request_line=100, field_line=200, header=600, fields=5)


def test_each_limit_has_its_own_answer() -> None:
    assert refusal(head(first=b"GET /" + b"x" * 100 + b" HTTP/1.1"), SMALL) == (414, "request line")
    assert refusal(head(b"X: " + b"y" * 200), SMALL) == (431, "header section")
    assert refusal(head(*[b"X: " + b"y" * 190] * 4), SMALL) == (431, "header section")
    assert refusal(head(*[b"X: y"] * 5), SMALL) == (431, "too many fields")
    assert parse_head(head(*[b"X: y"] * 4), SMALL).keep == [b"X: y"] * 4


def test_a_section_limit_below_the_line_limits_holds_too() -> None:
    limits = HeadLimits(header=300)
    assert refusal(head(b"X: " + b"y" * 300), limits) == (431, "header section")


def test_the_limits_come_before_the_grammar() -> None:
    assert refusal(b"GET /" + b"\x00" * 200 + b" HTTP/1.1\r\n\r\n", SMALL)[0] == 414
    assert refusal(head(b"\x00" * 700), SMALL)[0] == 431


@pytest.mark.parametrize(
    ("buffer", "status"),
    [
        (b"\x16\x03\x01\x02\x00", 400),
        (b"{", 400),
        (b" GET", 400),
        (b"\n", 400),
        (b"GET / HTTP/1.1\nHost: a", 400),
        (b"G" * 101, 414),
        (b"GET /" + b"x" * 101 + b"\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 700, 431),
    ],
)
def test_garbage_and_excess_are_refused_before_the_blank_line(buffer: bytes, status: int) -> None:
    error = early_refusal(buffer, SMALL)
    assert error is not None
    assert error.kind.status == status


@pytest.mark.parametrize("buffer", [b"", b"G", b"\r", b"\r\n", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_beginning_that_may_still_become_a_head_waits(buffer: bytes) -> None:
    assert early_refusal(buffer, SMALL) is None


@pytest.mark.parametrize(
    "message",
    [
        lambda size: head(*[b"A:" + b" " * 300] * (size // 300)),
        lambda size: head(*[b"A" * 300] * (size // 300)),
        lambda size: head(b"Connection: " + b"a," * (size // 2)),
        lambda size: head(b"X: " + b"\t \t" * (size // 3) + b"\x00"),
        lambda size: head(first=b"GET /" + b"a" * size + b" x"),
    ],
)
def test_a_hostile_head_costs_linear_time(message: Callable[[int], bytes]) -> None:
    def parse(size: int) -> None:
        with contextlib.suppress(ExchangeError):
            parse_head(message(size))

    assert linear(parse, 3_500)


def test_a_refusal_never_quotes_the_request() -> None:
    for message in (head(b"Content-Length: S3CRET"), head(host=b"Host: S3CRET/\r\n"), head(b"S3CRET"), head(first=b"S3CRET")):
        with pytest.raises(ExchangeError) as refused:
            parse_head(message)
        assert "S3CRET" not in str(refused.value)
