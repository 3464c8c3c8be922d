"""What a hostile endpoint can make relayd keep, measured for every dialect: bounded, and told as one failure."""

from __future__ import annotations

import gc
import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from relayd.protocols._bounds import MOST_BUFFERED_CHARS, Allowance, ResponseTooLarge, TextBuffer
from relayd.protocols.canon import (
    Begin,
    Event,
    Failure,
    Message,
    ReasoningDelta,
    Request,
    Text,
    TextDelta,
    ToolDelta,
    ToolStart,
)
from relayd.protocols.dialect import Dialect, Options, Reader
from tests.aids.memories import Forgetful
from tests.docs import pairs as _pairs

MIB = 1024 * 1024
CHUNK = 256 * 1024
FRONTS, BACKS = _pairs.fronts(), _pairs.backs()
any_back = pytest.mark.parametrize("back", BACKS, ids=lambda one: one.name)
any_front = pytest.mark.parametrize("front", FRONTS, ids=lambda one: one.name)


def reader(back: Dialect, stream: bool = True) -> Reader:
    assert back.reader is not None
    request = Request(_pairs.NEWEST.get(back.name, "m"), (Message("user", (Text("hi"),)),), stream=stream)
    return back.reader(request, Options(), Forgetful())


def measured(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the most MiB that it had at one time."""
    gc.collect()
    tracemalloc.start()
    try:
        result = run()
        return result, tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def drain(one: Reader, chunks: Iterable[bytes], most_bytes: int) -> tuple[Failure | None, int]:
    """Feed until it gives up, or so many bytes have been taken; nothing follows a failure."""
    taken = 0
    for data in chunks:
        for event in one.decode(data):
            if isinstance(event, Failure):
                assert one.decode(data) == [] and one.finish() == []
                return event, taken
        taken += len(data)
        if taken >= most_bytes:
            return None, taken
    return next((event for event in one.finish() if isinstance(event, Failure)), None), taken


def sse(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def frame(back: Dialect, kind: str, number: int) -> bytes:
    """One frame of a stream that never ends, of this kind; b"" where the dialect has no such thing."""
    made = FRAMES[back.name](kind, number)
    if made is None:
        return b""
    return json.dumps(made).encode() + b"\n" if back.name == "ollama" else sse(made)


def _chat(kind: str, number: int) -> Any:
    choice: dict[str, Any] = {"index": 0, "delta": {}}
    if kind == "text":
        choice["delta"] = {"content": f"piece {number} "}
    elif kind == "calls":
        choice["delta"] = {"tool_calls": [{"index": number, "id": f"id{number}", "function": {"name": "f", "arguments": ""}}]}
    elif kind == "arguments":
        choice["delta"] = {"tool_calls": [{"index": 0, "id": "id", "function": {"name": "f", "arguments": "x" * 4000}}]}
    elif kind == "items":
        choice["index"] = number
    elif kind == "names":
        choice["delta"] = {"tool_calls": [{"index": number, "id": "i" * 100_000, "function": {"name": "n" * 100_000}}]}
    return {"id": "x", "model": "m", "choices": [choice]}


def _responses(kind: str, number: int) -> Any:
    if kind == "text":
        return {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": f"piece {number} "}
    if kind in ("calls", "names"):
        item = {"type": "function_call", "call_id": f"id{number}", "name": "f" if kind == "calls" else "n" * 100_000}
        return {"type": "response.output_item.added", "output_index": number, "item": item}
    if kind == "arguments":
        if number == 0:
            return {"type": "response.output_item.added", "output_index": 0, "item": {"type": "function_call", "name": "f"}}
        return {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "x" * 4000}
    return {"type": "response.output_text.delta", "output_index": number, "content_index": number, "delta": "x"}


def _messages(kind: str, number: int) -> Any:
    if number == 0:
        return {"type": "message_start", "message": {"id": "i" * 100_000, "usage": {}}}
    if kind == "text":
        if number == 1:
            return {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": f"piece {number} "}}
    if kind in ("calls", "names"):
        given = {"a": "x" * 4000} if kind == "calls" else {}
        block = {"type": "tool_use", "id": f"t{number}", "name": "f" if kind == "calls" else "n" * 100_000, "input": given}
        return {"type": "content_block_start", "index": number, "content_block": block}
    if kind == "arguments":
        if number == 1:
            return {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "f"}}
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "x" * 4000}}
    return {"type": "content_block_start", "index": number, "content_block": {"type": "thinking", "thinking": "x"}}


def _gemini(kind: str, number: int) -> Any:
    part: dict[str, Any] = {"text": f"piece {number} "}
    if kind in ("calls", "arguments"):
        part = {"functionCall": {"name": "f", "args": {"a": "x" * 4000}}}
    elif kind == "names":
        part = {"functionCall": {"name": "n" * 100_000, "id": f"{number}" + "i" * 100_000}}
    candidate = {"index": number if kind == "items" else 0, "content": {"parts": [part]}}
    if kind == "items":
        candidate |= {"finishReason": "STOP", "finishMessage": "m" * 100_000}
    return {"responseId": "i" * (100_000 if kind == "names" else 1000), "candidates": [candidate]}


def _ollama(kind: str, number: int) -> Any:
    message: dict[str, Any] = {"role": "assistant", "content": f"piece {number} "}
    if kind in ("calls", "arguments", "names"):
        function = {"name": "n" * 100_000 if kind == "names" else "f", "arguments": {"a": "x" * 4000}}
        message = {"role": "assistant", "content": "", "tool_calls": [{"id": "i" * 1000, "function": function}]}
    return {"model": "m" * 1000, "message": message, "done": False}


FRAMES: dict[str, Callable[[str, int], Any]] = {
    "openai_chat": _chat, "openai_responses": _responses, "anthropic_messages": _messages, "gemini": _gemini,
    "ollama": _ollama,
}  # fmt: skip


def test_every_endpoints_dialect_has_hostile_frames() -> None:
    assert set(FRAMES) == {one.name for one in BACKS}


# ---- readers


@any_back
def test_a_line_without_an_end_is_given_up_at_its_bound(back: Dialect) -> None:
    one = reader(back)
    start = b'{"message":{"content":"' if back.name == "ollama" else b'data: {"choices":[{"delta":{"content":"'
    (failure, taken), peak_mib = measured(lambda: drain(one, itertools.chain([start], itertools.repeat(b"a" * CHUNK)), 80 * MIB))
    assert failure is not None and failure.status == 502 and taken <= 17 * MIB and peak_mib < 50


@any_back
def test_lines_without_a_blank_one_between_are_given_up(back: Dialect) -> None:
    line = b": keep-alive\n" * 10_000
    (failure, taken), peak_mib = measured(lambda: drain(reader(back), itertools.repeat(line), 64 * MIB))
    assert failure is not None and taken < 64 * MIB and peak_mib < 64


@any_back
def test_a_plain_answer_without_an_end_is_given_up_at_its_bound(back: Dialect) -> None:
    chunks = itertools.chain([b'{"message":"'], itertools.repeat(b"a" * CHUNK))
    (failure, taken), peak_mib = measured(lambda: drain(reader(back, stream=False), chunks, 128 * MIB))
    assert failure is not None and failure.status == 502 and taken <= 65 * MIB and peak_mib < 160


@any_back
@pytest.mark.parametrize("piece", [b"[],", b"{},", b"1,", b'"ab",'], ids=["lists", "objects", "numbers", "texts"])
def test_a_plain_answer_of_millions_of_values_takes_no_many_times_its_size(back: Dialect, piece: bytes) -> None:
    body = b'{"choices":[' + piece * (12 * MIB // len(piece)) + b"0]}"

    def run() -> Failure | None:
        return drain(reader(back, stream=False), [body], len(body) + 1)[0]

    failure, peak_mib = measured(run)
    assert failure is not None and failure.status == 502 and peak_mib < 64


@any_back
def test_endless_text_passes_unbuffered(back: Dialect) -> None:
    one = reader(back)
    chunks = (b"".join(frame(back, "text", turn * 20 + number) for number in range(20)) for turn in itertools.count())
    (failure, taken), peak_mib = measured(lambda: drain(one, chunks, MIB))
    assert failure is None and taken >= MIB and peak_mib < 0.7


@any_back
@pytest.mark.parametrize("kind", ["calls", "arguments", "items", "names"])
def test_whatever_comes_without_an_end_is_bounded(back: Dialect, kind: str) -> None:
    one = reader(back)
    chunks = (frame(back, kind, number) for number in itertools.count())
    (failure, taken), peak_mib = measured(lambda: drain(one, chunks, 2 * MIB if back.name == "ollama" and kind == "items" else 20 * MIB))
    passes = {"anthropic_messages": ("arguments",), "openai_responses": ("arguments",)}
    assert peak_mib < (6 if (back.name, kind) == ("gemini", "items") else 48), taken
    if kind not in passes[back.name] if back.name in passes else kind != "items" or back.name == "openai_chat":
        assert failure is not None and failure.status == 502


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@any_back
@pytest.mark.parametrize("depth", [70, 300, 900, 20_000])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_deep_arguments_are_a_failure_and_raise_nothing(back: Dialect, stream: bool, depth: int) -> None:
    value = nested(depth)
    bodies = {
        "openai_chat": b'{"choices":[{"%s":{"tool_calls":[{"id":"c","function":{"name":"f","arguments":%s}}]}}]}'
        % (b"delta" if stream else b"message", value),
        "openai_responses": b'{"type":"response.output_item.done","output_index":0,"output":[@],"item":@}'.replace(
            b"@", b'{"type":"function_call","call_id":"c","name":"f","arguments":%s}' % value
        ),
        "anthropic_messages": b'{"type":"content_block_start","index":0,"content":[@],"content_block":@}'.replace(
            b"@", b'{"type":"tool_use","id":"t","name":"f","input":%s}' % value
        ),
        "gemini": b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":%s}}]}}]}' % value,
        "ollama": b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":%s}}]}}' % value,
    }
    body = bodies[back.name]
    data = body if not stream else body + b"\n" if back.name == "ollama" else b"data: " + body + b"\n\n"
    one = reader(back, stream)
    events = one.decode(data) + one.finish()
    assert isinstance(events[-1], Failure) and sum(isinstance(event, Failure) for event in events) == 1


# ---- renderers


def rendered(front: Dialect, stream: bool, events: Iterable[Event]) -> tuple[bytes, int]:
    """What a client gets until nothing more is taken, and how many events that were."""
    assert front.read_request is not None and front.renderer is not None
    context = _pairs.ask_in(front)
    body = json.dumps(_pairs.members_of(front, {"stream": stream})).encode()
    renderer = front.renderer(front.read_request(body, context), context)
    count, last = 0, b""
    for event in events:
        count += 1
        sent = renderer.render([event])
        last = sent or last
        if b"too large" in sent or b"too many" in sent:
            return sent, count
    return renderer.response().body or last, count


def _begun(events: Iterator[Event]) -> Iterator[Event]:
    return itertools.chain([Begin("id", "m", 7)], events)


@any_front
def test_a_plain_answer_that_an_endpoint_streams_without_end_is_bounded(front: Dialect) -> None:
    text = "x" * MIB

    def run() -> tuple[bytes, int]:
        return rendered(front, False, _begun(TextDelta(text) for _ in range(200)))

    (text_message, _), peak_mib = measured(run)
    assert peak_mib < 3 * MOST_BUFFERED_CHARS / MIB and len(text_message) < 2000
    if front.name != "dialogflow":  # which tells no errors, and no more than 64 KiB
        assert b"too large" in text_message


@any_front
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_texts_and_thoughts_by_turns_without_end_are_bounded(front: Dialect, stream: bool) -> None:
    both: Iterable[Event] = itertools.cycle((ReasoningDelta("a"), TextDelta("b")))

    def run() -> tuple[bytes, int]:
        return rendered(front, stream, _begun(itertools.islice(both, 30_000)))

    (_, count), peak_mib = measured(run)
    assert peak_mib < 24
    if front.name in ("openai_responses", "anthropic_messages") and stream:
        assert count < 10_000


@any_front
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_calls_that_wait_for_one_that_never_is_whole_are_bounded(front: Dialect, stream: bool) -> None:
    def events() -> Iterator[Event]:
        yield ToolStart(0, "call_0", "f")
        yield ToolDelta(0, '{"a":"')
        for number in range(1, 200):
            yield ToolStart(number, f"call_{number}", "f")
            yield ToolDelta(number, "x" * MIB)

    (text_message, count), peak_mib = measured(lambda: rendered(front, stream, _begun(events())))
    assert peak_mib < 3 * MOST_BUFFERED_CHARS / MIB
    if front.name not in ("dialogflow", "simple_chat"):
        assert b"too large" in text_message or b"large" in text_message
        assert not stream or count < 140


# ---- the pieces themselves


def test_an_exhausted_allowance_raises_with_its_message() -> None:
    allowance = Allowance(10, "Too many words.")
    allowance.charge(10)
    with pytest.raises(ResponseTooLarge, match=r"^Too many words\.$"):
        allowance.charge(1)


def test_text_letter_by_letter_takes_little_more_than_at_once() -> None:
    pieces = TextBuffer()

    def run() -> str:
        for number in range(300_000):
            pieces.add(chr(0x3B1 + number % 20) * 2)
        return pieces.text()

    text, peak_mib = measured(run)
    assert len(text) == 600_000 and text[2] == "β" and peak_mib < 6


def test_pieces_know_their_last_sign_and_whether_there_are_any() -> None:
    pieces = TextBuffer()
    pieces.add("")
    assert not pieces and pieces.text() == ""
    pieces.add('{"a":1} ')
    pieces.add("\n")
    assert pieces and pieces.text() == '{"a":1} \n'


def test_the_last_character_of_a_text_in_pieces_is_not_white_space() -> None:
    text = TextBuffer()
    assert text.last_character() == ""
    for piece, last in ((" \n", ""), ("a", "a"), ("b: ", ":"), ("\t", ":"), *[(" ", ":")] * 3000, ("c", "c")):
        text.add(piece)
        assert text.last_character() == last
