"""SDKs for Node (openai, Vercel ai with three of its providers) drive relayd over back-ends of every dialect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.programs import FOLDER, NODE, needs, package, run
from tests.functional.harness.dialects.gateway import BACKS, Gateway
from tests.functional.harness.dialects.said import Asked, Fail, Reply, Say, always, small_model

pytestmark = pytest.mark.client
SCRIPT = Path(__file__).with_name("sdks.mjs")
TEXT = "It is rain in Köln and rain in Bern."
PROVIDERS = {"chat": "@ai-sdk/openai", "responses": "@ai-sdk/openai", "anthropic": "@ai-sdk/anthropic", "compatible": "@ai-sdk/openai-compatible"}
each_provider = pytest.mark.parametrize("provider", PROVIDERS)
over_each = pytest.mark.parametrize("back", BACKS)
CUT = {"openai_chat": 3, "openai_responses": 3, "anthropic_messages": 5, "gemini": 2, "ollama": 2}


def heard(running: Gateway, folder: Path, back: str, case: str) -> dict[str, Any]:
    command = [NODE, str(SCRIPT), f"http://127.0.0.1:{running.relay.port}", back, case]
    told: dict[str, Any] = json.loads(run(command, folder, CLIENTS=str(FOLDER)).stdout.splitlines()[-1])
    return told


@needs("openai for Node", package("openai"))
@over_each
@pytest.mark.parametrize("way", ["plain", "stream"])
def test_openai_tool_loops(back: str, way: str, running: Gateway, tmp_path: Path) -> None:
    assert heard(running, tmp_path, back, f"openai-{way}") == {"text": TEXT, "response": TEXT}


@needs("Vercel ai", package("ai"))
@over_each
@each_provider
def test_vercel_tool_loops(provider: str, back: str, running: Gateway, tmp_path: Path) -> None:
    told = heard(running, tmp_path, back, f"{provider}-plain")
    assert (told.get("text"), told.get("steps"), told.get("finish")) == (TEXT, 2, "stop"), told
    told = heard(running, tmp_path, back, f"{provider}-stream")
    assert (told.get("text"), told.get("steps"), told.get("finish")) == (TEXT, 2, "stop"), told
    assert told["parts"] == "Let me see." + TEXT


@needs("Vercel ai", package("ai"))
@each_provider
def test_vercel_structured_output(provider: str, running: Gateway, tmp_path: Path) -> None:
    def brain(asked: Asked) -> Reply:
        return Say(('{"name": "Ada", ', '"age": 36}')) if '"age"' in json.dumps(asked.body) else small_model(asked)

    running.backs["openai_chat"].brain = brain
    told = heard(running, tmp_path, "openai_chat", f"{provider}-object")
    assert told == {"name": "Ada", "age": 36}, told


@needs("Vercel ai", package("ai"))
@each_provider
def test_vercel_is_told_what_failed(provider: str, running: Gateway, tmp_path: Path) -> None:
    for back in ("openai_chat", "gemini"):
        running.backs[back].brain = lambda asked: Fail(400, "The flux is not aligned.")
        for way in ("plain", "stream"):
            assert "The flux is not aligned." in heard(running, tmp_path, back, f"{provider}-{way}")["failures"][0]
        running.backs[back].brain = always(Say(("Half a", " sentence", "never"), breaks="cut", frames=CUT[back]))
        told = heard(running, tmp_path, back, f"{provider}-stream")
        assert told.get("failures") and told["parts"] == "Half a sentence", told
