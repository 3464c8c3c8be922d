"""Public conformance suites against the real relayd, in front of one small model that speaks Chat Completions only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clients.probe_model import brain
from tests.clients.programs import LLMPROBE, needs, run
from tests.functional.harness.dialects.gateway import Gateway

pytestmark = pytest.mark.client
SCORE = re.compile(r"^  (models|chat|responses|messages|count-tokens|embeddings|completions) +(\d+)/(\d+) ", re.MULTILINE)


@needs("llmprobe", LLMPROBE)
def test_llmprobe_finds_nothing_amiss(running: Gateway, tmp_path: Path) -> None:
    running.backs["openai_chat"].brain = brain
    base = f"http://127.0.0.1:{running.relay.port}/v1"
    told = run([LLMPROBE, base, "-k", "none", "-m", "openai_chat", "--no-bench", "--no-save"], tmp_path, check=False).stdout
    told = re.sub(r"\x1b\[[0-9;]*m", "", told)
    running.backs["openai_chat"].refused.clear()  # it sends requests that are wrong, to see how that is told
    scores = {name: (int(passed), int(of)) for name, passed, of in SCORE.findall(told)}
    assert {"chat", "responses", "messages", "count-tokens", "embeddings"} <= scores.keys(), told[-3000:]
    failed = [line for line in told.splitlines() if line.lstrip().startswith(("✗", "→")) and ": " in line]
    assert all(passed == of for passed, of in scores.values()), "\n".join([str(scores), *failed[:40]])
    # The suite grows; what it asked of the three surfaces when this was written is the least.
    assert scores["chat"][1] >= 60 and scores["responses"][1] >= 60 and scores["messages"][1] >= 55, scores
