"""No step of a translation takes long, whatever a client, an endpoint or the store holds: read, written and answered.

A turn of the event loop ends with the step during which its time has passed, so the longest step is what others wait for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from relayd.protocols import registry
from relayd.protocols.canon import Event, Request
from relayd.protocols.dialect import Options, Refused, RequestContext, run_steps
from relayd.stores.memory import Store
from relayd.wire.json_steps import Steps
from tests.aids.nasty_answers import ANSWERS, ARGUMENTS, Answer
from tests.aids.steps import MOST_UNITS, units_of
from tests.bench.nasty import calls
from tests.docs.pairs import members_of

FRONTS = ("openai_chat", "openai_responses", "anthropic_messages", "simple_chat")
BACKS = ("openai_chat", "openai_responses", "anthropic_messages", "gemini", "ollama")
PIECE_BYTES = 4096


def context(front: str, path: str = "", method: str = "POST", memory: Any = None) -> RequestContext:
    memory = memory or Store(10_000, 1 << 28, 60.0).space("x")
    return RequestContext(method, path or registry.load(front).paths[0], "", {}, "req-1", memory)


# ---- requests


@pytest.mark.parametrize("kind", ARGUMENTS)
@pytest.mark.parametrize("front", FRONTS[:3])
def test_calls_of_a_history_are_read_and_written_in_short_steps(front: str, kind: str) -> None:
    dialect = registry.load(front)
    body = calls(front, ARGUMENTS[kind](250_000), 2)
    assert dialect.read_steps is not None
    members = json.loads(body)
    large = replace(context(front), large_bytes=len(body))
    assert units_of(lambda: dialect.read_steps(json.loads(body), large)) < MOST_UNITS  # type: ignore[misc]
    request = replace(run_steps(dialect.read_steps(members, large)), large=True)
    for back in BACKS:
        write = registry.load(back).write_steps
        assert write is not None
        assert units_of(lambda: write(request, Options(), large.memory)) < MOST_UNITS, back  # noqa: B023


@pytest.mark.parametrize("back", ["anthropic_messages", "gemini", "ollama"])
def test_calls_that_would_become_millions_of_objects_are_refused(back: str) -> None:
    """Each of them is small enough: together they would take many times their size in memory."""
    dialect, write = registry.load("openai_chat"), registry.load(back).write_steps
    assert dialect.read_steps is not None and write is not None
    for text, is_refused in ((ARGUMENTS["brackets"](200_000), True), (ARGUMENTS["escapes"](200_000), False)):
        found = run_steps(dialect.read_steps(json.loads(calls("openai_chat", text, 30)), context("openai_chat")))
        steps = write(found, Options(), context("openai_chat").memory)
        if not is_refused:
            assert run_steps(steps).body
            continue
        with pytest.raises(Refused) as refused:
            run_steps(steps)
        assert refused.value.code == "too_many_values"


# ---- answers


TOOLS: dict[str, dict[str, dict[str, Any]]] = {
    "openai_chat": {"function": {"type": "function", "function": {"name": "f"}}, "custom": {"type": "custom", "custom": {"name": "f"}}},
    "openai_responses": {"function": {"type": "function", "name": "f"}, "custom": {"type": "custom", "name": "f"}},
    "anthropic_messages": {"function": {"name": "f", "input_schema": {"type": "object"}}},
    "simple_chat": {},
}
LOGPROBS: dict[str, dict[str, Any]] = {"openai_chat": {"logprobs": True}, "openai_responses": {"include": ["message.output_text.logprobs"]}}


def request(front: str, kind: str, memory: RequestContext) -> Request:
    """What the client asked, as far as an answer depends on it."""
    dialect, tools = registry.load(front), TOOLS[front]
    more = {"tools": [tools[kind]], **LOGPROBS.get(front, {})} if tools else {}
    assert dialect.read_request is not None
    return dialect.read_request(json.dumps(members_of(dialect, more)).encode(), memory)


def answering(answer: Answer, data: bytes, front: str, is_stream: bool, tool_kind: str) -> Callable[[], Steps[int]]:
    """The steps in which a filter reads and renders an answer; the result is the length of the output."""

    def steps() -> Steps[int]:
        asked, back, client = context(front), registry.load(answer.back), registry.load(front)
        made = request(front, tool_kind, asked)
        assert back.reader is not None and client.renderer is not None
        reader = back.reader(replace(made, stream=answer.kind != "json"), Options(), asked.memory)
        renderer = client.renderer(replace(made, stream=is_stream), asked)
        size = 0

        def rendered(events: list[Event]) -> Steps[None]:
            nonlocal size
            yield
            size += len(renderer.render(events))
            while renderer.has_more:
                yield
                size += len(renderer.render([]))
            yield

        for at in range(0, len(data), PIECE_BYTES):
            yield from rendered(reader.decode(data[at : at + PIECE_BYTES]))
            while reader.has_more:
                yield from rendered(reader.decode(b""))
        yield from rendered(reader.begin_finish())
        while reader.has_more:
            yield from rendered(reader.decode(b""))
        response = yield from renderer.response_steps()
        assert response.status in (200, 502)
        return size + len(response.body)

    return steps


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_read_and_rendered_in_short_steps(name: str) -> None:
    answer = ANSWERS[name]
    data = answer.make(250_000)
    for front in FRONTS:
        if front == answer.back:
            continue
        for is_stream in (False, True) if front != "simple_chat" else (False,):
            for tool_kind in ("function", "custom") if front.startswith("openai") and "call" in name else ("function",):
                steps = answering(answer, data, front, is_stream, tool_kind)
                assert units_of(steps) < MOST_UNITS, (front, is_stream, tool_kind)


# ---- stored responses


def test_a_stored_response_is_returned_listed_and_deleted_in_short_steps() -> None:
    dialect = registry.load("openai_responses")
    assert dialect.stored_steps is not None
    text = "lorem ipsum\n" * 300_000
    items: list[dict[str, Any]] = [{"type": "message", "id": f"msg_{n}", "role": "user", "content": [{"type": "input_text", "text": "x" * 2000}]} for n in range(900)]
    output = [{"type": "message", "id": "msg_o", "role": "assistant", "content": [{"type": "output_text", "text": text, "logprobs": [[]] * 50_000}]}]
    record = {"response": {"id": "resp_1", "output": output}, "items": items + output}
    memory = Store(10_000, 1 << 28, 60.0).space("x")

    def asking(path: str, method: str) -> Callable[[], Steps[Any]]:
        def steps() -> Steps[Any]:
            memory.put("response:resp_1", record)
            found = dialect.stored_steps(context("openai_responses", f"/v1/responses/resp_1{path}", method, memory))  # type: ignore[misc]
            assert found is not None
            yield
            answer = yield from found
            assert answer.status == 200
            return answer

        return steps

    for path, method in (("", "GET"), ("/input_items", "GET"), ("", "DELETE")):
        steps = asking(path, method)

        def without_put(make: Callable[[], Steps[Any]] = steps) -> Steps[Any]:
            started = make()
            next(started)
            return started

        assert units_of(without_put) < MOST_UNITS, (path, method)
    whole = run_steps(asking("", "GET")())
    assert json.loads(whole.body) == record["response"]
