"""What relayd refuses before any byte goes upstream: families of requests that two readers could read in two ways."""

from __future__ import annotations

import re

import pytest

from tests.functional.harness.message import request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream

HOST = b"Host: relayd.test\r\n"


def head(start: bytes = b"POST /x HTTP/1.1", *lines: bytes) -> bytes:
    return start + b"\r\n" + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def chunked(body: bytes, *lines: bytes) -> bytes:
    return head(b"POST /x HTTP/1.1", b"Transfer-Encoding: chunked", *lines) + body


LINES = {
    "no_version": (b"GET /\r\n" + HOST + b"\r\n", {400, 505}),
    "only_a_word": (b"GET\r\n\r\n", {400}),
    "lower_case_version": (head(b"GET / http/1.1"), {400, 505}),
    "version_1_2": (head(b"GET / HTTP/1.2"), {400, 505}),
    "version_2_0": (head(b"GET / HTTP/2.0"), {505}),
    "version_0_9": (head(b"GET / HTTP/0.9"), {505}),
    "version_with_plus": (head(b"GET / HTTP/+1.1"), {400}),
    "version_with_leading_zero": (head(b"GET / HTTP/01.1"), {400, 505}),
    "http2_preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "two_blanks_before_target": (head(b"GET  / HTTP/1.1"), {400}),
    "two_blanks_before_version": (head(b"GET /  HTTP/1.1"), {400}),
    "tab_as_separator": (head(b"GET\t/ HTTP/1.1"), {400}),
    "blank_at_the_start": (head(b" GET / HTTP/1.1"), {400}),
    "blank_at_the_end": (head(b"GET / HTTP/1.1 "), {400}),
    "blank_in_target": (head(b"GET /a b HTTP/1.1"), {400}),
    "method_with_paren": (head(b"G(T / HTTP/1.1"), {400}),
    "method_with_control": (head(b"G\x01T / HTTP/1.1"), {400}),
    "two_empty_lines_first": (b"\r\n\r\n" + head(b"GET / HTTP/1.1"), {400}),
    "bare_lf_after_line": (b"GET / HTTP/1.1\n" + HOST + b"\r\n", {400}),
    "bare_lf_everywhere": (b"GET / HTTP/1.1\nHost: relayd.test\n\n", {400}),
    "bare_cr_in_line": (b"GET / HTTP/1.1\rHost: relayd.test\r\n\r\n", {400}),
    "tls_on_a_plain_port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", {400}),
    "binary": (bytes(range(128, 256)) + b"\r\n\r\n", {400}),
}

FIELDS = {
    "blank_before_colon": (head(b"GET / HTTP/1.1", b"X-A : 1"), {400}),
    "blank_before_colon_of_length": (head(b"POST / HTTP/1.1", b"Content-Length : 3") + b"abc", {400}),
    "blank_before_colon_of_coding": (head(b"POST / HTTP/1.1", b"Transfer-Encoding : chunked") + b"0\r\n\r\n", {400}),
    "tab_before_colon": (head(b"GET / HTTP/1.1", b"X-A\t: 1"), {400}),
    "empty_name": (head(b"GET / HTTP/1.1", b": 1"), {400}),
    "no_colon": (head(b"GET / HTTP/1.1", b"X-A"), {400}),
    "folded": (head(b"GET / HTTP/1.1", b"X-A: 1", b" 2"), {400}),
    "folded_with_tab": (head(b"GET / HTTP/1.1", b"X-A: 1", b"\t2"), {400}),
    "first_line_begins_with_blank": (b"GET / HTTP/1.1\r\n X-A: 1\r\n" + HOST + b"\r\n", {400}),
    "bare_cr_in_value": (head(b"GET / HTTP/1.1", b"X-A: 1\rX-B: 2"), {400}),
    "bare_lf_in_value": (head(b"GET / HTTP/1.1", b"X-A: 1\nX-B: 2"), {400}),
    "nul_in_value": (head(b"GET / HTTP/1.1", b"X-A: 1\x00"), {400}),
    "escape_in_value": (head(b"GET / HTTP/1.1", b"X-A: \x1b[2J"), {400}),
    "del_in_value": (head(b"GET / HTTP/1.1", b"X-A: \x7f"), {400}),
    "paren_in_name": (head(b"GET / HTTP/1.1", b"X(A: 1"), {400}),
    "control_in_name": (head(b"GET / HTTP/1.1", b"X\x01A: 1"), {400}),
    "8bit_in_name": (head(b"GET / HTTP/1.1", b"X\xe9A: 1"), {400}),
}

