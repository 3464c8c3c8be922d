"""Usage that relayd asks for: one member more in the request, one chunk fewer in the stream, nothing else."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.protocols.include_usage import MAX_BUFFERED_BYTES, UsageChunkFilter, with_include_usage


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b'{"stream": true, "seed": 9007199254740993}', b'{"stream": true,"stream_options":{"include_usage":true}, "seed": 9007199254740993}'),
        (b'{"stream":true,"stream_options":{"include_usage":false}}', b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (b'{"stream":true,"stream_options": {"a":1},"x":0.10}', b'{"stream":true,"stream_options": {"a":1,"include_usage":true},"x":0.10}'),
        (b'{"stream":true,"stream_options":null}', b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (b'{"stream":true,"stream_options":{"include_usage":true}}', None),
        (b'{"stream":true,"stream_options":{"include_usage":"x"}}', None),
        (b'{"stream":true,"stream_options":[]}', None),
        (b'{"stream":true,"stream_options":{},"stream_options":{}}', None),
        (b'{"stream":false}', None), (b'{"stream":null}', None), (b'{"model":"m"}', None), (b'{"a":{"stream":true}}', None),
        (b"[]", None), (b"", None), (b'{"stream":true', None),
    ],
)  # fmt: skip
def test_the_member_is_added_only_if_it_is_missing(body: bytes, asked: bytes | None) -> None:
    assert with_include_usage(body) == asked


def frame(value: Any, end: bytes = b"\n") -> bytes:
    return b"data: " + json.dumps(value).encode() + end + end


TEXT = frame({"choices": [{"delta": {"content": "x"}}], "usage": None})
USAGE = frame({"id": "1", "choices": [], "usage": {"prompt_tokens": 3}})
AZURE = frame({"choices": [], "prompt_filter_results": []})
DONE = b"data: [DONE]\n\n"


def through(stream: bytes, cuts: list[int] | None = None) -> bytes:
    remover = UsageChunkFilter()
    places = [0, *sorted(cut for cut in cuts or () if cut < len(stream)), len(stream)]
    out = b"".join(remover.filter(stream[start:stop]) for start, stop in itertools.pairwise(places))
    return out + remover.flush()


def test_the_usage_chunk_is_gone_wherever_the_stream_is_cut() -> None:
    stream = b": hi\n\n" + AZURE + TEXT + TEXT + USAGE + DONE
    for cut in range(len(stream)):
        assert through(stream, [cut]) == b": hi\n\n" + AZURE + TEXT + TEXT + DONE, cut
    assert through(stream, list(range(len(stream)))) == b": hi\n\n" + AZURE + TEXT + TEXT + DONE


@pytest.mark.parametrize(
    "chunk", [{"usage": {"a": 1}}, {"choices": None, "usage": {"a": 1}}, {"choices": [], "usage": {}}, {"choices": {}, "id": "x", "usage": {"a": {"b": 1}}}]
)  # fmt: skip
@pytest.mark.parametrize("first", [AZURE, USAGE, TEXT, b""])
def test_a_usage_chunk_is_gone_however_it_is_written_and_whatever_came_before(chunk: dict[str, Any], first: bytes) -> None:
    stream = first + TEXT + frame(chunk) + DONE
    stored = (b"" if first is USAGE else first) + TEXT + DONE
    assert through(stream) == stored
    for cut in range(len(stream)):
        assert through(stream, [cut]) == stored, cut


def test_usage_in_every_chunk_becomes_null_and_nothing_else_changes() -> None:
    received = b'data: {"id":1e2, "choices":[{"delta":{"content":"\\u00e9 \\"usage\\":{"},"usage":{"x":1}}],"usage": {"a":{"b":1}} ,"z":0.10}\n\n'
    stored = received.replace(b'{"a":{"b":1}}', b"null")
    azure = frame({"choices": [], "prompt_filter_results": [{}], "usage": {"a": 1}})
    stream = azure + received * 3 + USAGE + DONE
    expected = azure.replace(b'{"a": 1}', b"null") + stored * 3 + DONE
    for cut in range(len(stream)):
        assert through(stream, [cut]) == expected, cut
    error = frame({"error": {"message": "no"}, "usage": {"a": 1}})
    assert through(error) == error


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_is_known(end: bytes) -> None:
    usage: dict[str, object] = {"choices": [], "usage": {}}
    stream = frame({"choices": [{}]}, end) + frame(usage, end) + b"data: [DONE]" + end + end
    for cut in range(len(stream)):
        assert through(stream, [cut]) == frame({"choices": [{}]}, end) + b"data: [DONE]" + end + end, cut


def test_whole_frames_are_never_held() -> None:
    remover = UsageChunkFilter()
    assert remover.filter(TEXT) == TEXT
    assert remover.filter(TEXT + TEXT[:20]) == TEXT
    assert remover.filter(TEXT[20:]) == TEXT
    assert remover.filter(TEXT[:-1]) == b"" and remover.filter(TEXT[-1:]) == TEXT
    assert remover.filter(USAGE) == b""
    assert remover.filter(USAGE[:10]) == b"" and remover.filter(USAGE[10:] + TEXT) == TEXT  # some send it more than once


def test_a_frame_too_long_to_be_it_passes_at_once_and_what_follows_is_looked_at_again() -> None:
    remover = UsageChunkFilter()
    long = b"data: " + b"x" * MAX_BUFFERED_BYTES
    assert remover.filter(long) == long
    assert remover.filter(b"yyy\n") == b"yyy\n"
    assert remover.filter(b"\n" + USAGE + TEXT) == b"\n" + TEXT


def test_the_last_frame_may_lack_its_blank_line() -> None:
    assert through(TEXT + USAGE.removesuffix(b"\n\n")) == TEXT
    assert through(TEXT + USAGE.removesuffix(b"\n")) == TEXT
    assert through(TEXT + b"data: [DONE]") == TEXT + b"data: [DONE]"


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from([TEXT, AZURE, DONE, b": c\r\n\r\n", b"data: {\n\n", b"\n", b"event: x\n", b"x" * 20_000, b"data: \r\r",
                         frame({"choices": [{}], "usage": None}), frame([{"choices": [], "usage": {}}]),
                         frame({"choices": [{"a": '"choices":[]'}]})]),
        max_size=8,
    ),
    st.lists(st.integers(0, 60_000), max_size=5),
)  # fmt: skip
def test_every_other_byte_stays(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    assert through(stream, cuts) == stream
