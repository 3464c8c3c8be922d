"""Claude Code with a sub-agent and with tools of an MCP server, offered at once or behind its search for tools."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients import mcp_server
from tests.clients.programs import CLAUDE, needs
from tests.clients.test_claude_code import claude
from tests.functional.harness.dialects.gateway import BACKS, Gateway
from tests.functional.harness.dialects.said import Asked, Call, Reply, Say

pytestmark = [pytest.mark.client, needs("Claude Code", CLAUDE)]
over_each = pytest.mark.parametrize("back", BACKS)
SERVERS = json.dumps({"mcpServers": {"notes": {"command": sys.executable, "args": [mcp_server.__file__]}}})
MCP = ("--mcp-config", SERVERS, "--strict-mcp-config")
AGENTS = json.dumps({"counter": {"description": "Says the word of the day.", "prompt": "You know the word of the day."}})
READ = "mcp__notes__read_note"
DONE = Say(("It says", " Rhabarber."))


def everything(asked: Asked) -> str:
    return json.dumps(asked.body, ensure_ascii=False)


def calling(identity: str, name: str, **arguments: Any) -> Say:
    return Say((), calls=(Call(identity, name, json.dumps(arguments)),))


@over_each
def test_a_sub_agent_gets_its_task_and_its_answer_comes_back(back: str, running: Gateway, tmp_path: Path) -> None:
    def brain(asked: Asked) -> Reply:
        if "You know the word of the day." in everything(asked):
            return Say(("The word of the day", " is Rhabarber."))
        if asked.results:
            return DONE
        return calling("toolu_agent1", "Agent", description="Ask", prompt="Say the word.", subagent_type="counter", run_in_background=False)

    running.backs[back].brain = brain
    account = claude(running, tmp_path, back, "Let the counter say it.", options=("--agents", AGENTS, "--allowedTools", "Agent"))
    assert account["is_error"] is False and account["result"] == "It says Rhabarber.", account
    children = [asked for asked in running.backs[back].asked if "You know the word of the day." in everything(asked)]
    assert children and all("Say the word." in asked.prompt for asked in children)
    assert any("is Rhabarber." in text for _, text in running.backs[back].asked[-1].results)


@over_each
@pytest.mark.parametrize("search", ["false", "true"], ids=["offered", "searched"])
def test_a_tool_of_an_mcp_server_is_called(back: str, search: str, running: Gateway, tmp_path: Path) -> None:
    def brain(asked: Asked) -> Reply:
        if "says Rhabarber." in everything(asked):
            return DONE
        if READ in asked.tools:
            return calling("toolu_reads1", READ, title="a")
        if "ToolSearch" in asked.tools:
            return calling(f"toolu_search{len(asked.results)}", "ToolSearch", query=f"select:{READ}", max_results=3)
        return calling("toolu_waits1", "WaitForMcpServers")

    running.backs[back].brain = brain
    account = claude(running, tmp_path, back, "Read the note a.", options=(*MCP, "--allowedTools", READ), tool_search=search)
    assert account["is_error"] is False and account["result"] == "It says Rhabarber.", account
    assert "The note a says Rhabarber." in everything(running.backs[back].asked[-1])
    assert ("ToolSearch" in running.backs[back].asked[0].tools) is (search == "true")
