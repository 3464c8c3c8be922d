"""A daemon loads only what its configuration uses: libraries of optional features cost memory and time at the start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOAD = """
import sys
from relayd.cli.commands import run
from relayd.config.load import load
from relayd.plan.compile import compile_plan
compile_plan(load(sys.argv[1]).config, 1)
print(*sys.modules)
"""
AI = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {chat: {protocol: openai_chat, endpoints: ["https://llm.example.org/v1"]}}
models: {"mistral-*": chat}
routes: [{name: llm, match: {prefix: /v1/}, protocol: openai_chat, upstream: by_model}]
"""
OPTIONAL = {"dns", "httpx", "httpx2", "h2", "anyio", "acme", "josepy", "cryptography", "requests", "jwt",
            "relayd.importers"}


def loaded(path: Path) -> set[str]:
    """The modules of a daemon with this configuration, and their packages."""
    printed = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, check=True, text=True).stdout
    return set(printed.split())


def dialects(modules: set[str]) -> set[str]:
    return {name.split(".")[2] for name in modules if name.startswith("relayd.protocols.") and name.count(".") > 2}


def test_a_typical_configuration_loads_no_optional_library_and_no_other_dialect(tmp_path: Path) -> None:
    path = tmp_path / "relayd.yaml"
    path.write_text(AI)
    modules = loaded(path)
    assert not modules & OPTIONAL
    assert dialects(modules) == {"openai_chat"}


def test_the_installed_configuration_loads_no_optional_library() -> None:
    modules = loaded(Path(__file__).parents[3] / "conf" / "relayd.yaml")
    assert not modules & OPTIONAL and not dialects(modules) - {"openai_chat"}


def test_a_discovery_in_the_dns_loads_its_library_while_the_file_is_read(tmp_path: Path) -> None:
    pytest.importorskip("dns", reason="dnspython is not installed")
    path = tmp_path / "relayd.yaml"
    path.write_text(AI.replace('endpoints: ["https://llm.example.org/v1"]', "discovery: {dns: {name: llm.internal, port: 1}}"))
    assert "dns" in loaded(path)
