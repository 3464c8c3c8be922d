"""CONTRIBUTING.md, step by step: its blocks are applied to a copy of the tree, and what they add works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.functional.harness.message import answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Upstream, saying

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = [
    (kind, path, textwrap.dedent(text))
    for _, kind, path, text in re.findall(r"(?ms)^( *)```(diff|python) (\S+)\n(.*?)^ *```", PAGE)
]


def changed(before: str, diff: str) -> str:
    """A text with one change: lines begin with a blank, + or -; each stands once in the text as it was."""
    lines = [(line[:1] or " ", line[1:]) for line in diff.splitlines()]
    old = "".join(f"{line}\n" for sign, line in lines if sign != "+")
    assert before.count(old) == 1, f"this does not stand once in the file:\n{old}"
    return before.replace(old, "".join(f"{line}\n" for sign, line in lines if sign != "-"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("contributed")
    shutil.copytree(ROOT / "relayd", top / "relayd", ignore=shutil.ignore_patterns("__pycache__"))
    for kind, path, text in BLOCKS:
        file = top / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text if kind == "python" else changed(file.read_text(), text))
    return top


def run(tree: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=tree, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), str(ROOT)))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_a_block_for_each_step() -> None:
    assert [kind for kind, _, _ in BLOCKS] == ["diff"] * 4 + ["python"] * 2


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`?((?:relayd|tests)/[a-z_/]+(?:\.py)?)`?", PAGE))))
def test_a_file_that_the_page_names_exists(path: str) -> None:
    assert (ROOT / path).exists() or any(path == planted or path + "/" in planted for _, planted, _ in BLOCKS)


def test_what_is_added_is_in_the_manuals(tree: Path) -> None:
    page = " ".join(run(tree, "relayd", "schema", "--man").replace("\\", "").split())
    for text in ("When a client may come back", "The first available endpoint of the list", "Begin at the end of the list."):
        assert text in page
    assert "example_chat" in json.dumps(json.loads(run(tree, "relayd", "schema", "--json")))
    assert "relayd.proxy.fixed_answers" in run(tree, "tests.docs.metrics_page")


def test_what_is_added_is_at_work(tree: Path, tmp_path: Path) -> None:
    with Upstream() as one, Upstream() as two:
        one.script, two.script = saying(answer(b"one")), saying(answer(b"two"))
        config = {
            "upstreams": {
                "up": {"endpoints": [one.url, two.url], "balance": "first", "first": {"reverse": True}},
                "chat": {"endpoints": [one.url], "protocol": "openai_chat"},
            },
            "routes": [
                {"name": "fixed", "match": {"path": "/fixed"}, "respond": {"status": 503, "retry_after": "30s"}},
                {"name": "example", "match": {"prefix": "/v2/"}, "protocol": "example_chat", "upstream": "chat"},
                {"name": "all", "upstream": "up"},
            ],
        }
        with Relay(tmp_path, one.url, config, environment={"PYTHONPATH": str(tree)}) as relay, relay.client() as client:
            fixed = client.ask(request(b"/fixed"))
            assert (fixed.status, fixed.get("retry-after")) == (503, b"30")
            assert b'relayd_proxy_fixed_answers_total{route="fixed"} 1' in relay.admin("/metrics")[1]
            assert {client.ask(request(b"/")).body for _ in range(4)} == {b"two"}
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Well?"}]}).encode()
            client.ask(request(b"/v2/complete", b"Content-Type: application/json", method=b"POST", body=body))
            assert one.heads[-1].target == b"/v1/chat/completions"
