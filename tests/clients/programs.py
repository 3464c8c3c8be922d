"""Where the programs are that tests/clients/install.sh installs, and how they are run: nothing leaves this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("RELAYD_CLIENTS", TOP / "build" / "clients"))
HOW = "tests/clients/install.sh installs it"


def binary(name: str) -> str:
    """The path of a program of Node's packages, or one on the path; empty where there is none."""
    here = FOLDER / "node_modules" / ".bin" / name
    return str(here) if here.exists() else ""


def agent(package: str, pattern: str) -> str:
    """A native program inside a package for this platform."""
    found = sorted((FOLDER / "node_modules").glob(f"{package}/{pattern}"))
    return next((str(path) for path in found if os.access(path, os.X_OK)), "")


CODEX = os.environ.get("CODEX") or agent("@openai/codex-linux-*", "vendor/*/bin/codex")
CLAUDE = os.environ.get("CLAUDE_CODE") or agent("@anthropic-ai/claude-code-linux-*", "claude")
LLMPROBE = binary("llmprobe")
NODE = shutil.which("node") or ""


def needs(what: str, path: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not path, reason=f"no {what}: {HOW}")


def package(name: str) -> str:
    """Whether Node has a package here."""
    return NODE if (FOLDER / "node_modules" / name / "package.json").exists() else ""


def run(
    command: list[str], folder: Path, timeout_s: float = 120, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A program with a home of its own in `folder` and an environment of nothing but what is given."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "NO_COLOR": "1", **environment},
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done
