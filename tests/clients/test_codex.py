"""The Codex CLI, which speaks only the Responses API, over back-ends of every dialect: reads a file, runs a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.programs import CODEX, needs, run
from tests.functional.harness.dialects.gateway import BACKS, Gateway
from tests.functional.harness.dialects.said import Asked, Call, Fail, Reply, Say, always

pytestmark = [pytest.mark.client, needs("Codex", CODEX)]
over_each = pytest.mark.parametrize("back", BACKS)
ANSWER = Say(("The answer", " is 42."), thought="It is clear now.", usage=(900, 9, 300))
PATCH = "*** Begin Patch\n*** Add File: hello.txt\n+hällo\n*** End Patch\n"
SHELLS = {"exec_command": "cmd", "shell_command": "command", "shell": "command"}


def shell(asked: Asked, command: str, number: int) -> Call:
    name = next(name for name in SHELLS if name in asked.tools)
    value: Any = ["bash", "-lc", command] if name == "shell" else command
    return Call(f"call_sh_{number:06}", name, json.dumps({SHELLS[name]: value}, ensure_ascii=False))


def loop(asked: Asked) -> Reply:
    """Reads note.txt, writes a file by a patch or by a command, then answers."""
    if not asked.results:
        return Say(("I look.",), thought="First the file.", calls=(shell(asked, "cat note.txt", 1),), usage=(500, 30, 0))
    if "Rhabarber" in asked.results[-1][1]:
        patch = next((name for name in asked.tools if name == "apply_patch"), "")
        call = Call("call_patch_1", patch, json.dumps({"input": PATCH})) if patch else shell(asked, "printf hällo > hello.txt; echo done", 2)
        return Say((), calls=(call,), usage=(600, 30, 0))
    return ANSWER


def codex(running: Gateway, folder: Path, back: str, prompt: str, *options: str, check: bool = True) -> tuple[str, list[dict[str, Any]]]:
    """What Codex printed, and its events."""
    (folder / "home").mkdir(exist_ok=True)
    provider = '{name="relayd",base_url="http://127.0.0.1:%d/v1",env_key="RELAYD_KEY",wire_api="responses"%s}'
    more = ",request_max_retries=0,stream_max_retries=0"
    done = run(
        [
            CODEX, "exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "-m", back,
            "-c", 'model_provider="relayd"', "-c", f"model_providers.relayd={provider % (running.relay.port, more)}",
            "-c", 'web_search="disabled"', *options, prompt,
        ],
        folder, check=check, RELAYD_KEY="k", CODEX_HOME=str(folder / "home"), RUST_LOG="error",
    )  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return done.stdout + done.stderr, events


def answers(events: list[dict[str, Any]]) -> list[str]:
    items = [event["item"] for event in events if event.get("type") == "item.completed"]
    return [item["text"] for item in items if item.get("type") == "agent_message"]


@over_each
def test_a_text_answer(back: str, running: Gateway, tmp_path: Path) -> None:
    running.backs[back].brain = lambda asked: ANSWER
    told, events = codex(running, tmp_path, back, "What is the answer?")
    assert answers(events) == ["The answer is 42."], told
    usage = next(event["usage"] for event in events if event["type"] == "turn.completed")
    assert (usage["input_tokens"], usage["output_tokens"]) == (900, 9)
    if back != "ollama":
        assert usage["cached_input_tokens"] == 300


@over_each
def test_a_tool_loop_that_reads_a_file_and_writes_one(back: str, running: Gateway, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("the word is Rhabarber")
    running.backs[back].brain = loop
    told, events = codex(running, tmp_path, back, "Read note.txt, then write hello.txt.")
    assert answers(events)[-1] == "The answer is 42.", told
    assert (tmp_path / "hello.txt").read_text().strip() == "hällo", told
    sent = running.backs[back].bodies[-1].decode()
    assert "Rhabarber" in sent


@over_each
def test_two_commands_at_once(back: str, running: Gateway, tmp_path: Path) -> None:
    def brain(asked: Asked) -> Reply:
        if asked.results:
            return ANSWER
        return Say((), calls=(shell(asked, "echo left", 1), shell(asked, "echo right", 2)))

    running.backs[back].brain = brain
    told, events = codex(running, tmp_path, back, "Both.")
    assert answers(events) == ["The answer is 42."], told
    results = [text for _, text in running.backs[back].asked[-1].results]
    assert len(results) == 2 and "left" in results[0] and "right" in results[1], results


@over_each
def test_a_stream_that_breaks_is_asked_for_again(back: str, running: Gateway, tmp_path: Path) -> None:
    broken = [Say(("The ans", "wer", "never"), breaks="cut", frames={"openai_chat": 3, "anthropic_messages": 5}.get(back, 2))]
    running.backs[back].brain = lambda asked: broken.pop() if broken else ANSWER
    options = ("-c", "model_providers.relayd.stream_max_retries=2")
    told, events = codex(running, tmp_path, back, "What is the answer?", *options)
    assert answers(events)[-1] == "The answer is 42." and not broken, told


def test_what_a_back_end_refuses_is_shown_in_its_words(running: Gateway, tmp_path: Path) -> None:
    for status in (400, 422):  # of 5xx it says that demand is high
        running.backs["openai_chat"].brain = always(Fail(status))
        told, _ = codex(running, tmp_path, "openai_chat", "What is the answer?", check=False)
        assert "The flux is not aligned." in told, told
