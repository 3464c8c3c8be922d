"""What `relayd check` reports: faults of the file; keys, certificates and folders as the service's user; expiry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator

from relayd.cli.diagnosis import FAILURE, WARNING, Finding, fine, unknown
from relayd.cli.doctor.examination import Context

DENIED = "Permission denied"


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    try:
        code, text = await context.program(*command(sys.orig_argv, context.path))
        report = json.loads(text)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        yield unknown(context.path, f"relayd check gives no result: {error}", f"relayd check -c {context.path}")
        return
    findings = report["findings"]
    denied = [one for one in findings if DENIED in one["message"]]
    if denied and context.is_installed and not context.as_root:
        cause = f"this user may not read what the service reads: {denied[0]['message']}"
        yield unknown(context.path, cause, "run relayd doctor as root")
        return
    for one in findings:
        position = ":".join(str(part) for part in (one["file"], one["line"]) if part)
        cause = ": ".join(part for part in (one["path"], one["message"]) if part)
        is_error = one["level"] == "error"
        further = f"relayd check -c {context.path} explains it" if is_error else "see this key in relayd.yaml(5)"
        yield Finding(FAILURE if is_error else WARNING, position or context.path, cause, one["suggestion"] or further)
    for text in report.get("not_asked", ()):
        if text != "whether the addresses can be bound":  # the check `listeners` does
            yield unknown(context.path, text)
    if code == os.EX_OK:
        yield fine(context.path, "accepted by relayd check")


def command(argv: list[str], path: str) -> list[str]:
    """The command line of `relayd check`, with the interpreter and the relayd of this command line."""
    index = max((number for number, argument in enumerate(argv) if argument == "doctor"), default=0)
    own = argv[1:index] if index else ["-m", "relayd"]
    return [sys.executable, *own, "check", "--json", "-c", path]
