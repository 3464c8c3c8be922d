"""Chunked bodies against h11, llhttp and a slow decoder.

Laws that are searched for a counterexample:
1. relayd and the slow decoder agree in both directions: verdict, payload, trailers, bytes consumed.
2. What relayd takes, h11 and llhttp take too, with the same payload. One exception is permitted: a trailer field that
   relayd drops (framing, routing, rights) may be refused by an oracle; without these lines it must be taken.
3. No cut of the input changes anything.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.chunked import ChunkedDecoder, ChunkedError, is_forbidden_trailer
from tests.fuzz.oracles import FUZZ_SECONDS, MORSELS, cuts, read_h11, read_llhttp, read_slowly, until_time_is_up

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CORPUS = (
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    b"A\r\n0123456789\r\n00\r\n\r\n",
    b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
    b'5;a="b;\\"c";d\r\nhello\r\n0\r\n\r\n',
    b"1\r\na\r\n0\r\nX-Sum: 12\r\nX-Two:\r\n\r\n",
    b"1\r\na\r\n0\r\nContent-Length: 3\r\nX: y\r\n\r\n",
    b"000000000000005\r\n\r\n0\r\n\r\n0\r\n\r\n",
    b"1\r\na\r\n" * 20 + b"0\r\n\r\n",
    b"1f\r\n" + b"x" * 31 + b"\r\n0\r\n\r\n",
)


def decode(pieces: list[bytes], max_pieces: int = 4096) -> tuple[str, bytes, int, tuple[bytes, ...]]:
    """Verdict, payload, bytes consumed, trailers; a refused body has no payload that counts."""
    decoder = ChunkedDecoder(trailer_bytes=1 << 30, trailer_fields=1 << 30, extension_line=1 << 30, extension_total=1 << 30)
    out = b""
    try:
        for piece in pieces:
            out += decoder.feed(piece, max_pieces)
            while decoder.pending:
                out += decoder.feed(b"", max_pieces)
    except ChunkedError as error:
        return f"refused {error.rule}", b"", 0, ()
    if not decoder.done:
        return "more", out, 0, ()
    return "done", out, sum(map(len, pieces)) - len(decoder.rest), tuple(decoder.trailers)


def check(rng: random.Random, data: bytes) -> bool:
    """Hold one input against the laws; True if relayd took it."""
    whole = decode([data])
    for _ in range(2):
        assert decode(cuts(rng, data), rng.choice((1, 2, 4096))) == whole, data
    verdict, body, consumed, trailers = whole
    slow = read_slowly(data)
    if verdict == "more" and slow.verdict == "refused":  # a begun line is judged when it ends
        verdict = decode([data + b"\r\n"])[0]
    assert verdict.split()[0] == slow.verdict, data
    if slow.verdict == "refused":
        return False
    assert body == slow.body, data
    if slow.verdict == "more":
        return False
    assert consumed == slow.consumed, data
    kept = tuple(line for line in slow.trailers if not is_forbidden_trailer(line.partition(b":")[0]))
    assert trailers == kept, data
    message = data[:consumed]
    if kept != slow.trailers:
        section = b"".join(line + b"\r\n" for line in slow.trailers) + b"\r\n"
        message = message.removesuffix(section) + b"".join(line + b"\r\n" for line in kept) + b"\r\n"
    for read in (read_h11, read_llhttp):
        reading = read(HEAD + message)
        assert not reading.refused, (reading.refused, data)
        assert reading.complete, (read, data)
        assert reading.body == body, (read, data)
    return True


@pytest.mark.parametrize("data", CORPUS)
def test_the_seeds_are_taken_by_everybody(data: bytes) -> None:
    assert check(random.Random(1), data)


@pytest.mark.parametrize("data", CORPUS)
def test_every_single_cut_of_a_seed_is_the_same_body(data: bytes) -> None:
    for tail in (b"", b"GET / HTTP/1.1\r\n"):
        whole = decode([data + tail])
        for place in range(len(data + tail) + 1):
            assert decode([(data + tail)[:place], (data + tail)[place:]]) == whole


@pytest.mark.fuzz
def test_no_mutant_is_taken_that_the_stricter_reader_refuses() -> None:
    taken = tried = 0
    for rng, data in until_time_is_up(20261121, CORPUS):
        tried += 1
        taken += check(rng, data)
    assert FUZZ_SECONDS < 5 or (taken > 500 and tried > taken * 2), "the mutants are too tame or too wild"


@pytest.mark.fuzz
@settings(max_examples=int(200 * FUZZ_SECONDS), deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from((*CORPUS, *MORSELS)), st.binary(max_size=3)), max_size=12).map(b"".join),
    st.randoms(use_true_random=False),
)
def test_no_heap_of_morsels_is_taken_that_the_stricter_reader_refuses(data: bytes, rng: random.Random) -> None:
    check(rng, data)
