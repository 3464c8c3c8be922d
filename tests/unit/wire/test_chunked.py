"""Chunked bodies: strict, bounded, and the same for every cut."""

from __future__ import annotations

import pytest

from relayd.wire.chunked import LAST_CHUNK, ChunkedDecoder, ChunkedError, encode, is_forbidden_trailer


def decode(body: bytes, cut: int = 0, **limits: int) -> tuple[bytes, list[bytes], bytes, bool]:
    decoder = ChunkedDecoder(**limits)
    pieces = [body[at : at + cut] for at in range(0, len(body), cut)] if cut else [body]
    out = []
    for piece in pieces:
        out.append(decoder.feed(piece, max_pieces=3))
        while decoder.pending:
            out.append(decoder.feed(b"", max_pieces=3))
    return b"".join(out), decoder.trailers, decoder.rest, decoder.done


WHOLE = b"5;a=b;c\r\nhello\r\n001\r\n \r\nA\r\n\r\nworld\x00\xff!\r\n0;end\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\nGET /"


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5, 7, 11, 64])
def test_every_cut_gives_the_same_body_trailers_and_rest(cut: int) -> None:
    assert decode(WHOLE, cut) == (b"hello \r\nworld\x00\xff!", [b"X-Sum: 1"], b"GET /", True)


def test_what_is_encoded_decodes_to_itself() -> None:
    data = bytes(range(256)) * 300
    assert decode(encode(data) + encode(b"") + encode(b"x") + LAST_CHUNK) == (data + b"x", [], b"", True)


def test_an_empty_piece_is_never_encoded_as_the_end() -> None:
    assert encode(b"") == b""


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"g\r\n", "chunk_size"),
        (b"\r\n", "chunk_size"),
        (b" 5\r\n", "chunk_size"),
        (b"5 \r\n", "chunk_size"),
        (b"+5\r\n", "chunk_size"),
        (b"-5\r\n", "chunk_size"),
        (b"0x5\r\n", "chunk_size"),
        (b"1_0\r\n", "chunk_size"),
        (b"5\nhello", "chunk_size"),
        (b"5\rhello", "chunk_size"),
        (b"5\x0b\r\n", "chunk_size"),
        (b"0000000000000001\r\na", "chunk_size"),
        (b"ffffffffffffffff\r\n", "chunk_size"),
        (b";a\r\n", "chunk_size"),
        (b"5;\r\n", "chunk_extension"),
        (b"5; a\r\n", "chunk_extension"),
        (b"5;a\nhello\r\n", "chunk_extension"),
        (b"5;a\rb\r\n", "chunk_extension"),
        (b"5;a\x00\r\n", "chunk_extension"),
        (b'5;a="b\r\n', "chunk_extension"),
        (b'5;a="b\r\n"\r\n', "chunk_extension"),
        (b"1\r\nab\r\n", "chunk_end"),
        (b"1\r\na\n0\r\n\r\n", "chunk_end"),
        (b"1\r\na\r0\r\n\r\n", "chunk_end"),
        (b"1\r\na0\r\n\r\n", "chunk_end"),
        (b"0\r\nno colon\r\n\r\n", "trailer"),
        (b"0\r\n: nameless\r\n\r\n", "trailer"),
        (b"0\r\nA : b\r\n\r\n", "trailer"),
        (b"0\r\nA: b\r\n folded\r\n\r\n", "trailer"),
        (b"0\r\nA: b\nB: c\r\n\r\n", "trailer"),
        (b"0\r\nA: b\x00\r\n\r\n", "trailer"),
        (b"0\r\nA: b\x7f\r\n\r\n", "trailer"),
        (b"0\r\n\n", "trailer"),
        (b"0\r\n\rX", "trailer"),
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_what_two_readers_could_read_in_two_ways_is_refused_by_name(body: bytes, rule: str, cut: int) -> None:
    with pytest.raises(ChunkedError) as refused:
        decode(body, cut)
    assert refused.value.rule == rule


