"""Claude Code, the program itself, drives the Messages dialect over loopback: text, a tool loop, failures, images.

Run by name: `pytest tests/clients/claude_code.py`. The binary is the one that CLAUDE_CODE names, or `claude` on the path
(npm package @anthropic-ai/claude-code); without it everything here is skipped. Nothing leaves the machine: the program
has a home of its own, and its other traffic is switched off.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    Image,
    ReasoningDelta,
    Request,
    Text,
    TextDelta,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Options
from relayd.protocols.openai_chat import DIALECT as CHAT
from tests.aids.memories import Forgetful
from tests.clients.messages_server import MessagesServer, Script
from tests.unit.protocols.openai_chat.strict import offences

BINARY = os.environ.get("CLAUDE_CODE") or shutil.which("claude")

pytestmark = [
    pytest.mark.client,
    pytest.mark.skipif(not BINARY, reason="no Claude Code: set CLAUDE_CODE, or npm install @anthropic-ai/claude-code"),
]

TEXT: list[Event] = [
    Begin(), ReasoningDelta("Easy."), TextDelta("The answer"), TextDelta(" is 42."), Usage(9000, 7), Finish("stop"), End(),
]  # fmt: skip
Run = Callable[..., dict[str, Any]]


def calls(name: str, *pieces: str, identity: str = "call_1") -> list[Event]:
    deltas = [ToolDelta(0, piece) for piece in pieces]
    return [Begin(), TextDelta("I look."), ToolStart(0, identity, name), *deltas, Usage(9000, 9), Finish("stop"), End()]


def results(request: Request) -> list[ToolResult]:
    return [part for message in request.messages for part in message.parts if isinstance(part, ToolResult)]


def over_chat(endpoint: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> Script:
    """Puts a strict Chat endpoint behind the server: it is given the request's body and gives the deltas of its stream."""

    def script(request: Request) -> list[Event]:
        assert CHAT.write_request and CHAT.reader
        sending = CHAT.write_request(request, Options(), Forgetful())
        wrong = offences(sending.body)
        if wrong:
            return [Failure(400, "; ".join(wrong))]
        deltas = endpoint(json.loads(sending.body))
        chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        chunks.append({"choices": [], "usage": {"prompt_tokens": 9000, "completion_tokens": 9}})
        reader = CHAT.reader(request, Options(), Forgetful())
        stream = b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"
        return reader.decode(stream) + reader.finish()

    return script


def said(result: ToolResult) -> str:
    return "".join(part.text for part in result.parts if isinstance(part, Text))


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    """Runs one prompt against a server; gives the program's own account of it."""

    def once(server: MessagesServer, prompt: str, *options: str, **more: str) -> dict[str, Any]:
        (tmp_path / "home").mkdir(exist_ok=True)
        (tmp_path / "project").mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path / "home"),
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_API_KEY": "sk-local",
            "ANTHROPIC_MODEL": "local-model",
            "ANTHROPIC_SMALL_FAST_MODEL": "local-model",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "1",
            "DISABLE_AUTOUPDATER": "1",
        } | more
        assert BINARY
        done = subprocess.run(
            [BINARY, "-p", prompt, "--output-format", "json", "--allowedTools", "Read", "Bash(echo *)", *options],
            env=environment, cwd=tmp_path / "project", stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
        )  # fmt: skip
        try:
            value: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise AssertionError(f"{done.stdout!r} {done.stderr!r}") from None
        return value

    return once


def test_a_text_answer(run: Run) -> None:
    with MessagesServer(lambda request: TEXT) as server:
        account = run(server, "What is the answer?")
    assert account["is_error"] is False and account["result"] == "The answer is 42."
    assert server.calls[0].startswith("HEAD /")
    assert server.requests[-1].stream and len(server.requests[-1].tools) > 10
    assert account["usage"]["input_tokens"] == 9000


def test_a_tool_loop_that_reads_a_file_and_runs_a_command(run: Run, tmp_path: pathlib.Path) -> None:
    (tmp_path / "project").mkdir()
    note = tmp_path / "project" / "note.txt"
    note.write_text("the word is Rhabarber", encoding="utf-8")

    def script(request: Request) -> list[Event]:
        done = results(request)
        if not done:
            return calls("Read", '{"file_path": "', str(note), '"}')
        if len(done) == 1:
            return calls("Bash", '{"command": "echo one && echo two", ', '"description": "Count"}', identity="call_2")
        return TEXT

    with MessagesServer(script) as server:
        account = run(server, "Read note.txt, then count.")
    assert account["is_error"] is False and account["result"] == "The answer is 42."
    done = results(server.requests[-1])
    assert [result.call_id for result in done] == ["call_1", "call_2"]
    assert "Rhabarber" in said(done[0]) and "one\ntwo" in said(done[1])
    assert not any(result.is_error for result in done)


def test_two_calls_whose_fragments_come_in_turns(run: Run, tmp_path: pathlib.Path) -> None:
    first: list[Event] = [
        Begin(), ToolStart(0, "a", "Bash"), ToolStart(1, "b", "Bash"), ToolDelta(0, '{"command": '),
        ToolDelta(1, '{"command": "echo'), ToolDelta(0, '"echo left"}'), ToolDelta(1, ' right"}'), Finish("stop"), End(),
    ]  # fmt: skip
    with MessagesServer(lambda request: TEXT if results(request) else first) as server:
        account = run(server, "Both.")
    assert account["result"] == "The answer is 42."
    assert sorted(said(result).strip() for result in results(server.requests[-1])) == ["left", "right"]


