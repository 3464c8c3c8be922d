"""Contexts for the tests of the checks: a configuration as given, and a running relayd if a test has one."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from relayd.cli.diagnosis import Finding
from relayd.cli.doctor.examination import Context
from relayd.config.load import load
from tests.aids.ports import free_port

STATUS: dict[str, Any] = {
    "version": "", "pid": 1, "phase": "serving", "generation": 4, "refused": None, "loop": {"lag_ms": 0.1, "worst_ms": 3},
    "overload": {"active": False, "share": 0.0, "why": ""}, "request_buffers": {"waiting": 0}, "listeners": [],
}


def written(folder: Path, **change: Any) -> str:
    """A configuration file; `change` replaces its sections."""
    file = folder / "relayd.yaml"
    file.write_text(json.dumps({
        "listeners": {"public": {"address": f"127.0.0.1:{free_port()}"}}, "upstreams": {"up": {"endpoints": ["http://127.0.0.1:1"]}},
        "routes": [{"name": "all", "upstream": "up"}], "admin": {"address": f"unix:{folder}/admin.sock"}, **change,
    }))
    file.chmod(0o640)
    return str(file)


def context_of(path: str, *, socket: str = "", loaded: bool = True, **more: Any) -> Context:
    arguments = argparse.Namespace(config=path, instance=None, socket=socket or None)
    return Context(path, arguments, load(path) if loaded else None, **more)


def findings(check: ModuleType, context: Context) -> list[Finding]:
    """Everything that a check finds."""

    async def collected() -> list[Finding]:
        return [one async for one in check.run(context)]

    return asyncio.run(collected())


def only(found: list[Finding], text: str) -> Finding:
    """The finding whose subject or cause has this text."""
    (one,) = [finding for finding in found if text in f"{finding.subject} {finding.cause}"]
    return one


