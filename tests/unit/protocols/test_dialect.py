"""The contract of all dialects: whatever file of relayd.protocols defines DIALECT is held to it.

Requests: what a client's dialect has words for reaches every endpoint's dialect, or is refused by a field's name, or is
a loss that the manual's drops name. Answers: the same events give every client the same, streamed and plain.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.protocols import registry
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    Request,
    TextDelta,
    ToolDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Dialect, EncodedResponse, Options, Refused
from relayd.wire.body import model_of, pop_parsed_object
from relayd.wire.sse import SseSplitter
from relayd.wire.tool_list_cache import CachedList
from tests.aids.memories import Forgetful
from tests.docs import pairs as _pairs
from tests.docs.samples import ANSWERS, PLAIN, REQUESTS, Answered, Sample

FRONTS, BACKS = _pairs.fronts(), _pairs.backs()
name_of = lambda one: one.name  # noqa: E731  the id of a parameter

front_and_back = pytest.mark.parametrize(
    ("front", "back"),
    [pytest.param(front, back, id=f"{front.name}-{back.name}") for front in FRONTS for back in BACKS],
)
any_front = pytest.mark.parametrize("front", FRONTS, ids=name_of)
FUNCTIONS = next(one for one in REQUESTS if one.what == "functions")
any_front_with_tools = pytest.mark.parametrize(
    "front", [front for front in FRONTS if _pairs.words_of(front, FUNCTIONS) is not None], ids=name_of
)
any_back = pytest.mark.parametrize("back", BACKS, ids=name_of)
any_dialect = pytest.mark.parametrize("dialect", registry.dialects(), ids=name_of)


def test_all_dialects_are_tested_here() -> None:
    assert {one.name for one in registry.dialects()} == set(registry.names())
    assert {one.name for one in BACKS} == {"openai_chat", "openai_responses", "anthropic_messages", "gemini", "ollama"}


@any_dialect
def test_a_dialect_has_complete_halves_and_documents_its_drops(dialect: Dialect) -> None:
    assert dialect.name and dialect.drops and all(text.endswith(".") for text in dialect.drops)
    assert (dialect.read_request is None) == (dialect.renderer is None)
    assert (dialect.write_request is None) == (dialect.reader is None)
    assert bool(dialect.paths) == (dialect.read_request is not None)
    assert all(path.startswith("/") for path in dialect.paths)


@pytest.mark.parametrize(("name", "begins"), [
    ("openai_chat", b"data: {"), ("anthropic_messages", b"event: error\ndata: {"), ("gemini", b"data: {"),
    ("openai_responses", b"event: error\ndata: {"), ("ollama", b"{"),
])
def test_an_error_inside_a_stream_is_a_frame_of_its_dialect(name: str, begins: bytes) -> None:
    frame = registry.load(name).error_frame(Failure(502, "it was cut", code="upstream_cut"), "id-1")
    assert frame.startswith(begins) and frame.endswith(b"\n")
    received = json.loads(frame[frame.index(b"{") :])
    assert "it was cut" in json.dumps(received)
    if name == "openai_responses":
        assert received["type"] == "error" and received["error"]["code"] == "upstream_cut"


# ---- requests


CROSSED = [
    pytest.param(front, back, sample, id=f"{front.name}-{back.name}-{sample.what}")
    for front in FRONTS for back in BACKS for sample in REQUESTS if _pairs.words_of(front, sample) is not None
]  # fmt: skip


@pytest.mark.parametrize(("front", "back", "sample"), CROSSED)
def test_each_part_of_a_request_is_translated_or_refused_by_name_or_its_loss_is_documented(
    front: Dialect, back: Dialect, sample: Sample
) -> None:
    found = _pairs.found(front, back, sample)
    if found.fate == _pairs.REFUSED:
        assert found.param
    elif found.fate in (_pairs.DROPPED, _pairs.REWORDED):
        assert found.documented, f"{sample.what} is lost, and no drop of {front.name} or {back.name} says so"


# What no pair of these may ever lose.
ALWAYS = (
    "instructions", "earlier answers", "functions", "calls and results of the history", "calls forbidden",
    "limit of the answer", "temperature", "top_p", "answers by a schema", "refusals of the history", "custom tools",
)  # fmt: skip


@front_and_back
def test_the_heart_of_a_request_reaches_every_endpoint(front: Dialect, back: Dialect) -> None:
    for sample in REQUESTS:
        if sample.what in ALWAYS and _pairs.words_of(front, sample) is not None:
            if front.name == "simple_chat" and _pairs.found(front, back, sample).param == "tools":
                continue
            assert _pairs.found(front, back, sample).fate == _pairs.CARRIED, sample.what


@front_and_back
def test_a_plain_request_is_translated_over_every_pair(front: Dialect, back: Dialect) -> None:
    sent = _pairs.send(front, back, {}, Options())
    assert sent.path.startswith("/") and b"Well?" in sent.body and isinstance(json.loads(sent.body), dict)
    assert all(name.islower() or name.istitle() for name, _ in sent.headers)


@front_and_back
def test_writing_a_request_twice_gives_the_same_bytes(front: Dialect, back: Dialect) -> None:
    """A prefix cache of an endpoint lives from that."""
    for sample in REQUESTS:
        asked = _pairs.words_of(front, sample)
        if asked is not None and _pairs.found(front, back, sample).fate != _pairs.REFUSED:
            assert _pairs.send(front, back, asked, Options()) == _pairs.send(front, back, asked, Options())


def padded(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members with tools as long as those of agents, so that they are known again."""
    def longer(tool: dict[str, Any]) -> dict[str, Any]:
        inner = tool.get("function") or tool.get("custom") or tool
        inner["description"] = "What it is for. " * 200
        return tool

    return {**members, "tools": [longer(tool) for tool in copy.deepcopy(members["tools"])]}