LENGTHS = {
    f"length_{number}": (head(b"POST / HTTP/1.1", b"Content-Length:" + value) + b"abc", {400})
    for number, value in enumerate((
        b" +3", b" -3", b" 3_0", b" 0x3", b" 3 3", b" 3,3", b" 3, 3", b" 3;", b"", b" ", b" \xa03", b" \x0b3", b" 3abc", b" 3.0",
        b" 99999999999999999999", b" 9223372036854775808", b" 3\x0c", b" 0b11", b" \xb2",
    ))
} | {
    "length_twice_equal": (head(b"POST / HTTP/1.1", b"Content-Length: 3", b"Content-Length: 3") + b"abc", {400}),
    "length_twice_unequal": (head(b"POST / HTTP/1.1", b"Content-Length: 3", b"Content-Length: 4") + b"abcd", {400}),
}

CODINGS = {
    f"coding_{number}": (head(b"POST / HTTP/1.1", b"Transfer-Encoding:" + value) + b"3\r\nabc\r\n0\r\n\r\n", {400, 501})
    for number, value in enumerate((
        b" gzip", b" gzip, chunked", b" chunked, gzip", b" chunked, chunked", b" identity", b" chunked,", b" ,chunked", b"",
        b' "chunked"', b" chunked;q=1", b" xchunked", b" chunked x", b" chun\x0bked", b" \x0bchunked", b" chunked\xa0", b" chunk",
    ))
} | {
    "coding_and_length": (head(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 3") + b"0\r\n\r\n", {400}),
    "length_and_coding": (head(b"POST / HTTP/1.1", b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", {400}),
    "coding_twice": (head(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", {400, 501}),
    "coding_on_1_0": (head(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", {400}),
}

CHUNKS = {
    f"chunk_{number}": (chunked(body), {400})
    for number, body in enumerate((
        b"\r\n", b"g\r\nabc\r\n0\r\n\r\n", b"+3\r\nabc\r\n0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n", b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3_0\r\nabc\r\n0\r\n\r\n", b" 3\r\nabc\r\n0\r\n\r\n", b"3 \r\nabc\r\n0\r\n\r\n", b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabcX\r\n0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n", b"3\r\nabc\r0\r\n\r\n", b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n", b"1000000000000000\r\nabc", b"ffffffffffffffff\r\nabc", b"3\r\nabc\r\n0\r\nX : y\r\n\r\n",
        b"3\r\nabc\r\n0\r\nX\r\n\r\n", b"3\r\nabc\r\n0\r\n X: y\r\n\r\n", b"3\r\nabc\r\n0\r\nX: \x00\r\n\r\n", b"3\r\nabc\r\n0\n\n",
        b"3;" + b"x" * 5000 + b"\r\nabc\r\n0\r\n\r\n",
    ))
}

HOSTS = {
    "no_host": (b"GET / HTTP/1.1\r\n\r\n", {400}),
    "two_hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", {400}),
    "two_hosts_on_1_0": (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", {400}),
} | {
    f"host_{number}": (b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n", {400})
    for number, value in enumerate((
        b"user@a", b"a/b", b"a,b", b"a b", b"a\tb", b"a:b", b"a:99999", b"a?b", b"a#b", b"[::1", b"a]", b"[zz]", b"a:1:2", b"a\\b",
    ))
}

TARGETS = {
    "relative": (head(b"GET x HTTP/1.1"), {400}),
    "fragment": (head(b"GET /a#b HTTP/1.1"), {400}),
    "8bit": (head(b"GET /\xe9 HTTP/1.1"), {400}),
    "control": (head(b"GET /\x01 HTTP/1.1"), {400}),
    "star_with_get": (head(b"GET * HTTP/1.1"), {400}),
    "absolute_userinfo": (head(b"GET http://user@relayd.test/ HTTP/1.1"), {400}),
    "absolute_ftp": (head(b"GET ftp://relayd.test/ HTTP/1.1"), {400}),
    "absolute_without_host": (head(b"GET http:///x HTTP/1.1"), {400}),
    "connect": (head(b"CONNECT relayd.test:443 HTTP/1.1"), {400, 405, 501}),
    "trace": (head(b"TRACE / HTTP/1.1"), {405}),
    "expectation": (head(b"POST / HTTP/1.1", b"Expect: 200-ok", b"Content-Length: 3") + b"abc", {417}),
}

EVERY = {**LINES, **FIELDS, **LENGTHS, **CODINGS, **CHUNKS, **HOSTS, **TARGETS}
STAYS_OPEN = {"trace"}  # its framing is not in doubt


@pytest.mark.parametrize("name", EVERY)
def test_an_ambiguous_request_is_refused_and_nothing_of_it_becomes_a_second_request(
    name: str, relay: Relay, upstream: Upstream
) -> None:
    data, expected = EVERY[name]
    with relay.client() as client:
        client.send(data + request(b"/smuggled"))
        client.finish()
        said = client.read_all()
    assert said.startswith(b"HTTP/1.1 "), said
    assert int(said[9:12]) in expected, said
    assert name in STAYS_OPEN or len(re.findall(rb"HTTP/1\.1 \d\d\d ", said)) == 1, said
    assert name in STAYS_OPEN or b"\r\nConnection: close\r\n" in said, said
    if name not in STAYS_OPEN:
        assert not [head for head in upstream.heads if head.target == b"/smuggled"]
    if name not in CHUNKS:  # of those the head may have gone on before the bad chunk came
        assert name in STAYS_OPEN or upstream.nothing_came(), upstream.heads


@pytest.mark.parametrize("name", CHUNKS)
def test_a_body_with_a_bad_chunk_never_looks_complete_to_the_upstream(name: str, relay: Relay, upstream: Upstream) -> None:
    bodies = []

    def script(peer, message):  # type: ignore[no-untyped-def]
        bodies.append(peer.whole(message))

    upstream.script = script
    with relay.client() as client:
        client.send(CHUNKS[name][0])
        client.finish()
        client.read_all()
    assert not [message for message in bodies if message.complete]


@pytest.mark.parametrize("name", ["bare_lf_in_value", "length_0", "coding_and_length", "two_hosts", "version_2_0"])
def test_a_refusal_names_its_rule_in_the_log_and_echoes_nothing(name: str, relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.send(EVERY[name][0].replace(b"/x ", b"/zzqx "))
        message = client.answer()
    assert b"zzqx" not in message.body
    assert message.get("content-length") is not None


SIZES = {
    "long_target": (b"GET /" + b"a" * 17000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "endless_target": (b"GET /" + b"a" * 70000, 414),
    "endless_method": (b"A" * 70000, 414),
    "long_field": (head(b"GET / HTTP/1.1", b"X-A: " + b"a" * 33000), 431),
    "endless_field": (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 70000, 431),
    "many_fields": (head(b"GET / HTTP/1.1", *[b"X-%d: 1" % number for number in range(250)]), 431),
    "big_section": (head(b"GET / HTTP/1.1", *[b"X-%d: %s" % (number, b"a" * 1000) for number in range(80)]), 431),
}


@pytest.mark.parametrize("name", SIZES)
def test_what_is_too_large_is_refused_with_its_own_status(name: str, relay: Relay, upstream: Upstream) -> None:
    data, expected = SIZES[name]
    with relay.client() as client:
        client.send(data)
        assert client.answer().status == expected
        assert client.ended()
    assert upstream.nothing_came()


ACCEPTED = {
    "one_empty_line_first": b"\r\n" + request(b"/ok"),
    "hundred_fields": request(b"/ok", *[b"X-%d: 1" % number for number in range(100)]),
    "16_kib_field": request(b"/ok", b"X-A: " + b"a" * 16384),
    "8_kb_target": request(b"/" + b"a" * 8000),
    "8bit_value": request(b"/ok", b"X-A: \xe4\xff"),
    "tab_in_value": request(b"/ok", b"X-A: a\tb"),
    "empty_value": request(b"/ok", b"X-A:"),
    "no_blank_after_colon": request(b"/ok", b"X-A:b"),
    "ipv6_host": request(b"/ok", host=b"[::1]:8282"),
    "host_with_port": request(b"/ok", host=b"relayd.test:80"),
    "percent_sequences": request(b"/%00%0d%0a%zz"),
    "unknown_method": request(b"/ok", method=b"PURGE"),
    "1_0_without_host": request(b"/ok", host=b"", version=b"HTTP/1.0"),
    "upper_case_coding": b"POST /ok HTTP/1.1\r\n" + HOST + b"transfer-encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "upper_case_chunk_size": chunked(b"A\r\n0123456789\r\n0\r\n\r\n"),
    "chunk_size_with_zeros": chunked(b"0003\r\nabc\r\n000\r\n\r\n"),
    "get_with_body": request(b"/ok", method=b"GET", body=b"abc"),
    "delete_with_body": request(b"/ok", method=b"DELETE", body=b"abc"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_legal_passes(name: str, relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.send(ACCEPTED[name])
        message = client.answer()
    assert message.status == 200, message.start
    assert message.body == b"hello"


def test_garbage_leaves_the_listener_well(relay: Relay, upstream: Upstream) -> None:
    for data in (b"\x00" * 2000, b"\xff" * 5, b"GET", b"\r\n", b"\x16\x03\x01", b""):
        with relay.client() as client:
            client.send(data)
            client.finish()
            client.read_all()
    with relay.client() as client:
        assert client.ask(request()).status == 200