def test_a_back_end_that_counts_its_calls_anew_in_every_answer(run: Run) -> None:
    def script(request: Request) -> list[Event]:
        count = len(results(request))
        return TEXT if count == 2 else calls("Bash", json.dumps({"command": f"echo {count}"}), identity="call_0")

    with MessagesServer(script) as server:
        account = run(server, "Twice.")
    done = results(server.requests[-1])
    assert account["result"] == "The answer is 42."
    assert len({result.call_id for result in done}) == 2 and [said(result).strip() for result in done] == ["0", "1"]


def test_arguments_that_are_no_json_come_back_to_the_model_as_an_error(run: Run) -> None:
    with MessagesServer(lambda request: TEXT if results(request) else calls("Read", '{"file_path": ')) as server:
        account = run(server, "Read.")
    assert account["result"] == "The answer is 42."
    (result,) = results(server.requests[-1])
    assert result.is_error


def test_a_failure_in_the_middle_of_a_stream_is_asked_again_and_succeeds_plain(run: Run) -> None:
    def script(request: Request) -> list[Event]:
        if request.stream:
            return [Begin(), TextDelta("The ans"), Failure(502, "The upstream's answer was cut.")]
        return TEXT

    with MessagesServer(script) as server:
        account = run(server, "What is the answer?")
    assert account["is_error"] is False and account["result"] == "The answer is 42."
    assert [request.stream for request in server.requests][-1] is False


def test_a_failure_for_good_shows_the_upstreams_words(run: Run) -> None:
    with MessagesServer(lambda request: [Failure(400, "The flux is not aligned.")]) as server:
        account = run(server, "What is the answer?")
    assert account["is_error"] is True and "The flux is not aligned." in account["result"]


def test_an_overloaded_upstream_is_asked_again(run: Run) -> None:
    answers: list[list[Event]] = [[Failure(529, "busy", retry_after_s=1)]]

    with MessagesServer(lambda request: answers.pop() if answers else TEXT) as server:
        account = run(server, "What is the answer?")
    assert account["result"] == "The answer is 42." and len(server.requests) == 2


def test_a_refusal_is_shown_as_one(run: Run) -> None:
    refusal: list[Event] = [Begin(), TextDelta("No."), Finish("content_filter"), End()]
    with MessagesServer(lambda request: refusal) as server:
        account = run(server, "What is the answer?")
    assert "Usage Policy" in account["result"]


def test_an_answer_of_nothing_does_not_break_the_program(run: Run) -> None:
    with MessagesServer(lambda request: [Begin(), Finish("stop"), End()]) as server:
        account = run(server, "What is the answer?")
    assert account["subtype"] == "success" and account["is_error"] is False


def test_a_prompt_that_outgrew_the_context_is_known_as_such(run: Run) -> None:
    message = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens."
    overflow: list[Event] = [Failure(400, message, code="context_length_exceeded")]
    with MessagesServer(lambda request: overflow) as server:
        account = run(server, "What is the answer?")
    assert account["is_error"] is True and account["result"].lower().startswith("prompt is too long")


def test_an_image_that_a_tool_read_arrives(run: Run, tmp_path: pathlib.Path) -> None:
    (tmp_path / "project").mkdir()
    picture = tmp_path / "project" / "dot.png"
    picture.write_bytes(base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
    ))  # fmt: skip
    first = calls("Read", json.dumps({"file_path": str(picture)}))
    with MessagesServer(lambda request: TEXT if results(request) else first) as server:
        account = run(server, "What is in dot.png?")
    assert account["result"] == "The answer is 42."
    (result,) = results(server.requests[-1])
    assert any(isinstance(part, Image) and part.url.startswith("data:image/") for part in result.parts)


def test_a_tool_loop_over_a_strict_chat_endpoint(run: Run, tmp_path: pathlib.Path) -> None:
    (tmp_path / "project").mkdir()
    note = tmp_path / "project" / "note.txt"
    note.write_text("the word is Rhabarber", encoding="utf-8")
    seen: list[dict[str, Any]] = []

    def call(index: int, identity: str, name: str, *pieces: str) -> list[dict[str, Any]]:
        first = {"index": index, "id": identity, "type": "function", "function": {"name": name, "arguments": ""}}
        rest = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
        return [{"tool_calls": [one]} for one in (first, *rest)]

    def endpoint(body: dict[str, Any]) -> list[dict[str, Any]]:
        seen.append(body)
        if body["messages"][-1]["role"] != "tool" and not any(one["role"] == "tool" for one in body["messages"]):
            return [
                {"role": "assistant", "reasoning_content": "Both at once."}, {"content": "I look."},
                *call(0, "functions.Read:0", "Read", '{"file_path": ', json.dumps(str(note)) + "}"),
                *call(1, "functions.Bash:1", "Bash", '{"command": "echo one', ' && echo two"}'),
            ]  # fmt: skip
        return [{"content": "The answer"}, {"content": " is 42."}]

    with MessagesServer(over_chat(endpoint)) as server:
        account = run(server, "Read note.txt, then count.")
    assert account["is_error"] is False and account["result"] == "The answer is 42."
    results_seen = [message for message in seen[-1]["messages"] if message["role"] == "tool"]
    assert [message["tool_call_id"] for message in results_seen] == ["functions.Read:0", "functions.Bash:1"]
    assert "Rhabarber" in results_seen[0]["content"] and "one\ntwo" in results_seen[1]["content"]
    assert seen[0]["reasoning_effort"] == "high" and seen[0]["stream_options"] == {"include_usage": True}
    assert not any("billing" in str(message["content"]) for message in seen[0]["messages"][:1])