@front_and_back
def test_tools_that_come_with_every_turn_are_sent_on_as_those_that_come_once(front: Dialect, back: Dialect) -> None:
    for sample in REQUESTS:
        asked = _pairs.words_of(front, sample)
        if asked is None or not asked.get("tools") or _pairs.found(front, back, sample).fate == _pairs.REFUSED:
            continue
        members = _pairs.members_of(front, padded(asked))
        memoised = _pairs.send_body(front, back, json.dumps(members).encode(), Options())
        for _ in range(3):
            body = json.dumps(members).encode()
            assert model_of(body) is not None  # as the data path does, before it reads the request
            assert _pairs.send_body(front, back, body, Options()) == memoised
        body = json.dumps(members).encode()
        model_of(body)
        taken = pop_parsed_object(body)
        assert taken is not None and isinstance(taken["tools"], CachedList)
        assert taken["tools"] == members["tools"], "somebody has changed what is shared"


@any_front_with_tools
def test_tools_that_are_refused_once_are_refused_every_time(front: Dialect) -> None:
    assert front.read_request is not None
    wrong = {"type": "function", "name": 7, "function": {"name": 7}, "input_schema": {}, "description": "x" * 3000}
    members = _pairs.members_of(front, {"tools": [wrong]})
    received = set()
    for _ in range(3):
        body = json.dumps(members).encode()
        model_of(body)
        with pytest.raises(Refused) as caught:
            front.read_request(body, _pairs.ask_in(front))
        received.add((caught.value.message, caught.value.param))
    assert len(received) == 1


HOSTILE_BODIES = {
    "nothing": b"", "no json": b"{", "no object": b"[]", "no utf-8": b'{"model":"\xff"}', "a number": b"7",
    "nested": b'{"model":"m","messages":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "nested deeper": b"[" * 200_000, "nan": b'{"model":"m","temperature":NaN}',
    "a huge number": b'{"model":"m","max_tokens":' + b"9" * 10_000 + b"}",
}  # fmt: skip


@any_front
@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
def test_a_hostile_body_is_refused_and_nothing_else(front: Dialect, body: bytes) -> None:
    assert front.read_request is not None
    with pytest.raises(Refused) as caught:
        front.read_request(body, _pairs.ask_in(front))
    assert caught.value.message and 400 <= caught.value.status < 500


@any_front
def test_members_of_every_wrong_type_are_refused_by_name_or_read_past(front: Dialect) -> None:
    assert front.read_request is not None
    names = {name for sample in REQUESTS for name in (_pairs.words_of(front, sample) or {})} | set(PLAIN[front.name])
    wrongs: tuple[Any, ...] = (7, -1.5, "x", "", True, [], {}, [7], [[]], [{}], {"type": 7}, None)
    for name, wrong in itertools.product(sorted(names), wrongs):
        try:
            front.read_request(json.dumps(_pairs.members_of(front, {name: wrong})).encode(), _pairs.ask_in(front))
        except Refused as refused:
            assert refused.param, (name, wrong, refused.message)


@any_front_with_tools
def test_thousands_of_tools_are_refused_by_name(front: Dialect) -> None:
    many = _pairs.words_of(front, FUNCTIONS)
    assert front.read_request is not None and many is not None
    text = json.dumps(many["tools"][0])
    tools = [json.loads(text.replace("look_up_7", f"look_up_{number}")) for number in range(5000)]
    with pytest.raises(Refused) as caught:
        front.read_request(json.dumps(_pairs.members_of(front, {"tools": tools})).encode(), _pairs.ask_in(front))
    assert caught.value.param == "tools"


# ---- answers


ANSWERED = [
    pytest.param(front, answered, stream, id=f"{front.name}-{answered.what}-{'stream' if stream else 'plain'}")
    for front in FRONTS for answered in ANSWERS for stream in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("front", "answered", "stream"), ANSWERED)
