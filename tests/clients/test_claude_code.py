"""Claude Code, which speaks the Messages API, over back-ends of every dialect: reads a file, runs a command, answers.

What it does with odd answers of every kind is in claude_code.py, which drives the dialect's halves without relayd.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.programs import CLAUDE, needs, run
from tests.functional.harness.dialects.gateway import BACKS, Gateway
from tests.functional.harness.dialects.said import Asked, Call, Fail, Reply, Say

pytestmark = [pytest.mark.client, needs("Claude Code", CLAUDE)]
over_each = pytest.mark.parametrize("back", BACKS)
ANSWER = Say(("The answer", " is 42."), thought="It is clear now.", usage=(9000, 9, 300))
CUT = {"openai_chat": 3, "openai_responses": 3, "anthropic_messages": 5, "gemini": 2, "ollama": 2}


TOOLS = ("--allowedTools", "Read", "Bash(echo *)")


def claude(
    running: Gateway, folder: Path, back: str, prompt: str, options: tuple[str, ...] = TOOLS, tool_search: str = "false"
) -> dict[str, Any]:
    """The program's own account of one prompt."""
    done = run(
        [CLAUDE, "-p", prompt, "--output-format", "json", *options], folder, check=False,
        ANTHROPIC_BASE_URL=f"http://127.0.0.1:{running.relay.port}", ANTHROPIC_API_KEY="sk-local", ANTHROPIC_MODEL=back,
        ANTHROPIC_SMALL_FAST_MODEL=back, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1", CLAUDE_CODE_MAX_RETRIES="1",
        DISABLE_AUTOUPDATER="1", ENABLE_TOOL_SEARCH=tool_search,
    )  # fmt: skip
    try:
        value: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise AssertionError(f"{done.stdout!r} {done.stderr!r}") from None
    return value


@over_each
def test_a_text_answer(back: str, running: Gateway, tmp_path: Path) -> None:
    running.backs[back].brain = lambda asked: ANSWER
    account = claude(running, tmp_path, back, "What is the answer?")
    assert account["is_error"] is False and account["result"] == "The answer is 42.", account
    if back != "ollama":  # which tells no cached tokens
        assert account["usage"]["cache_read_input_tokens"] == 300 and account["usage"]["input_tokens"] == 8700
    asked = running.backs[back].asked[-1]
    assert asked.stream and len(asked.tools) > 10


@over_each
def test_a_tool_loop_that_reads_a_file_and_runs_a_command(back: str, running: Gateway, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("the word is Rhabarber")

    def brain(asked: Asked) -> Reply:
        if not asked.results:
            return Say(("I look.",), thought="First the file.", calls=(Call("toolu_reads1", "Read", json.dumps({"file_path": str(note)})),))
        if "Rhabarber" in asked.results[-1][1]:
            count = json.dumps({"command": "echo one && echo two", "description": "Count"})
            return Say((), calls=(Call("toolu_counts1", "Bash", count), Call("toolu_counts2", "Bash", count)))
        return ANSWER

    running.backs[back].brain = brain
    account = claude(running, tmp_path, back, "Read note.txt, then count.")
    assert account["is_error"] is False and account["result"] == "The answer is 42.", account
    results = [text for _, text in running.backs[back].asked[-1].results]
    assert len(results) >= 2 and all("one\ntwo" in text for text in results[-2:]), results


@over_each
def test_a_stream_that_breaks_is_asked_again_and_succeeds(back: str, running: Gateway, tmp_path: Path) -> None:
    broken = [Say(("The ans", "wer", "never"), breaks="cut", frames=CUT[back])]
    running.backs[back].brain = lambda asked: broken.pop() if broken and asked.stream else ANSWER
    account = claude(running, tmp_path, back, "What is the answer?")
    assert account["is_error"] is False and account["result"] == "The answer is 42." and not broken, account


@over_each
def test_what_a_back_end_refuses_is_shown_in_its_words(back: str, running: Gateway, tmp_path: Path) -> None:
    running.backs[back].brain = lambda asked: Fail(400, "The flux is not aligned.")
    account = claude(running, tmp_path, back, "What is the answer?")
    assert account["is_error"] is True and "The flux is not aligned." in account["result"], account


def test_a_busy_back_end_is_asked_again(running: Gateway, tmp_path: Path) -> None:
    busy = [Fail(429, "Slow down.", fields=(b"Retry-After: 1",))]
    running.backs["openai_chat"].brain = lambda asked: busy.pop() if busy else ANSWER
    account = claude(running, tmp_path, "openai_chat", "What is the answer?")
    assert account["result"] == "The answer is 42." and not busy, account
