"""The known families of ambiguous requests, each by name, with the answer that the gate owes it.

Every case is one that some server or proxy took: lengths that other integer parsers read, white space around codings,
names that hide a framing field, line ends that end a line for one reader only, hosts and targets that route one way and
authorise another. The second number of a body case says which rule of the chunk decoder refuses it.
"""

from __future__ import annotations

import pytest

from relayd.errors import ExchangeError
from relayd.wire.chunked import ChunkedDecoder, ChunkedError
from relayd.wire.http1 import DEFAULT_LIMITS, early_refusal, parse_head
from relayd.wire.response import BadResponse, parse_response


def request(*lines: bytes, first: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return first + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def status_of(head: bytes) -> int:
    """200 if the gate takes the head, else the status it answers; early, where the head never ends."""
    try:
        if not head.endswith(b"\r\n\r\n"):
            error = early_refusal(head, DEFAULT_LIMITS)
            assert error is not None, "still waiting"
            raise error
        parse_head(head)
    except ExchangeError as error:
        assert error.kind.close or error.kind.status == 405
        return error.kind.status
    return 200


TE = b"Transfer-Encoding: chunked"
LENGTHS = {
    "plus": b"+5", "minus": b"-5", "minus zero": b"-0", "underscore": b"1_0", "hexadecimal": b"0x5", "octal prefix": b"0o5",
    "blank inside": b"1 0", "tab inside": b"1\t0", "junk behind": b"5a", "junk before": b"a5", "empty": b"", "blank": b" ",
    "list of equals": b"5, 5", "list of different": b"5, 6", "list with an empty element": b"5,", "quoted": b'"5"',
    "decimal point": b"5.0", "exponent": b"5e0", "over 63 bits": b"9223372036854775808", "wraps to small": b"18446744073709551621",
    "nbsp": b"\xa05", "latin-1 digit": b"5\xb2", "arabic digits": "\u0665".encode(), "parameter": b"5;x=y",
}  # fmt: skip
LENGTHS_WITH_CONTROLS = {"vertical tab": b"\x0b5", "form feed": b"5\x0c", "nul": b"5\x00", "unit separator": b"\x1f5",
                         "tab before": b"\t5", "tab behind": b"5\t"}  # fmt: skip


@pytest.mark.parametrize("value", [*LENGTHS.values(), *LENGTHS_WITH_CONTROLS.values()],
                         ids=[*LENGTHS, *LENGTHS_WITH_CONTROLS])  # fmt: skip
def test_a_length_is_digits_and_nothing_else(value: bytes) -> None:
    assert status_of(request(b"Content-Length: " + value)) == 400


CODINGS = {
    "identity": (b"identity", 400), "list ends in chunked": (b"gzip, chunked", 400), "list begins with chunked": (b"chunked, gzip", 400),
    "chunked twice": (b"chunked, chunked", 400), "empty element before": (b", chunked", 400), "empty element behind": (b"chunked,", 400),
    "parameter": (b"chunked;q=1", 400), "quoted": (b'"chunked"', 400), "single quotes": (b"'chunked'", 400), "empty": (b"", 400),
    "prefix": (b"xchunked", 400), "suffix": (b"chunkedx", 400), "blank inside": (b"chun ked", 400), "nbsp": (b"\xa0chunked", 400),
    "next line": (b"chunked\x85", 400), "vertical tab": (b"\x0bchunked", 400), "form feed": (b"chunked\x0c", 400),
    "nul": (b"chunked\x00", 400), "comment": (b"chunked (x)", 400), "cow": (b"cow", 400), "long s": ("chun\u212aed".encode(), 400),
    "tab before": (b"\tchunked", 400), "tab behind": (b"chunked\t", 400), "gzip": (b"gzip", 501), "deflate": (b"Deflate", 501), "compress": (b"compress", 501),
}  # fmt: skip


@pytest.mark.parametrize(("value", "status"), CODINGS.values(), ids=CODINGS)
def test_a_coding_is_chunked_and_nothing_else(value: bytes, status: int) -> None:
    assert status_of(request(b"Transfer-Encoding: " + value)) == status


FRAMING = {
    "length and coding": request(b"Content-Length: 5", TE),
    "coding and length": request(TE, b"Content-Length: 5"),
    "zero length and coding": request(b"Content-Length: 0", TE),
    "two equal lengths": request(b"Content-Length: 5", b"Content-Length: 5"),
    "two different lengths": request(b"Content-Length: 5", b"content-length: 6"),
    "two codings": request(TE, b"transfer-encoding: chunked"),
    "coding and identity": request(TE, b"Transfer-Encoding: identity"),
    "coding in HTTP/1.0": request(TE, first=b"POST / HTTP/1.0"),
    "coding and length in HTTP/1.0": request(TE, b"Content-Length: 5", first=b"POST / HTTP/1.0"),
    "space before the colon": request(b"Transfer-Encoding : chunked"),
    "tab before the colon": request(b"Content-Length\t: 5"),
    "folded coding": request(b"Transfer-Encoding:", b" chunked"),
    "folded with a tab": request(b"X: y", b"\tTransfer-Encoding: chunked"),
    "first line begins with a blank": request(b"X: y", host=b" Host: a\r\n"),
    "no name": request(b": chunked"),
    "no colon": request(b"Transfer-Encoding chunked"),
    "nul in a name": request(b"Transfer-Encoding\x00: chunked"),
    "8-bit in a name": request(b"Transfer-Encoding\xa0: chunked"),
    "parenthesis in a name": request(b"Transfer(x): chunked"),
    "bare CR hides a field": request(b"X: y\rTransfer-Encoding: chunked"),
    "bare LF hides a field": request(b"X: y\nTransfer-Encoding: chunked"),
    "CR CR LF": request(b"X: y\r"),
    "bare LF ends the head": b"POST / HTTP/1.1\r\nHost: a\n\nX: y\r\n\r\n",
    "LF CR LF ends the head": b"POST / HTTP/1.1\r\nHost: a\n\r\n\r\n",
    "bare LF behind the request line": b"POST / HTTP/1.1\nHost: a\r\n\r\n",
    "nul in a value": request(b"X: a\x00b"),
    "delete in a value": request(b"X: a\x7fb"),
    "escape in a value": request(b"X: a\x1b[0m"),
}


@pytest.mark.parametrize("head", FRAMING.values(), ids=FRAMING)
def test_framing_that_two_readers_see_differently_is_refused(head: bytes) -> None:
    assert status_of(head) == 400


LINES = {
    "HTTP/0.9": (b"GET /", 400), "HTTP/0.9 named": (b"GET / HTTP/0.9", 505), "HTTP/2.0": (b"GET / HTTP/2.0", 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0", 505), "HTTP/1.2": (b"GET / HTTP/1.2", 400), "HTTP/1.10": (b"GET / HTTP/1.10", 400),
    "HTTP/01.1": (b"GET / HTTP/01.1", 400), "HTTP/+1.1": (b"GET / HTTP/+1.1", 400), "HTTP/11": (b"GET / HTTP/11", 400),
    "lower case": (b"GET / http/1.1", 400), "blank behind": (b"GET / HTTP/1.1 ", 400), "two blanks": (b"GET  / HTTP/1.1", 400),
    "tab": (b"GET\t/ HTTP/1.1", 400), "blank in the target": (b"GET /a b HTTP/1.1", 400), "blank before": (b" GET / HTTP/1.1", 400),
    "vertical tab": (b"GET /\x0bHTTP/1.1", 400), "no target": (b"GET HTTP/1.1", 400), "odd method": (b"G(T / HTTP/1.1", 400),
    "fragment": (b"GET /a#b HTTP/1.1", 400), "8-bit": (b"GET /\xff HTTP/1.1", 400), "nul": (b"GET /\x00 HTTP/1.1", 400),
    "delete": (b"GET /\x7f HTTP/1.1", 400), "relative": (b"GET a HTTP/1.1", 400), "asterisk for GET": (b"GET * HTTP/1.1", 400),
    "query only": (b"GET ?a HTTP/1.1", 400), "userinfo": (b"GET http://u@a/ HTTP/1.1", 400), "other scheme": (b"GET ftp://a/ HTTP/1.1", 400),
    "no host in the target": (b"GET http:///x HTTP/1.1", 400), "odd port in the target": (b"GET http://a:x/ HTTP/1.1", 400),
    "authority form": (b"GET a:80 HTTP/1.1", 400), "CONNECT": (b"CONNECT a:443 HTTP/1.1", 405),
    "CONNECT to a path": (b"CONNECT / HTTP/1.1", 405), "TRACE": (b"TRACE / HTTP/1.1", 405), "RTSP": (b"GET / RTSP/1.0", 400),
    "escapes are left alone": (b"GET /%00%0d%0a%zz HTTP/1.1", 200), "two slashes": (b"GET //a/b HTTP/1.1", 200),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1", 200), "absolute form": (b"GET HTTPS://b/ HTTP/1.1", 200),
}  # fmt: skip


@pytest.mark.parametrize(("first", "status"), LINES.values(), ids=LINES)
def test_a_request_line_has_one_form(first: bytes, status: int) -> None:
    assert status_of(request(first=first)) == status


HOSTS = {
    "none": b"", "two equal": b"Host: a\r\nHost: a\r\n", "two different": b"Host: a\r\nhost: b\r\n", "empty": b"Host:\r\n",
    "userinfo": b"Host: u@a\r\n", "path": b"Host: a/b\r\n", "comma": b"Host: a, b\r\n", "blank": b"Host: a b\r\n",
    "query": b"Host: a?b\r\n", "fragment": b"Host: a#b\r\n", "backslash": b"Host: a\\b\r\n", "port no number": b"Host: a:b\r\n",
    "port too large": b"Host: a:65536\r\n", "two ports": b"Host: a:1:2\r\n", "bare IPv6": b"Host: ::1\r\n",
    "open bracket": b"Host: [::1\r\n", "junk behind bracket": b"Host: [::1]a\r\n", "8-bit": b"Host: a\xe4\r\n", "nul": b"Host: a\x00\r\n",
    "scheme": b"Host: http://a\r\n", "only a port": b"Host: :80\r\n", "quoted": b'Host: "a"\r\n', "no address": b"Host: [.:.]\r\n",
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_a_host_is_one_name_with_an_optional_port(host: bytes) -> None:
    assert status_of(request(host=host)) == 400


@pytest.mark.parametrize(
    "name",
    [b"Content_Length", b"Transfer_Encoding", b"X_Forwarded_For", b"X-Forwarded_For", b"x_api_key", b"X_Real_IP",
     b"Proxy_Authorization", b"Keep_Alive"],
)  # fmt: skip
def test_a_name_that_a_cgi_reader_folds_into_a_deciding_one_does_not_go_on(name: bytes) -> None:
    assert parse_head(request(name + b": 1", b"X_Other: 1")).keep == [b"X_Other: 1"]


@pytest.mark.parametrize(
    "name", [b"Content-Type", b"Authorization", b"Cookie", b"X-API-Key", b"traceparent", b"Content-Encoding"]
)
def test_connection_cannot_strip_what_others_decide_by(name: bytes) -> None:
    head = parse_head(request(b"Connection: close, " + name + b", X-Own", name + b": 1", b"X-Own: 1"))
    assert head.keep == [name + b": 1"]


CHUNKS = {
    "plus": (b"+5\r\nhello", "chunk_size"), "hexadecimal prefix": (b"0x5\r\nhello", "chunk_size"),
    "underscore": (b"1_0\r\n", "chunk_size"), "blank before": (b" 5\r\nhello", "chunk_size"), "blank behind": (b"5 \r\nhello", "chunk_size"),
    "tab behind": (b"5\t\r\nhello", "chunk_size"), "vertical tab": (b"5\x0b\r\n", "chunk_size"), "nbsp": (b"5\xa0\r\n", "chunk_size"),
    "empty": (b"\r\nhello", "chunk_size"), "longest prefix": (b"5xyz\r\nhello", "chunk_size"), "minus": (b"-5\r\n", "chunk_size"),
    "wraps": (b"10000000000000005\r\nhello", "chunk_size"), "bare LF": (b"5\nhello", "chunk_size"), "bare CR": (b"5\rhello", "chunk_size"),
    "LF in an extension": (b"5;a\nhello\r\n0\r\n\r\n", "chunk_extension"), "CR in an extension": (b"5;a\rb\r\n", "chunk_extension"),
    "nul in an extension": (b"5;a\x00\r\nhello", "chunk_extension"), "quoted line end": (b'5;a="\r\n"\r\nhello', "chunk_extension"),
    "data too long": (b"5\r\nhelloX\r\n0\r\n\r\n", "chunk_end"), "data without its end": (b"5\r\nhello0\r\n\r\n", "chunk_end"),
    "LF behind the data": (b"5\r\nhello\n0\r\n\r\n", "chunk_end"), "two bytes behind the data": (b"5\r\nhelloXX0\r\n\r\n", "chunk_end"),
    "LF ends the trailers": (b"0\r\n\n", "trailer"), "trailer with a blank name": (b"0\r\nX : y\r\n\r\n", "trailer"),
    "folded trailer": (b"0\r\nX: y\r\n z\r\n\r\n", "trailer"), "request line as a trailer": (b"0\r\nGET / HTTP/1.1\r\n\r\n", "trailer"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "rule"), CHUNKS.values(), ids=CHUNKS)
def test_a_chunk_has_one_length(body: bytes, rule: str) -> None:
    with pytest.raises(ChunkedError) as refused:
        ChunkedDecoder().feed(body)
    assert refused.value.rule == rule


RESPONSES = {
    "different lengths": [b"Content-Length: 5", b"Content-Length: 6"], "signed length": [b"Content-Length: +5"],
    "junk length": [b"Content-Length: 5a"], "empty length": [b"Content-Length:"], "gzip coding": [b"Transfer-Encoding: gzip"],
    "two codings": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], "nul": [b"X: \x00"], "bare CR": [b"X: a\rb"],
    "no colon": [b"X"], "odd name": [b"X(: y"],
}  # fmt: skip


@pytest.mark.parametrize("lines", RESPONSES.values(), ids=RESPONSES)
def test_a_response_that_two_readers_see_differently_is_refused(lines: list[bytes]) -> None:
    with pytest.raises(BadResponse):
        parse_response(b"".join([b"HTTP/1.1 200 OK\r\n", *(line + b"\r\n" for line in lines), b"\r\n"]))


@pytest.mark.parametrize("first", [b"HTTP/1.1 099 X", b"HTTP/1.1 600 X", b"HTTP/1.1 2000 X", b"HTTP/1.1 +20 X", b"200 OK", b""])
def test_a_response_without_a_proper_status_line_is_refused(first: bytes) -> None:
    with pytest.raises(BadResponse):
        parse_response(first + b"\r\n\r\n")


def test_a_response_coding_beats_its_length() -> None:
    head = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert head.length is None
    assert head.keep == []