def test_each_part_of_a_response_is_rendered_or_its_loss_is_documented(front: Dialect, answered: Answered, stream: bool) -> None:
    found = _pairs.shown(front, answered, stream)
    assert found.fate == _pairs.CARRIED or found.documented


@any_front
@pytest.mark.parametrize("answered", ANSWERS, ids=lambda one: one.what)
def test_a_stream_and_a_plain_response_have_the_same_content(front: Dialect, answered: Answered) -> None:
    assert _pairs.shown(front, answered, True).fate == _pairs.shown(front, answered, False).fate


# ---- errors


STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 415, 422, 429, 499, 500, 501, 502, 503, 504, 529, 599, 200, 0, 302)


@any_dialect
@pytest.mark.parametrize("status", STATUSES)
def test_an_error_of_any_status_is_rendered_as_one(dialect: Dialect, status: int) -> None:
    failure = Failure(status, "Über den Rand <7>", code="some_code", type="some_type", param="model", retry_after_s=2.5)
    rendered = dialect.render_error(failure, "req-7")
    assert isinstance(rendered, EncodedResponse)
    if dialect.name == "dialogflow" and status == 504:
        assert rendered.status == 200  # a spoken apology: Dialogflow shows no errors
        return
    assert 400 <= rendered.status <= 599 and (rendered.status == status or not 400 <= status <= 599 or status == 529)
    assert "Über den Rand <7>" in json.dumps(json.loads(rendered.body), ensure_ascii=False)
    assert rendered.content_type.startswith("application/json")
    assert ("Retry-After", "3") in rendered.headers


ERROR_BODIES: tuple[tuple[str, bytes], ...] = (
    ("openai", b'{"error":{"message":"No 7.","type":"t","code":"c","param":null}}'),
    ("anthropic", b'{"type":"error","error":{"type":"overloaded_error","message":"No 7."}}'),
    ("google", b'[{"error":{"code":429,"message":"No 7.","status":"RESOURCE_EXHAUSTED","details":[{"@type":'
     b'"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"9s"}]}}]'),
    ("ollama", b'{"error":"No 7."}'),
    ("fastapi", b'{"detail":[{"loc":["body"],"msg":"No 7.","type":"missing"}]}'),
    ("html", b"<html><body>Bad gateway</body></html>"),
    ("empty", b""),
    ("not utf-8", b"\xff\xfe\x00"),
    ("a list", b"[[[[]]]]"), ("a number", b"7"), ("null", b"null"), ("odd", b'{"error":{"message":{"a":[1]},"code":{}}}'),
    ("deep", b'{"error":' + b"[" * 3000 + b"]" * 3000 + b"}"),
    ("long", b'{"error":{"message":"' + b"x" * 2_000_000 + b'"}}'),
)  # fmt: skip


@any_dialect
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 502, 503, 529])
@pytest.mark.parametrize("body", [body for _, body in ERROR_BODIES], ids=[name for name, _ in ERROR_BODIES])
def test_an_endpoints_error_is_read_whatever_it_looks_like(dialect: Dialect, status: int, body: bytes) -> None:
    failure = dialect.read_error(status, {"retry-after": "9", "content-type": "text/html"}, body)
    assert isinstance(failure, Failure) and failure.message and len(failure.message) < 100_000
    assert 400 <= failure.status <= 599 and failure.retry_after_s == 9
    assert "<" not in failure.message
    if b"No 7." in body:
        assert "No 7." in failure.message
    rendered = dialect.render_error(failure, "req-7")
    assert rendered.body and rendered.status >= 400


@front_and_back
def test_an_endpoints_message_reaches_the_client_of_every_dialect(front: Dialect, back: Dialect) -> None:
    body = b'{"error":"No 7."}' if back.name == "ollama" else b'{"error":{"message":"No 7."}}'
    rendered = front.render_error(back.read_error(429, {"retry-after": "9"}, body), "req-7")
    assert rendered.status == 429 and b"No 7." in rendered.body and ("Retry-After", "9") in rendered.headers


# ---- renderers


def made(front: Dialect, stream: bool) -> tuple[Any, Request]:
    assert front.read_request is not None and front.renderer is not None
    context = _pairs.ask_in(front)
    request = front.read_request(json.dumps(_pairs.members_of(front, {"stream": stream})).encode(), context)
    return front.renderer(request, context), request


@any_front
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_nothing_follows_the_end(front: Dialect, stream: bool) -> None:
    for last in (End(), Failure(502, "broken 7")):
        renderer, _ = made(front, stream)
        renderer.render([TextDelta("one"), last])
        whole = renderer.response()
        assert renderer.render([TextDelta("afterwards"), Failure(500, "afterwards"), End()]) == b""
        assert b"afterwards" not in renderer.response().body and renderer.response().status == whole.status


