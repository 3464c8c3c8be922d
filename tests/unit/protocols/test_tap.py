"""The side tap: what it sees of every dialect, and that nothing makes it raise or grow."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols import registry
from relayd.protocols.dialect import TapFormat
from relayd.protocols.tap import MAX_FRAME_BYTES, MAX_PLAIN_BYTES, RETAINED_BYTES, Observed, Tap, observe_body
from relayd.usage import Usage


def format_of(dialect: str) -> TapFormat:
    found = registry.load(dialect).tap
    assert found is not None
    return found


def observed(dialect: str, data: bytes, cuts: list[int] | None = None, coding: str = "") -> Observed:
    tap = Tap(format_of(dialect), coding)
    places = [0, *sorted(cut for cut in cuts or () if cut < len(data)), len(data)]
    for start, stop in itertools.pairwise(places):
        tap.observe(data[start:stop])
    return tap.observed


def sse(*values: Any, end: bytes = b"\n", events: bool = False) -> bytes:
    head = [b"event: " + value["type"].encode() + end if events else b"" for value in values]
    return b"".join(a + b"data: " + json.dumps(value).encode() + end + end for a, value in zip(head, values, strict=True))


CHAT = sse(
    {"model": "m-1", "choices": [{"delta": {"content": 'he said "usage": {'}, "finish_reason": None}], "usage": None},
    {"model": "m-1", "choices": [{"delta": {}, "finish_reason": "length"}], "usage": None},
    {"model": "m-1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 5}, "completion_tokens_details": {"reasoning_tokens": 2}}},
) + b"data: [DONE]\n\n"  # fmt: skip
RESPONSE = {"id": "resp_1", "object": "response", "model": "m-1", "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"}, "output": [{"status": "completed", "type": "message"}],
            "usage": {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 5},
                      "output_tokens_details": {"reasoning_tokens": 2}}}  # fmt: skip
RESPONSES = sse(
    {"type": "response.created", "response": {"object": "response", "model": "m-1", "status": "in_progress", "usage": None}},
    {"type": "response.output_text.delta", "delta": "x"},
    {"type": "response.output_item.done", "item": {"status": "completed"}},
    {"type": "response.incomplete", "response": RESPONSE},
    events=True,
)
MESSAGES = sse(
    {"type": "message_start", "message": {"model": "m-1", "usage": {"input_tokens": 3, "cache_read_input_tokens": 5,
                                                                    "cache_creation_input_tokens": 1, "output_tokens": 1}}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
    {"type": "message_stop"},
    events=True,
)  # fmt: skip
GEMINI = sse(
    {"candidates": [{"content": {"parts": [{"text": "x"}]}}], "usageMetadata": {"promptTokenCount": 9}, "modelVersion": "m-1"},
    {"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 2,
        "thoughtsTokenCount": 2, "cachedContentTokenCount": 5}, "modelVersion": "m-1"},
    end=b"\r\n",
)  # fmt: skip
OLLAMA = b"".join(
    json.dumps(line).encode() + b"\n"
    for line in (
        {"model": "m-1", "message": {"role": "assistant", "content": "x"}, "done": False},
        {"model": "m-1", "message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 4},
    )
)
STREAMS = [
    ("openai_chat", CHAT, Observed("m-1", "length", Usage(9, 4, cached_read=5, reasoning=2))),
    ("openai_responses", RESPONSES, Observed("m-1", "max_output_tokens", Usage(9, 4, cached_read=5, reasoning=2))),
    ("anthropic_messages", MESSAGES, Observed("m-1", "end_turn", Usage(9, 4, cached_read=5, cache_creation=1))),
    ("gemini", GEMINI, Observed("m-1", "STOP", Usage(9, 4, cached_read=5, reasoning=2))),
    ("ollama", OLLAMA, Observed("m-1", "stop", Usage(9, 4))),
]
PLAIN = [
    ("openai_chat", {"model": "m-1", "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
                     "usage": {"prompt_tokens": 9, "completion_tokens": 4}}, Observed("m-1", "stop", Usage(9, 4))),
    ("openai_chat", {"object": "list", "data": [], "model": "m-1", "usage": {"prompt_tokens": 9, "total_tokens": 9}},
     Observed("m-1", usage=Usage(9))),
    ("openai_responses", RESPONSE, Observed("m-1", "max_output_tokens", Usage(9, 4, cached_read=5, reasoning=2))),
    ("anthropic_messages", {"model": "m-1", "stop_reason": "tool_use", "usage": {"input_tokens": 9, "output_tokens": 4}},
     Observed("m-1", "tool_use", Usage(9, 4))),
    ("gemini", [{"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 9}, "modelVersion": "m-1"}],
     Observed("m-1", "STOP", Usage(9))),
    ("ollama", {"model": "m-1", "done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 4},
     Observed("m-1", "stop", Usage(9, 4))),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "stream", "seen"), STREAMS)
def test_a_stream_of_every_dialect_is_read_wherever_it_is_cut(dialect: str, stream: bytes, seen: Observed) -> None:
    for cut in range(0, len(stream)):
        assert observed(dialect, stream, [cut]) == seen, cut
    assert observed(dialect, stream, list(range(len(stream)))) == seen
    assert observed(dialect, stream.rstrip(b"\r\n")) == seen


@pytest.mark.parametrize(("dialect", "value", "seen"), PLAIN)
def test_a_plain_body_of_every_dialect_is_read(dialect: str, value: Any, seen: Observed) -> None:
    for body in (json.dumps(value).encode(), b"\xef\xbb\xbf\n " + json.dumps(value).encode()):
        assert observed(dialect, body) == seen
        assert observed(dialect, body, list(range(len(body)))) == seen
    if dialect != "ollama":
        assert observed(dialect, json.dumps(value, indent=2).encode()) == seen


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_other_line_ends_comments_and_data_in_several_lines_are_read(end: bytes) -> None:
    stream = b": hi" + end * 2 + CHAT.replace(b"\n", end).replace(b'"usage": {"prompt', b'"usage":' + end + b'data: {"prompt')
    assert observed("openai_chat", stream) == Observed("m-1", "length", Usage(9, 4, cached_read=5, reasoning=2))


def deflated(data: bytes, bits: int) -> bytes:
    coder = zlib.compressobj(wbits=bits)
    return coder.compress(data) + coder.flush()


@pytest.mark.parametrize(
    ("coding", "data"),
    [("gzip", gzip.compress(CHAT)), ("deflate", zlib.compress(CHAT)), ("deflate", deflated(CHAT, -15)), ("X-Gzip ", gzip.compress(CHAT))],
)
def test_compressed_answers_are_read_from_a_copy(coding: str, data: bytes) -> None:
    assert observed("openai_chat", data, None, coding) == Observed("m-1", "length", Usage(9, 4, cached_read=5, reasoning=2))
    assert observed("openai_chat", data, list(range(len(data))), coding) == Observed("m-1", "length", Usage(9, 4, cached_read=5, reasoning=2))


@pytest.mark.parametrize(("coding", "data"), [("br", CHAT), ("gzip, br", CHAT), ("gzip", b"no gzip at all")])
def test_what_cannot_be_decoded_is_not_reported(coding: str, data: bytes) -> None:
    assert observed("openai_chat", data, None, coding) == Observed()


def test_a_bomb_blinds_the_tap_and_fills_nothing() -> None:
    tap = Tap(format_of("openai_chat"), "gzip")
    bomb = gzip.compress(b"data: " + b"x" * 20_000_000)
    for _ in range(3):
        tap.observe(bomb)
    assert tap._is_unreadable and tap.observed == Observed() and len(tap._buffer) < 8 << 20


def test_a_body_too_large_to_keep_is_read_at_its_ends() -> None:
    tail = b'"model":"m-1","usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":5},"total_tokens":9}}'
    body = b'{"object":"list","data":["' + b"x" * (3 * MAX_PLAIN_BYTES) + b'"],' + tail
    tap = Tap(format_of("openai_chat"))
    for position in range(0, len(body), 65536):
        tap.observe(body[position : position + 65536])
        assert len(tap._buffer) <= MAX_PLAIN_BYTES + 65536
    assert tap.observed == Observed("m-1", usage=Usage(9, 0, cached_read=5))


def test_a_frame_too_large_to_keep_is_read_at_its_end() -> None:
    big = {"type": "response.completed", "response": {"model": "m-1", "output": "x" * (2 * MAX_FRAME_BYTES), "usage":
        {"input_tokens": 9, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 2}}}}  # fmt: skip
    stream = sse({"type": "response.created", "response": {"model": "m-1"}}, big, events=True)
    tap = Tap(format_of("openai_responses"))
    for position in range(0, len(stream), 65536):
        tap.observe(stream[position : position + 65536])
        assert len(tap._buffer) <= MAX_FRAME_BYTES + 65536
    assert tap.observed == Observed("m-1", usage=Usage(9, 4, reasoning=2))


def test_a_frame_is_let_go_with_its_blank_line() -> None:
    tap = Tap(format_of("openai_chat"))
    frame = CHAT[: CHAT.index(b"\n\n") + 2]
    tap.observe(frame[:-1])
    tap.observe(frame[-1:])
    assert not tap._buffer


def test_a_truncated_stream_reports_the_facts_so_far() -> None:
    assert observed("openai_chat", CHAT[:140]) == Observed("m-1")
    assert observed("openai_chat", json.dumps(PLAIN[0][1]).encode()[:-1]) == Observed("m-1", "stop", Usage(9, 4))


def test_what_was_seen_is_known_while_the_stream_goes_on() -> None:
    tap = Tap(format_of("anthropic_messages"))
    first, rest = MESSAGES.split(b"\n\n", 1)
    tap.observe(first + b"\n\n")
    assert tap.observed == Observed("m-1", usage=Usage(9, 1, cached_read=5, cache_creation=1))
    tap.observe(rest)
    assert tap.observed == Observed("m-1", "end_turn", Usage(9, 4, cached_read=5, cache_creation=1))


PIECE = st.sampled_from([
    CHAT, RESPONSES, MESSAGES, GEMINI, OLLAMA, b"{", b"[", b'"usage":{', b'"usage": 7', b"\n\n", b"data: ", b"\xff", b'"status":"completed"',
    b'data: {"usage":{"prompt_tokens":"x"},"choices":[7],"model":[]}\n\n', b'data: [{"usage":{}}]\n\n', b"<html>", b"\r",
    b'data: {"response":{"response":{"usage":{"a":{}}}},"message":7,"delta":7,"finish_reason":"x"}\n\n',
])  # fmt: skip


@given(
    st.sampled_from(["openai_chat", "openai_responses", "anthropic_messages", "gemini", "ollama"]),
    st.lists(PIECE | st.binary(max_size=20), max_size=6),
    st.sampled_from(["", "gzip", "deflate"]),
)
def test_nothing_makes_it_raise(dialect: str, pieces: list[bytes], coding: str) -> None:
    tap = Tap(format_of(dialect), coding)
    for piece in pieces:
        tap.observe(piece)
        assert isinstance(tap.observed, Observed)


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses", "anthropic_messages", "gemini", "ollama"])
@pytest.mark.parametrize("body", [
    json.dumps(RESPONSE).encode(), b'{"model":"m","usage":{"prompt_tokens":1}}', b'[{"usageMetadata":{"promptTokenCount":3}}]',
    b'{"eval_count":3,"done_reason":"stop"}', b"{", b"", b"<html>", b' {"usage":{"input_tokens":2}}', b'{"usage":[1]}',
    b'{"usage":{"prompt_tokens":null,"input_tokens":null}}', b'{"usage":{"prompt_tokens":0,"completion_tokens":null}}',
    b'{"choices":[{"finish_reason":7},{"finish_reason":"stop"}]}', b'{"message":{"model":"x","usage":{"input_tokens":1}}}',
])
def test_a_whole_answer_is_seen_at_once_as_in_passing(dialect: str, body: bytes) -> None:
    assert observe_body(format_of(dialect), body) == observed(dialect, body, [1, 2, len(body) // 2])


FRAMES = st.lists(st.sampled_from([
    b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n',
    b'data: {"model": "m-1", "choices": [{"delta": {"content": "x"}, "finish_reason": null}], "usage": null}\n\n',
    b'data: {"model":"m-1","choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"choices":[{"finish_reason":null},{"finish_reason":"length"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":7}}\r\n\r\n',
    b": comment\n\n", b"data: [DONE]\n\n", b'data: {"half":"', b'of it"}\n\n',
]), max_size=14)


def can_skip(tap: Tap, frames: bytes) -> bool:
    search = tap.search_facts
    return search is not None and search(frames) is None


@given(FRAMES)
def test_what_it_skims_need_not_be_fed(pieces: list[bytes]) -> None:
    whole, skimming, skimmed = Tap(format_of("openai_chat")), Tap(format_of("openai_chat")), 0
    at_rest = False
    for piece in pieces:
        whole.observe(piece)
        if at_rest and piece.endswith(b"\n\n") and can_skip(skimming, piece):
            skimmed += 1
            continue
        skimming.observe(piece)
        at_rest = piece.endswith(b"\n\n")
    assert skimming.observed == whole.observed


def test_most_of_a_stream_is_skimmed() -> None:
    tap = Tap(format_of("openai_chat"))
    name = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
    tap.observe(name)
    assert can_skip(tap, name) and not can_skip(tap, name.replace(b"null", b'"stop"'))
    assert can_skip(tap, name.replace(b'"choices"', b'"usage" : null,"choices"'))
    assert not can_skip(tap, name.replace(b'"choices"', b'"usage":{"prompt_tokens":1},"choices"'))
    nameless, unnamed = Tap(format_of("openai_chat")), name.replace(b'"model":"m",', b"")
    nameless.observe(unnamed)
    assert can_skip(nameless, unnamed) and not can_skip(nameless, name)


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_only_a_bounded_part_of_many_small_frames_is_retained(coding: str) -> None:
    frames = sse({"model": "m-1", "usage": {"prompt_tokens": 1}}) + b'data: {"usage":{}}\n\n' * 30_000 + CHAT
    body = gzip.compress(frames) if coding else frames
    tap = Tap(format_of("openai_chat"), coding)
    tap.observe(body)
    stored = {id(one): len(one) for one in (tap._model_frames, tap._usage_frames, tap._finish_frames)}
    assert sum(stored.values()) <= 3 * RETAINED_BYTES
    seen = tap.observed
    assert seen.usage is not None
    assert (seen.model, seen.finish, seen.usage.input, seen.usage.output) == ("m-1", "length", 9, 4)


def test_an_odd_value_does_not_hide_the_usage_beside_it() -> None:
    data = b'{"model":"m","timings":NaN,"note":"\xff","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    assert observed("openai_chat", data) == Observed("m", "stop", Usage(3, 4))
    assert observed("openai_chat", b"data: " + data + b"\n\ndata: [DONE]\n\n") == Observed("m", "stop", Usage(3, 4))


def test_a_zero_of_a_later_event_wipes_nothing_out() -> None:
    start = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 9, "output_tokens": 0}}}
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"input_tokens": 0, "output_tokens": 4}}
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in (start, last))
    assert observed("anthropic_messages", data) == Observed("m", "end_turn", Usage(9, 4))