def test_a_refused_body_stays_refused() -> None:
    decoder = ChunkedDecoder()
    for data in (b"xyz", b"0\r\n\r\n", b""):
        with pytest.raises(ChunkedError, match="chunk_size"):
            decoder.feed(data)
    assert not decoder.done


def test_a_well_formed_extension_is_ignored_and_not_passed_on() -> None:
    assert decode(b'2;a;b=1;c="d;\\" \xff"\r\nhi\r\n0;x=""\r\n\r\n') == (b"hi", [], b"", True)


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_extensions_are_bounded_per_line_and_in_all(cut: int) -> None:
    fits = b"1;" + b"e" * 9 + b"\r\na\r\n"
    assert decode(fits * 3 + LAST_CHUNK, cut, extension_line=10, extension_total=30)[0] == b"aaa"
    for body, total in ((b"1;" + b"e" * 10 + b"\r\na\r\n", 1000), (fits * 4, 39), (b"1;" + b"e" * 50, 1000)):
        with pytest.raises(ChunkedError, match="chunk_extension_size"):
            decode(body, cut, extension_line=10, extension_total=total)


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_trailers_are_bounded_in_bytes_and_count(cut: int) -> None:
    assert decode(b"0\r\n" + b"a: b\r\n" * 4 + b"\r\n", cut, trailer_bytes=24, trailer_fields=4)[3]
    with pytest.raises(ChunkedError, match="trailer_count"):
        decode(b"0\r\n" + b"a: b\r\n" * 5 + b"\r\n", cut, trailer_fields=4)
    with pytest.raises(ChunkedError, match="trailer_size"):
        decode(b"0\r\n" + b"a: b\r\n" * 5 + b"\r\n", cut, trailer_bytes=24)
    with pytest.raises(ChunkedError, match="trailer_size"):
        decode(b"0\r\na:" + b"b" * 100, cut, trailer_bytes=24)


@pytest.mark.parametrize(
    "name",
    [b"Transfer-Encoding", b"content-length", b"HOST", b"Authorization", b"Content_Length", b"X-Forwarded-Anything",
     b"Cookie", b"Trailer", b"x_api_key", b"If-Match", b"Via"],
)  # fmt: skip
def test_trailers_that_could_change_framing_routing_or_rights_are_dropped(name: bytes) -> None:
    assert is_forbidden_trailer(name)
    assert decode(b"0\r\n" + name + b": 1\r\nx-checksum: 2\r\n\r\n")[1] == [b"x-checksum: 2"]


def test_one_turn_handles_a_bounded_number_of_chunks() -> None:
    decoder = ChunkedDecoder()
    body = encode(b"a") * 10_000 + LAST_CHUNK
    turns = [decoder.feed(body, max_pieces=4096)]
    while decoder.pending:
        assert not decoder.done
        turns.append(decoder.feed(b"", max_pieces=4096))
    assert [len(turn) for turn in turns] == [4096, 4096, 1808]
    assert decoder.done


def test_new_input_behind_pending_input_keeps_its_order() -> None:
    decoder = ChunkedDecoder()
    first = decoder.feed(encode(b"a") + encode(b"b") + encode(b"c"), max_pieces=1)
    second = decoder.feed(encode(b"d") + LAST_CHUNK + b"next", max_pieces=100)
    assert (first, second, decoder.rest) == (b"a", b"bcd", b"next")


def test_bytes_behind_the_end_are_kept_whenever_they_come() -> None:
    decoder = ChunkedDecoder()
    decoder.feed(LAST_CHUNK + b"GET")
    assert decoder.feed(b" / HTTP/1.1") == b""
    assert decoder.rest == b"GET / HTTP/1.1"


def test_payload_inside_a_big_chunk_is_passed_through_without_a_copy() -> None:
    decoder = ChunkedDecoder()
    decoder.feed(b"fffff\r\n")
    piece = b"x" * 65536
    assert decoder.feed(piece) is piece
