"""The Codex CLI with models of its own catalogue: tools that come as an item, code mode, sub-agents, deferred MCP tools."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients import mcp_server
from tests.clients.programs import CODEX, needs
from tests.clients.test_codex import answers, codex
from tests.functional.harness.dialects.backend import Backend
from tests.functional.harness.dialects.gateway import BACKS, THERE, Gateway, gateway
from tests.functional.harness.dialects.said import Asked, Brain, Call, Reply, Say
from tests.functional.harness.relay import LIVE

pytestmark = [pytest.mark.client, needs("Codex", CODEX)]
CODE, SEARCHING = "gpt-5.6-sol", "gpt-5.5"  # one that runs tools by code only, one that searches for deferred tools
MCP = (
    "-c", f"mcp_servers.notes.command={json.dumps(sys.executable)}", "-c", f"mcp_servers.notes.args={json.dumps([mcp_server.__file__])}",
)  # fmt: skip
LEADER = "the primary agent in a team of agents"  # who spawns the others is told so
DONE = Say(("It says", " Rhabarber."))


class Over(NamedTuple):
    """A gateway whose models of Codex' catalogue are those of one back-end."""

    name: str
    gateway: Gateway

    @property
    def back(self) -> Backend:
        return self.gateway.backs[self.name]


@pytest.fixture(scope="module", params=BACKS)
def module_over(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Over]:
    name: str = request.param
    models = {model: {"upstream": name, "model": THERE[name]} for model in (CODE, SEARCHING)}
    with gateway(tmp_path_factory.mktemp("catalogue"), {"models": models}, strict=False) as running:
        yield Over(name, running)


@pytest.fixture
def over(module_over: Over) -> Iterator[Over]:
    module_over.gateway.fresh()
    yield module_over
    module_over.gateway.check()
    for relay in LIVE:
        relay.check_output()


def script(*replies: Reply) -> Brain:
    """Answers of a model, one after the other."""
    left = list(replies)
    return lambda asked: left.pop(0)


def run_code(code: str) -> Say:
    return Say(("I look.",), thought="By code.", calls=(Call("call_code_1", "functions__exec", json.dumps({"input": code})),))


def everything(asked: Asked) -> str:
    return json.dumps(asked.body, ensure_ascii=False)


def test_tools_that_come_as_an_item_run_a_command_by_code(over: Over, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("the word is Rhabarber")
    over.back.brain = script(run_code('const done = await tools.exec_command({cmd: "cat note.txt"});\ntext(done.output);'), DONE)
    told, events = codex(over.gateway, tmp_path, CODE, "Read note.txt.")
    assert answers(events)[-1] == "It says Rhabarber.", told
    first, second = over.back.asked
    assert "functions__exec" in first.tools and second.tools == first.tools
    assert [text for _, text in second.results if "the word is Rhabarber" in text], second.results


def test_a_sub_agent_gets_its_task_and_its_answer_comes_back(over: Over, tmp_path: Path) -> None:
    """The task reaches the child as an agent_message, and the child's answer reaches the parent as one."""
    spawn = {"task_name": "counter", "message": "Say the word of the day.", "fork_turns": "none"}

    def brain(asked: Asked) -> Reply:
        if LEADER not in everything(asked):
            return Say(("The word of the day", " is Rhabarber."))
        if "is Rhabarber." in everything(asked):
            return DONE
        if "/counter" in everything(asked):
            return Say((), calls=(Call("call_wait_1", "collaboration__wait_agent", json.dumps({"timeout_ms": 60_000})),))
        return Say((), calls=(Call("call_spawn_1", "collaboration__spawn_agent", json.dumps(spawn)),))

    over.back.brain = brain
    told, events = codex(over.gateway, tmp_path, CODE, "Let a sub-agent say it.", "-c", "features.multi_agent_v2=true")
    assert answers(events)[-1] == "It says Rhabarber.", told
    children = [asked for asked in over.back.asked if LEADER not in everything(asked)]
    assert len(children) == 1 and spawn["message"] in everything(children[0])


def test_an_mcp_tool_is_called_by_code(over: Over, tmp_path: Path) -> None:
    over.back.brain = script(run_code('text(await tools.mcp__notes__read_note({title: "a"}));'), DONE)
    told, events = codex(over.gateway, tmp_path, CODE, "Read the note a.", *MCP)
    assert answers(events)[-1] == "It says Rhabarber.", told
    assert "The note a says Rhabarber." in everything(over.back.asked[-1])


def test_an_mcp_tool_is_found_by_a_search_and_called(over: Over, tmp_path: Path) -> None:
    search = Say((), calls=(Call("call_search_1", "tool_search", json.dumps({"query": "read a note"})),))
    read = Say((), calls=(Call("call_read_01", "mcp__notes__read_note", json.dumps({"title": "a"})),))
    over.back.brain = script(search, read, DONE)
    told, events = codex(over.gateway, tmp_path, SEARCHING, "Read the note a.", *MCP)
    assert answers(events)[-1] == "It says Rhabarber.", told
    first, second, third = over.back.asked
    assert "tool_search" in first.tools and "mcp__notes__read_note" not in first.tools
    assert "mcp__notes__read_note" in second.tools
    assert any("The note a says Rhabarber." in text for _, text in third.results), third.results
