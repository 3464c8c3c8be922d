"""An endpoint's answer to events: whatever imitators send, wherever it is cut, one run of events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.protocols._response_reader import EVENTS, ResponseReader
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Options
from relayd.protocols.openai_chat.reader import ChatDecoder, new_call_id
from relayd.protocols.openai_chat.reader import reader as make_reader
from tests.aids.memories import Kept
from tests.unit.protocols.openai_chat.asked import chunk, context, frames, joined, reader, run

BEGIN = Begin("chatcmpl-1", "m-1", 7)


def plain(message: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "m-1", "choices": [choice], **more}
    return json.dumps(whole).encode()


def body_of(events: list[Event]) -> list[Event]:
    assert events[0] == BEGIN and isinstance(events[-1], End)
    return events[1:-1]


def test_a_stream_of_text_is_live_and_ends_well() -> None:
    one = reader()
    assert one.decode(frames(chunk({"role": "assistant", "content": ""}), done=False)) == [BEGIN]
    assert one.decode(frames(chunk({"content": "Hel"}), done=False)) == [TextDelta("Hel")]
    assert one.decode(frames(chunk({"content": "lo"}), chunk({}, "stop"), done=False)) == [TextDelta("lo")]
    assert one.decode(b"data: [DONE]\n\n") == [Finish("stop"), End()]
    assert one.decode(b"data: nonsense\n\n") == [] and one.finish() == []


CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}


@pytest.mark.parametrize(
    ("deltas", "events"),
    [
        # the usual order
        ([[CALL], [{"index": 0, "function": {"arguments": '{"a"'}}], [{"index": 0, "function": {"arguments": ":1}"}}]],
         [ToolStart(0, "c1", "f"), ToolDelta(0, '{"a":1}')]),
        # index 0 for parallel calls, told apart by their ids
        ([[{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}],
          [{"index": 0, "id": "b", "function": {"name": "g", "arguments": '{"x":'}}],
          [{"index": 0, "function": {"arguments": "2}"}}]],
         [ToolStart(0, "a", "f"), ToolDelta(0, "{}"), ToolStart(1, "b", "g"), ToolDelta(1, '{"x":2}')]),
        # the same id again in every fragment
        ([[CALL], [{"index": 0, "id": "c1", "function": {"arguments": "{"}}],
          [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": "}"}}]],
         [ToolStart(0, "c1", "f"), ToolDelta(0, "{}")]),
        # index 0, no ids, whole arguments
        ([[{"index": 0, "function": {"name": "f", "arguments": '{"a":1}'}}],
          [{"index": 0, "function": {"name": "f", "arguments": '{"a":2}'}}]],
         [ToolStart(0, "call_0", "f"), ToolDelta(0, '{"a":1}'), ToolStart(1, "call_1", "f"), ToolDelta(1, '{"a":2}')]),
        # no ids, the name repeated in every fragment
        ([[{"index": 0, "function": {"name": "f", "arguments": '{"a"'}}],
          [{"index": 0, "function": {"name": "f", "arguments": ":{}}"}}]],
         [ToolStart(0, "call_0", "f"), ToolDelta(0, '{"a":{}}')]),
        # neither index nor id: the place in the list
        ([[{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "g", "arguments": "{}"}}]],
         [ToolStart(0, "call_0", "f"), ToolStart(1, "call_1", "g"), ToolDelta(0, "{}"), ToolDelta(1, "{}")]),
        # the id comes late, the name comes later
        ([[{"index": 0, "function": {"arguments": '{"a"'}}], [{"index": 0, "id": "c1", "function": {"arguments": ":"}}],
          [{"index": 0, "function": {"name": "f", "arguments": "1}"}}]],
         [ToolStart(0, "c1", "f"), ToolDelta(0, '{"a":1}')]),
        # the name first, its id behind it
        ([[{"index": 0, "function": {"name": "f"}}], [{"index": 0, "id": "c1", "function": {"arguments": "{}"}}]],
         [ToolStart(0, "call_0", "f"), ToolDelta(0, "{}")]),
        # arguments as an object
        ([[{"index": 0, "id": "c1", "function": {"name": "f", "arguments": {"a": [1, "é"]}}}]],
         [ToolStart(0, "c1", "f"), ToolDelta(0, '{"a":[1,"é"]}')]),
        # interleaved fragments of two calls
        ([[CALL, {"index": 1, "id": "c2", "function": {"name": "g"}}], [{"index": 1, "function": {"arguments": "{"}}],
          [{"index": 0, "function": {"arguments": "{}"}}], [{"index": 1, "function": {"arguments": "}"}}]],
         [ToolStart(0, "c1", "f"), ToolStart(1, "c2", "g"), ToolDelta(1, "{"), ToolDelta(0, "{}"), ToolDelta(1, "}")]),
        # two calls under one index, told apart by their names only
        ([[{"index": 0, "function": {"name": "f", "arguments": ""}}], [{"index": 0, "function": {"name": "g", "arguments": '{"x":'}}],
          [{"index": 0, "function": {"arguments": "2}"}}]],
         [ToolStart(0, "call_0", "f"), ToolStart(1, "call_1", "g"), ToolDelta(1, '{"x":2}')]),
        # two calls under one index and one id
        ([[CALL], [{"index": 0, "id": "c1", "function": {"name": "g", "arguments": '{"x":'}}],
          [{"index": 0, "id": "c1", "function": {"arguments": "2}"}}]],
         [ToolStart(0, "c1", "f"), ToolStart(1, "call_0", "g"), ToolDelta(1, '{"x":2}')]),
        # the same, where the first one's arguments were cut off
        ([[{"index": 0, "function": {"name": "f", "arguments": '{"a'}}], [{"index": 0, "id": "c1", "function": {"name": "g", "arguments": "{}"}}]],
         [ToolStart(0, "call_0", "f"), ToolDelta(0, '{"a'), ToolStart(1, "c1", "g"), ToolDelta(1, "{}")]),
        # a call without an id, sent whole twice
        ([[{"index": 0, "function": {"name": "f", "arguments": '{"a":1}'}}]] * 2,
         [ToolStart(0, "call_0", "f"), ToolDelta(0, '{"a":1}')]),
        # a placeholder, in calls of one chunk
        ([[{**CALL, "function": {"name": "f", "arguments": "{}"}}, {"index": 1, "id": "c2", "function": {"name": "g", "arguments": "{}"}}],
          [{"index": 0, "function": {"arguments": '{"a":1}'}}], [{"index": 1, "function": {"arguments": '{"b":'}}, {"index": 1, "function": {"arguments": "2}"}}]],
         [ToolStart(0, "c1", "f"), ToolStart(1, "c2", "g"), ToolDelta(0, '{"a":1'), ToolDelta(1, '{"b":2'), ToolDelta(0, "}"), ToolDelta(1, "}")]),
        # one id for two calls
        ([[CALL, {"index": 1, "id": "c1", "function": {"name": "g"}}], [{"index": 1, "id": "c1", "function": {"arguments": "{}"}}]],
         [ToolStart(0, "c1", "f"), ToolStart(1, "call_0", "g"), ToolDelta(1, "{}")]),
        # indices that begin at 1 and leave some out
        ([[{**CALL, "index": 1}, {"index": 7, "id": "c2", "function": {"name": "g", "arguments": "{}"}}]],
         [ToolStart(0, "c1", "f"), ToolStart(1, "c2", "g"), ToolDelta(1, "{}")]),
        # an empty fragment is nothing
        ([[{"index": 0}], None, [CALL]], [ToolStart(0, "c1", "f")]),
    ],
)  # fmt: skip
def test_calls_are_put_in_order_however_they_come(deltas: list[Any], events: list[Event]) -> None:
    stream = frames(*[chunk({"tool_calls": calls}) for calls in deltas], chunk({}, "stop"))
    assert joined(body_of(run(stream))) == [*events, Finish("tool_calls")]


def test_the_old_form_of_a_call_is_a_call() -> None:
    stream = frames(
        chunk({"function_call": {"name": "f", "arguments": ""}}), chunk({"function_call": {"arguments": "{}"}}),
        chunk({}, "function_call"),
    )  # fmt: skip
    assert joined(body_of(run(stream))) == [ToolStart(0, "call_0", "f"), ToolDelta(0, "{}"), Finish("tool_calls")]


def test_a_signature_of_a_call_is_passed_on_and_remembered() -> None:
    memory = Kept()
    call = {**CALL, "extra_content": {"google": {"thought_signature": "sig"}}}
    events = run(frames(chunk({"tool_calls": [call]}, "tool_calls")), memory=memory)
    assert events[1] == ToolStart(0, "c1", "f", signature="sig")
    assert memory.values == {"thought_signature:c1": "sig"}


@pytest.mark.parametrize(
    ("delta", "events"),
    [
        ({"reasoning_content": "hm"}, [ReasoningDelta("hm")]),
        ({"reasoning": "hm"}, [ReasoningDelta("hm")]),
        ({"reasoning": "hm", "reasoning_content": "hm", "content": "x"}, [ReasoningDelta("hm"), TextDelta("x")]),
        ({"refusal": "no"}, [RefusalDelta("no")]),
        ({"role": "assistant", "content": None, "tool_calls": None, "refusal": None}, []),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                      {"type": "text", "text": "x"}]}, [ReasoningDelta("hm"), TextDelta("x")]),
        ({"content": 7, "reasoning": {}, "tool_calls": {}, "function_call": "x"}, []),
    ],
)  # fmt: skip
def test_deltas_of_every_kind_are_read(delta: dict[str, Any], events: list[Event]) -> None:
    assert body_of(run(frames(chunk(delta), chunk({}, "stop")))) == [*events, Finish("stop")]


def test_logprobs_come_with_their_text() -> None:
    tokens = [{"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}]
    one = chunk({"content": "x"})
    one["choices"][0]["logprobs"] = {"content": tokens}
    assert body_of(run(frames(one, chunk({}, "stop"))))[0] == TextDelta("x", 0, tuple(tokens))


@pytest.mark.parametrize(
    ("finish", "calls", "reason"),
    [
        ("stop", False, "stop"), ("stop", True, "tool_calls"), ("tool_calls", False, "stop"), ("length", True, "length"),
        ("length", False, "length"), ("content_filter", False, "content_filter"), ("end_turn", False, "stop"),
        ("function_call", True, "tool_calls"), ("MAX_TOKENS", False, "length"), ("Content-Filter", False, "content_filter"), ("Length", True, "length"),
        ("SAFETY", False, "content_filter"), ("RECITATION", True, "content_filter"), ("STOP", False, "stop"),
        ("TOOL_CALLS", True, "tool_calls"), ("null", False, "stop"),
    ],
)  # fmt: skip
def test_the_finish_reason_is_mapped_to_four_values(finish: str, calls: bool, reason: str) -> None:
    stream = frames(chunk({"tool_calls": [CALL]} if calls else {"content": "x"}), chunk({}, finish))
    assert Finish(reason) in run(stream)


@pytest.mark.parametrize("finish", ["something new", "OTHER", "Error", "MALFORMED_FUNCTION_CALL", "network_error"])
@pytest.mark.parametrize("calls", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_no_other_finish_reason_is_a_clean_end(finish: str, calls: bool, whole: bool) -> None:
    delta: dict[str, Any] = {"tool_calls": [CALL]} if calls else {"content": "x"}
    events = run(plain(delta, finish) if whole else frames(chunk(delta), chunk({}, finish)))
    assert isinstance(events[-1], Failure) and finish.lower() in events[-1].message
    assert not any(isinstance(event, Finish) for event in events)


@pytest.mark.parametrize("finish", [5, True, {"type": "stop"}, ["stop"], 1.5])
def test_a_finish_reason_that_is_no_text_is_no_clean_end(finish: Any) -> None:
    for answer in (frames(chunk({"content": "x"}), chunk({}, finish)), plain({"content": "x"}, finish)):
        failure = run(answer)[-1]
        assert isinstance(failure, Failure) and f"of type {type(finish).__name__}" in failure.message


def test_the_matched_stop_string_is_preserved() -> None:
    one = chunk({}, "stop")
    one["choices"][0]["stop_reason"] = "###"
    assert Finish("stop", 0, "###") in run(frames(chunk({"content": "x"}), one))


@pytest.mark.parametrize(
    "odd", [b'"timings":NaN', b'"timings":{"ms":-Infinity}', b'"note":"\xff"', b'"seed":' + b"9" * 5000, b'"big":1e400', b'"note":"a\tb"']
)  # fmt: skip
def test_an_odd_value_in_what_nobody_asked_for_does_not_cost_the_answer(odd: bytes) -> None:
    stream = frames(chunk({"content": "x"}), chunk({}, "stop")).replace(b'"object"', odd + b',"object"')
    assert run(stream) == [BEGIN, TextDelta("x"), Finish("stop"), End()]
    body = plain({"content": "x"}).replace(b'"object"', odd + b',"object"')
    assert run(body) == [BEGIN, TextDelta("x"), Finish("stop"), End()]


def test_a_probability_of_nothing_is_a_number() -> None:
    one = chunk({"content": "x"})
    one["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": -0.5, "top_logprobs": [{"token": "y", "logprob": -1e400}]},
                                                 {"token": "z", "logprob": -1e400}, {"token": "w"}]}  # fmt: skip
    event = run(frames(one, chunk({}, "stop")))[1]
    assert isinstance(event, TextDelta) and event.logprobs == (
        {"token": "x", "logprob": -0.5, "top_logprobs": [{"token": "y", "logprob": -9999.0}]}, {"token": "z", "logprob": -9999.0}, {"token": "w"},
    )  # fmt: skip


def test_arguments_that_are_an_object_are_json_whatever_its_numbers() -> None:
    call = b'{"index":0,"id":"a","function":{"name":"f","arguments":{"a":1e400,"b":NaN}}}'
    stream = frames(chunk({"tool_calls": ["here"]}), chunk({}, "stop")).replace(b'"here"', call)
    assert joined(run(stream))[2] == ToolDelta(0, '{"a":1.7976931348623157e+308,"b":null}')


def test_choices_are_separate() -> None:
    stream = frames(
        chunk({"content": "a"}, index=1), chunk({"content": "b"}, index=0), chunk({}, "stop", 0), chunk({}, "length", 1)
    )
    assert body_of(run(stream)) == [TextDelta("a", 1), TextDelta("b", 0), Finish("stop", 0), Finish("length", 1)]


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, Usage(3, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
          "completion_tokens_details": {"reasoning_tokens": 1}}, Usage(9, 4, 5, 2, 1)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 8}, Usage(9, 4, 8)),
        ({"prompt_tokens": "9", "completion_tokens": None, "prompt_tokens_details": None}, Usage()),
    ],
)  # fmt: skip
def test_usage_is_read_at_every_location_and_the_last_one_applies(usage: dict[str, Any], read: Usage) -> None:
    early = {"prompt_tokens": 1, "completion_tokens": 1}
    in_choice = chunk({}, "stop")
    in_choice["choices"][0]["usage"] = usage
    for stream in (
        frames({"choices": [], "usage": None}, chunk({"content": "x"}, usage=early), chunk({}, "stop"),
               {"choices": [], "usage": usage}),
        frames(chunk({"content": "x"}, usage=early), chunk({}, "stop", usage=usage)),
        frames(chunk({"content": "x"}), chunk({}, "stop", x_groq={"usage": usage})),
        frames(chunk({"content": "x"}), in_choice),
    ):  # fmt: skip
        assert [event for event in run(stream) if isinstance(event, Usage)] == [read]


def test_the_first_chunks_of_some_have_no_choices() -> None:
    first = {"id": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": [{}]}
    assert run(frames(first, chunk({"content": "x"}), chunk({}, "stop")))[0] == Begin("chatcmpl-1", "m-1", 7)


# ---- ends


def test_an_end_with_a_finish_reason_or_with_done_is_well() -> None:
    assert run(frames(chunk({"content": "x"}), chunk({}, "stop"), done=False))[-1] == End()
    assert run(frames(chunk({"content": "x"})))[-2:] == [Finish("stop"), End()]


@pytest.mark.parametrize(
    "stream",
    [frames(), frames({"id": "x", "model": "m", "choices": []}), frames({"choices": [], "usage": {"prompt_tokens": 1}}),
     frames({"choices": None}), frames({"choices": []}, done=False), frames({"choices": [{}]}), frames({"choices": [None]}),
     frames(chunk({"role": "assistant"})), frames(chunk({"role": "assistant", "content": ""}), chunk({"content": None}))],
)  # fmt: skip
def test_a_stream_or_body_without_a_choice_is_a_failure(stream: bytes) -> None:
    for cuts in ([], list(range(len(stream)))):
        failure = run(stream, cuts)[-1]
        assert isinstance(failure, Failure)
        assert (failure.status, failure.message) == (502, "The upstream's answer is not a chat completion.")
    assert run(b'{"choices":[]}')[-1] == run(b'{"choices":[{}]}')[-1] == failure
    assert run(b'{"choices":[{"message":{"role":"assistant","content":""}}]}')[-1] == failure


@pytest.mark.parametrize("calls", [[{"id": "c", "type": "function", "function": None}], ["f"], [None], [], "f", [{"id": "c", "type": "custom", "custom": {"name": "f"}}]])
def test_calls_that_are_announced_but_cannot_be_read_are_a_failure(calls: Any) -> None:
    for body in (plain({"content": None, "tool_calls": calls}, "tool_calls"), frames(chunk({"tool_calls": calls}), chunk({}, "tool_calls"))):
        failure = run(body)[-1]
        assert isinstance(failure, Failure) and failure.code == "upstream_malformed" and "tool calls" in failure.message
    assert run(frames(chunk({"content": "x"}), chunk({}, "tool_calls")))[-2:] == [Finish("stop"), End()]


@pytest.mark.parametrize("choice", [{}, {"message": None}, {"message": []}, {"text": "x"}])
def test_a_whole_choice_without_a_message_is_a_failure(choice: dict[str, Any]) -> None:
    failure = run(json.dumps({"choices": [{"index": 0, "finish_reason": "stop", **choice}]}).encode())[-1]
    assert isinstance(failure, Failure) and failure.message == "The upstream's answer is not a chat completion."
    assert run(plain({}))[-2:] == [Finish("stop"), End()]


def test_calls_in_an_object_instead_of_a_list_are_one_call() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    for body in (plain({"tool_calls": call}, "tool_calls"), frames(chunk({"tool_calls": call}), chunk({}, "tool_calls"))):
        events = run(body)
        assert [event.name for event in events if isinstance(event, ToolStart)] == ["f"] and events[-2:] == [Finish("tool_calls"), End()]


def test_done_behind_content_is_a_clean_end_however_slowly_it_comes() -> None:
    stream = frames(chunk({"content": "x"}))
    assert all(run(stream, [cut])[-2:] == [Finish("stop"), End()] for cut in range(len(stream)))


def test_done_behind_arguments_that_are_not_whole_is_a_failure() -> None:
    calls = [{"index": 0, "id": "a", "function": {"name": "f", "arguments": part}} for part in ('{"a":', "1}")]
    cut = run(frames(chunk({"tool_calls": calls[:1]})))[-1]
    assert isinstance(cut, Failure) and "before its answer was complete" in cut.message
    assert run(frames(chunk({"tool_calls": calls[:1]}), chunk({"tool_calls": calls[1:]})))[-1] == End()


def test_an_end_with_neither_is_a_failure() -> None:
    events = run(frames(chunk({"content": "x"}), done=False))
    assert isinstance(events[-1], Failure) and events[-1].status == 502 and "before its answer" in events[-1].message
    assert events[:-1] == [BEGIN, TextDelta("x")]
    two = run(frames(chunk({"content": "x"}, "stop", 0), chunk({"content": "x"}, None, 1), done=False))
    assert isinstance(two[-1], Failure)


@pytest.mark.parametrize("tail", [b"", b"\n", b"\r", b"\r\n"])
def test_the_last_frame_may_lack_its_blank_line(tail: bytes) -> None:
    stream = frames(chunk({"content": "x"}), chunk({}, "stop"), done=False).removesuffix(b"\n\n") + tail
    assert run(stream)[-2:] == [Finish("stop"), End()]
    assert run(frames(chunk({"content": "x"}), done=False) + b"data: [DONE]" + tail)[-1] == End()


def test_a_frame_that_was_cut_is_a_failure_even_behind_a_finish_reason() -> None:
    events = run(frames(chunk({"content": "x"}), done=False) + b'data: {"choices":[{"del')
    assert isinstance(events[-1], Failure) and "in the middle" in events[-1].message


@pytest.mark.parametrize(
    ("frame", "failure"),
    [
        (b'data: {"error":{"message":"bad","type":"server_error","code":"boom"}}\n\n', Failure(502, "bad", "boom", "server_error")),
        (b'event: error\ndata: {"error":{"message":"slow","code":429}}\n\n', Failure(429, "slow", "429")),
        (b'event: error\ndata: {"message":"bad"}\n\n', Failure(502, "bad")),
        (b"event: error\ndata: it broke\n\n", Failure(502, "it broke")),
        (b'data: {"error":"bad"}\n\n', Failure(502, "bad")),
        (b'data: {"object":"error","message":"bad","type":"BadRequestError","code":400}\n\n', Failure(400, "bad", "400", "BadRequestError")),
        (b'data: [{"error":{"code":503,"message":"busy","status":"UNAVAILABLE"}}]\n\n', Failure(503, "busy", "UNAVAILABLE")),
        (b'{"error":{"message":"raw"}}\n\n', Failure(502, "raw")),
        (b'error: {"code":500,"message":"no slot","type":"server_error"}\n\n', Failure(500, "no slot", "500", "server_error")),
        (b'error: {"error":{"message":"slow","code":429}}\r\n\r\n', Failure(429, "slow", "429")),
        (b"error: out of memory\n\n", Failure(502, "out of memory")),
        (b'data: {"error":"slow","code":429}\n\n', Failure(429, "slow", "429")),
        (b'data: {"error":{"message":"slow"},"code":429}\n\n', Failure(429, "slow")),
        (b'data: {"error":"rate_limit_exceeded"}\n\n', Failure(429, "rate_limit_exceeded")),
        (b"data: <html>\n\n", Failure(502, "The upstream sent a frame that is not JSON.", "upstream_malformed")),
        (frames(chunk({}, "error"), done=False), Failure(502, "The upstream stopped its answer: error.")),
    ],
)  # fmt: skip
def test_a_fault_in_the_stream_is_a_failure_and_nothing_follows(frame: bytes, failure: Failure) -> None:
    stream = frames(chunk({"content": "x"}, usage={"prompt_tokens": 2}), done=False) + frame + frames(chunk({"content": "y"}))
    assert run(stream) == [BEGIN, TextDelta("x"), Usage(2), failure]


@pytest.mark.parametrize(
    "body",
    [b"", b"  \n", b"<html>502</html>", b"{}", b'{"choices":[]}', b"[]", b"null", b'"x"', b"7", b'{"choices":[{', b": hi\n\n",
     b"Internal Server Error", b"\xef\xbb\xbf"],
)  # fmt: skip
def test_what_is_no_answer_is_a_502(body: bytes) -> None:
    events = run(body)
    assert len(events) == 1 and isinstance(events[0], Failure) and events[0].status == 502


def test_an_error_under_200_keeps_its_message() -> None:
    assert run(b'{"error":{"message":"no","code":"quota","type":"insufficient_quota"}}') == [
        Failure(429, "no", "quota", "insufficient_quota")
    ]


def test_a_call_without_a_name_is_a_fault_not_a_loss() -> None:
    events = run(frames(chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": "{}"}}]}, "tool_calls")))
    assert isinstance(events[-1], Failure) and "without a name" in events[-1].message


def deep(levels: int) -> Any:
    return [] if not levels else {"a": deep(levels - 1)}


def failed_choice(**members: Any) -> dict[str, Any]:
    """A chunk whose choice failed, as OpenRouter sends it."""
    return {**chunk(), "choices": [{"index": 0, "delta": {"content": ""}, "message": {"content": ""}, **members}]}


RAW = json.dumps({"error": {"message": "quota of the project exceeded", "code": 429}})


@pytest.mark.parametrize(
    ("members", "failure"),
    [
        ({"error": {"code": 502, "message": "Network connection lost."}, "finish_reason": "error"}, Failure(502, "Network connection lost.", "502")),
        ({"error": {"code": 429, "message": "Provider returned error", "metadata": {"raw": RAW}}, "finish_reason": "error"},
         Failure(429, "Provider returned error: quota of the project exceeded", "429")),
        ({"error": {"code": 502, "message": "Provider returned error", "metadata": {"raw": "upstream says no"}}},
         Failure(502, "Provider returned error: upstream says no", "502")),
        ({"error": "broken", "finish_reason": "stop"}, Failure(502, "broken")),
        ({"delta": {"error": {"message": "inside"}}, "finish_reason": "stop"}, Failure(502, "inside")),
        ({"message": {"content": "x", "error": "inside"}, "delta": None}, Failure(502, "inside")),
        ({"error": {"code": 500}}, Failure(502, "The upstream reported an error.")),
        ({"finish_reason": "error", "native_finish_reason": "network_error"}, Failure(502, "The upstream stopped its answer: error (network_error).")),
        ({"finish_reason": "stop", "native_finish_reason": "MALFORMED_FUNCTION_CALL"},
         Failure(502, "The upstream stopped its answer: stop (malformed_function_call).")),
    ],
)  # fmt: skip
def test_an_error_in_a_choice_is_a_failure_with_the_providers_message(members: dict[str, Any], failure: Failure) -> None:
    assert run(frames(failed_choice(**members)))[-1] == failure
    assert run(json.dumps(failed_choice(**members)).encode())[-1] == failure


def test_the_providers_message_is_shown_for_an_error_beside_the_choices_too() -> None:
    error = {"code": 429, "message": "Provider returned error", "metadata": {"raw": RAW, "provider_name": "Google"}}
    text_message = "Provider returned error: quota of the project exceeded"
    assert run(frames({**failed_choice(finish_reason="error"), "error": error}))[-1] == Failure(429, text_message, "429")


def test_what_is_nested_as_deep_as_a_parser_goes_raises_nowhere() -> None:
    hole = b"[" * 900 + b"]" * 900
    for position in (b'"logprobs":{"content":[%s]}', b'"delta":{"content":%s}', b'"delta":{"tool_calls":[%s]}', b'"a":%s',
                  b'"delta":{"tool_calls":[{"function":{"name":"f","arguments":%s}}]}'):  # fmt: skip
        events = run(b'data: {"choices":[{"index":0,' + position % hole + b"}]}\n\ndata: [DONE]\n\n")
        lawful(events)
        if b"arguments" in position:
            assert isinstance(events[-1], Failure) and "nested" in events[-1].message
    lawful(run(b'data: {"error":{"message":{"a":' + hole + b"}}}\n\n"))
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": deep(60)}}
    assert isinstance(run(frames(chunk({"tool_calls": [call]}, "stop")))[-1], End)


def test_an_id_and_a_model_are_bounded() -> None:
    begin = run(frames({**chunk({"content": "x"}, "stop"), "id": "i" * 100_000, "model": "m" * 100_000}))[0]
    assert isinstance(begin, Begin) and len(begin.id) == len(begin.model) == 512


def test_nothing_grows_without_a_bound() -> None:
    many = [{"index": position, "id": f"c{position}", "function": {"name": "f"}} for position in range(1500)]
    assert isinstance(run(frames(chunk({"tool_calls": many})))[-1], Failure)
    choices = [{"index": position, "delta": {"content": "x"}} for position in range(500)]
    assert isinstance(run(frames({"choices": choices}))[-1], Failure)
    one = ResponseReader(ChatDecoder(), stream=True)
    piece = b"data: " + b"x" * (1 << 20)
    found: list[Event] = []
    for _ in range(EVENTS.line_bytes // (1 << 20) + 2):
        found += one.decode(piece)
    assert [type(event) for event in found] == [Failure]


# ---- one fold


WHOLE: dict[str, Any] = {
    "reasoning_content": "hm",
    "content": "Hi é",
    "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"index": 0, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ],
}


def test_a_plain_body_gives_the_events_of_a_stream() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    expected = [
        ReasoningDelta("hm"), TextDelta("Hi é"), ToolStart(0, "a", "f"), ToolDelta(0, '{"a":1}'), ToolStart(1, "b", "g"),
        ToolDelta(1, "{}"), Finish("tool_calls"), Usage(3, 4),
    ]  # fmt: skip
    assert body_of(run(plain(WHOLE, usage=usage))) == expected
    assert body_of(run(b"\xef\xbb\xbf\r\n " + plain(WHOLE, usage=usage))) == expected
    calls = [{**call, "index": position} for position, call in enumerate(WHOLE["tool_calls"])]
    stream = frames(
        chunk({"reasoning_content": "hm"}), chunk({"content": "Hi"}), chunk({"content": " é"}), chunk({"tool_calls": calls}),
        chunk({}, "tool_calls"), {"choices": [], "usage": usage},
    )  # fmt: skip
    assert joined(body_of(run(stream))) == expected


def test_calls_of_a_plain_body_are_never_joined_whatever_their_index() -> None:
    calls = [{"index": 0, "function": {"name": name, "arguments": ""}} for name in "fg"]
    assert body_of(run(plain({"tool_calls": calls}))) == [
        ToolStart(0, "call_0", "f"), ToolStart(1, "call_1", "g"), Finish("tool_calls"),
    ]  # fmt: skip


STREAM = (
    b"\xef\xbb\xbf: hello\r\n\r\nretry: 7\r\nid: 3\r\ndata:" + json.dumps(chunk({"content": "é☃"}), ensure_ascii=False).encode()
    + b"\r\n\r\nevent: ping\ndata: {\"type\":\"ping\"}\n\ndata: {\"choices\":\ndata: []}\n\n: x\n\n"
    + frames(chunk({"tool_calls": [CALL]}), chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}))
)  # fmt: skip


def test_every_cut_gives_the_same_events() -> None:
    whole = run(STREAM)
    assert joined(body_of(whole)) == [TextDelta("é☃"), ToolStart(0, "c1", "f"), ToolDelta(0, "{}"), Finish("tool_calls")]
    for cut in range(len(STREAM)):
        assert run(STREAM, [cut]) == whole, cut
    assert run(STREAM, list(range(len(STREAM)))) == whole
    body = b"\xef\xbb\xbf " + plain(WHOLE)
    for cut in range(len(body)):
        assert run(body, [cut]) == run(body), cut


PIECES = st.lists(
    st.sampled_from([
        frames(chunk({"content": "x"}), done=False), frames(chunk({"tool_calls": [CALL]}), done=False),
        frames(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}), done=False),
        frames(chunk({"tool_calls": [{"id": "z", "function": {"name": "g", "arguments": {}}}]}), done=False),
        frames(chunk({}, "stop"), done=False), frames({"choices": [], "usage": {"prompt_tokens": 1}}, done=False),
        b"data: [DONE]\n\n", b": c\n\n", b"data: {}\n\n", b'data: {"error":{"message":"e"}}\n\n', b"data: [\n\n", b"\n",
        b"event: x\n", b"data: null\n\n", b'data: {"choices":[null,{"delta":{"content":"y"}}]}\n\n', b"{", b'"',
        frames(chunk({"reasoning": "r"}, index=1), done=False),
    ]),
    max_size=10,
)  # fmt: skip


@settings(max_examples=300)
@given(PIECES.map(b"".join), st.lists(st.integers(0, 900), max_size=8))
def test_any_order_of_frames_gives_a_lawful_run_wherever_it_is_cut(stream: bytes, cuts: list[int]) -> None:
    events = run(stream)
    assert run(stream, cuts) == events
    lawful(events)


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    lawful(run(data))
    lawful(run(b"data: " + data + b"\n\n"))


def lawful(events: list[Event]) -> None:
    """Laws 1 and 2 of the canonical form."""
    assert isinstance(events[-1], End | Failure)
    assert not any(isinstance(event, End | Failure) for event in events[:-1])
    starts: dict[int, int] = {}
    finished: set[int] = set()
    for position, event in enumerate(events):
        if isinstance(event, Begin):
            assert position == 0
        if isinstance(event, ToolStart):
            assert event.name and event.id and event.index == starts.get(event.choice, 0)
            starts[event.choice] = event.index + 1
        if isinstance(event, ToolDelta):
            assert event.index < starts[event.choice] and event.arguments
        if isinstance(event, Finish):
            assert event.choice not in finished
            finished.add(event.choice)
    assert isinstance(events[-1], Failure) or finished


def test_minted_ids_differ_and_the_dialect_gives_a_reader() -> None:
    assert new_call_id() != new_call_id() and new_call_id().startswith("call_")
    assert make_reader(context(), Options(), Kept()).finish()


@pytest.mark.parametrize(
    ("received", "message"),
    [
        ({"message": "ThrottlingException: Too many tokens"}, "ThrottlingException: Too many tokens"),
        ({"modelStreamErrorException": {"message": "bad", "originalStatusCode": 500}}, "bad"),
        ({"internalServerException": {}}, "The upstream reported an error: internalServerException."),
        ({"errors": [{"message": "no more"}]}, "no more"),
        ({"detail": "Internal Server Error"}, "Internal Server Error"),
    ],
)
def test_an_error_without_the_usual_form_is_no_clean_end_of_a_response(received: dict[str, Any], message: str) -> None:
    events = run(frames(chunk({"content": "Hel"}), received))
    assert [event.message for event in events if isinstance(event, Failure)] == [message]
    assert not any(isinstance(event, End | Finish) for event in events)


def test_chunks_without_choices_after_the_finish_are_no_error() -> None:
    odd: tuple[dict[str, Any], ...] = {"type": "ping"}, {"prompt_filter_results": []}, {}
    events = run(frames(*odd, chunk({"content": "Hel"}), *odd, chunk({}, "stop"), {"message": "goodbye"}))
    assert events == [BEGIN, TextDelta("Hel"), Finish("stop"), End()]