@any_front
def test_a_plain_answer_that_never_ended_is_no_answer(front: Dialect) -> None:
    renderer, _ = made(front, False)
    renderer.render([TextDelta("half")])
    assert renderer.keepalive() == b"" and renderer.response().status == 502


@any_front
def test_a_failure_of_a_plain_response_keeps_its_status_and_message(front: Dialect) -> None:
    renderer, _ = made(front, False)
    renderer.render([TextDelta("half"), Failure(429, "Slow down 7.", retry_after_s=7)])
    rendered = renderer.response()
    assert rendered.status == 429 and b"Slow down 7." in rendered.body and ("Retry-After", "7") in rendered.headers


STREAMING = [front for front in FRONTS if made(front, True)[1].stream]


@pytest.mark.parametrize("front", STREAMING, ids=name_of)
def test_a_failure_in_a_stream_keeps_its_message_and_sends_no_end_marker(front: Dialect) -> None:
    renderer, _ = made(front, True)
    sent = renderer.render([TextDelta("half"), Failure(429, "Slow down 7.")])
    assert b"Slow down 7." in sent and b"half" in sent
    assert b"message_stop" not in sent and b"response.completed" not in sent and b'"finish_reason":"' not in sent
    assert renderer.keepalive() == b"" or renderer.keepalive().endswith(b"\n\n")


SOME = st.text(max_size=4) | st.sampled_from(["{", "}", '{"a":1}', '"', "\\", "\ud83c", "\x00", "data: x\n\n"])
EVENTS = st.one_of(
    st.builds(Begin, SOME, SOME, st.integers(0, 9)),
    st.builds(TextDelta, SOME, st.integers(0, 1), st.none() | st.just(({"token": "x", "logprob": -1.0},))),
    st.builds(RefusalDelta, SOME, st.integers(0, 1)),
    st.builds(ReasoningDelta, SOME, st.integers(0, 1), st.none() | SOME, st.none() | SOME),
    st.builds(ToolStart, st.integers(0, 2), st.just("call_a") | SOME, st.just("f") | SOME, st.integers(0, 1)),
    st.builds(ToolDelta, st.integers(0, 2), SOME, st.integers(0, 1)),
    st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 99)),
    st.builds(Finish, st.sampled_from(["stop", "length", "tool_calls", "content_filter"]), st.integers(0, 1), st.none() | SOME),
    st.builds(End),
    st.builds(Failure, st.sampled_from([0, 400, 429, 502, 999]), SOME, SOME, SOME, st.none() | SOME, st.none() | st.just(1.5)),
)


@any_front
@settings(max_examples=150, deadline=None)
@given(events=st.lists(EVENTS, max_size=14), stream=st.booleans(), cuts=st.lists(st.integers(1, 4), max_size=14))
def test_any_run_of_events_gives_whole_frames_and_a_whole_answer(
    front: Dialect, events: list[Event], stream: bool, cuts: list[int]
) -> None:
    """Also such runs as no reader of the house gives."""
    renderer, request = made(front, stream)
    sent, left = b"", list(events)
    for size in [*cuts, len(events)]:
        sent += renderer.render(left[:size])
        del left[:size]
    assert renderer.keepalive() == b"" or renderer.keepalive().endswith(b"\n\n")
    rendered = renderer.response()
    assert 200 <= rendered.status <= 599
    if request.stream:
        splitter = SseSplitter()
        for frame in splitter.feed(sent):
            assert frame.data is not None and (frame.data == b"[DONE]" or isinstance(json.loads(frame.data), dict))
        assert splitter.rest == b""
    else:
        assert sent == b"" and isinstance(json.loads(rendered.body), dict)
        ended = [event for event in events if isinstance(event, End | Failure)]
        if not ended or isinstance(ended[0], Failure):
            assert rendered.status >= 400 or front.name == "dialogflow"


@any_back
def test_a_writer_refuses_what_it_cannot_carry_and_raises_nothing_else(back: Dialect) -> None:
    assert back.write_request is not None
    from_chat = next(one for one in FRONTS if one.name == "openai_chat")
    assert from_chat.read_request is not None
    for arguments in ("{", "7", "[]", '{"a":' + "[" * 900 + "]" * 900 + "}", "NaN", '"\\ud800"', ""):
        call = {"id": "call_a7", "type": "function", "function": {"name": "f", "arguments": arguments}}
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "call_a7", "content": "\ud800"}]  # fmt: skip
        request = from_chat.read_request(json.dumps({"model": "m", "messages": messages}).encode(), _pairs.ask_in(from_chat))
        try:
            sent = back.write_request(replace(request, model="m"), Options(), Forgetful())
        except Refused as refused:
            assert refused.param
        else:
            json.loads(sent.body)
