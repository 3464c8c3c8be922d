"""Request heads against h11 and llhttp.

Laws that are searched for a counterexample:
1. What relayd takes, h11 and llhttp take too, and all read the same method, target, fields, framing and body.
2. Permitted exceptions, each narrow:
   a. llhttp knows a list of methods; a method that is a token outside that list is read again as POST.
   b. llhttp and h11 leave an absolute-form target as it stands; relayd's origin form must be its tail.
3. Nothing that is refused early, from a beginning, would have been taken whole; so the cut does not matter.
4. A refusal is always an ExchangeError of the catalogue with a status of the gate; nothing else ever escapes.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.errors import ExchangeError
from relayd.wire.chunked import ChunkedDecoder, ChunkedError
from relayd.wire.headers import name_of
from relayd.wire.http1 import DEFAULT_LIMITS, RequestHead, early_refusal, parse_head
from tests.fuzz.oracles import FUZZ_SECONDS, MORSELS, read_h11, read_llhttp, read_slowly, until_time_is_up

GATE = {400, 405, 414, 417, 431, 501, 505}
CORPUS = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a/b?c=d&e=%20f HTTP/1.1\r\nHost: example.com:8080\r\nUser-Agent: x/1 (y; z)\r\nAccept: */*\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"PUT / HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
    b"GET http://b.example/p?q HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nConnection: x-one, close\r\nX-One: 1\r\nX_Two: \xe4\xf6\r\nX-E:\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\nauthorization: Bearer k\r\n\r\nok",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
)


def body_of(head: RequestHead, rest: bytes) -> tuple[bytes, int] | None:
    """The body as relayd would read it and the bytes it takes; None if it is cut or refused.

    Trailers are the business of test_chunked.py: a body that has any is left out here.
    """
    if head.chunked:
        decoder = ChunkedDecoder()
        try:
            body = decoder.feed(rest)
        except ChunkedError:
            return None
        if not decoder.done or read_slowly(rest).trailers:
            return None
        return body, len(rest) - len(decoder.rest)
    length = head.length or 0
    return (rest[:length], length) if len(rest) >= length else None


def read_relayd(message: bytes) -> tuple[RequestHead, bytes] | None:
    """What the gate makes of a message, and the bytes behind the head; None if it is refused or incomplete."""
    end = message.find(b"\r\n\r\n")
    if end < 0:
        error = early_refusal(message, DEFAULT_LIMITS)
        assert error is None or error.kind.status in GATE
        return None
    try:
        return parse_head(message[: end + 4]), message[end + 4 :]
    except ExchangeError as error:
        assert error.kind.status in GATE, message
        assert error.detail, message
        return None


def check(message: bytes) -> bool:
    """Hold one message against the laws; True if relayd took its head."""
    taken = read_relayd(message)
    if taken is None:
        return False
    head, rest = taken
    cut = len(message) - len(rest)
    for place in range(1, cut):
        assert early_refusal(message[:place], DEFAULT_LIMITS) is None, message[:place]
    carried = body_of(head, rest)
    body, whole = (None, message[:cut]) if carried is None else (carried[0], message[: cut + carried[1]])
    names = [name_of(line) for line in head.lines]
    values = [line.partition(b":")[2].strip(b" \t").lower() for line in head.lines]
    for read in (read_h11, read_llhttp):
        reading = read(whole)
        if read is read_llhttp and "method" in reading.refused.lower():
            reading = read(b"POST" + whole[whole.index(b" ") :])
        elif not reading.refused:
            assert reading.method == head.method, message
        assert not reading.refused, (reading.refused, message)
        same_path = reading.target.endswith(head.target) or head.target in (b"/", b"/" + head.query)
        of_a_host_alone = head.method == b"OPTIONS" and head.target == b"*" and reading.target.count(b"/") == 2
        assert same_path or of_a_host_alone, message  # the latter by RFC 9112 3.2.4
        assert reading.target == head.target or reading.target.lower().startswith((b"http://", b"https://")), message
        assert list(reading.names) == names, message
        assert [value.strip(b" \t").lower() for value in reading.values] == values, message
        if body is not None and head.upgrade is None:
            assert reading.complete, (read, message)
            assert reading.body == body, (read, message)
    return True


@pytest.mark.parametrize("message", CORPUS[:10])
def test_the_valid_seeds_are_taken_by_everybody(message: bytes) -> None:
    assert check(message)


@pytest.mark.fuzz
def test_no_mutant_is_taken_that_the_stricter_reader_refuses() -> None:
    taken = tried = 0
    for _, message in until_time_is_up(20261122, CORPUS):
        tried += 1
        taken += check(message)
    assert FUZZ_SECONDS < 5 or (taken > 500 and tried > taken * 2), "the mutants are too tame or too wild"


@pytest.mark.fuzz
@settings(max_examples=int(200 * FUZZ_SECONDS), deadline=None)
@given(
    st.sampled_from((b"GET", b"POST", b"M-SEARCH", b"", b"get")),
    st.one_of(st.sampled_from((b"/", b"*", b"http://b/c", b"//", b"/%00")), st.binary(max_size=6)),
    st.lists(st.one_of(st.sampled_from((*CORPUS[2].split(b"\r\n")[1:4], *MORSELS, b"Host: a\r\n")), st.binary(max_size=4)),
             max_size=8),
)  # fmt: skip
def test_no_heap_of_morsels_is_taken_that_the_stricter_reader_refuses(
    method: bytes, target: bytes, morsels: list[bytes]
) -> None:
    check(b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % (method, target, b"".join(morsels)))
    check(b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method, target, b"\r\n".join(morsels)))


@pytest.mark.fuzz
def test_any_bytes_at_all_are_answered_or_awaited() -> None:
    rng = random.Random(7)
    for _ in range(20_000):
        message = rng.randbytes(rng.randrange(1, 60))
        read_relayd(message)
        read_relayd(message + b"\r\n\r\n")
