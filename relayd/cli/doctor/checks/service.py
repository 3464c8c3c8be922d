"""The systemd service: whether it runs, failed or was restarted, and its last errors in the journal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncGenerator

from relayd.cli.diagnosis import Finding, failure, fine, unknown, warning
from relayd.cli.doctor.examination import Context
from relayd.cli.output import plain
from relayd.cli.service_environment import SERVICE

BOOTED = "/run/systemd/system"  # sd_booted(3)
PROPERTIES = "LoadState,ActiveState,SubState,Result,NRestarts,UnitFileState,ExecMainStatus"
SINCE = "-1h"
SHOWN = 3
LONGEST = 300


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    unit = f"relayd@{context.arguments.instance}.service" if context.arguments.instance else SERVICE
    if not context.is_installed or not os.path.isdir(BOOTED):
        yield fine(unit, "not asked: this configuration does not belong to a service of systemd")
        return
    try:
        _, text = await context.program("systemctl", "show", unit, "-p", PROPERTIES)
        for finding in of_unit(unit, dict(line.split("=", 1) for line in text.splitlines() if "=" in line)):
            yield finding
        _, text = await context.program(
            "journalctl", "-u", unit, "-p", "err", "--since", SINCE, "-o", "cat", "-q", "-n", str(SHOWN)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield unknown(unit, f"systemd does not respond: {error}", f"systemctl status {unit}")
        return
    for line in dict.fromkeys(text.splitlines()):
        cause = f"logged an error in the last hour: {plain(line)[:LONGEST]}"
        yield warning(unit, cause, f"journalctl -u {unit} -p warning")


def of_unit(unit: str, values: dict[str, str]) -> list[Finding]:
    """The findings of the properties that systemd shows."""
    state, log = values.get("ActiveState", ""), f"journalctl -u {unit} -n 50"
    if values.get("LoadState") != "loaded":
        return [unknown(unit, "is not installed")]
    if state == "failed":
        why = f"{values.get('Result', '')}, exit status {values.get('ExecMainStatus', '')}"
        return [failure(unit, f"has failed: {why}", f"{log}; correct the cause, then: systemctl start {unit}")]
    if state not in ("active", "reloading"):
        return [warning(unit, f"is {state}", f"systemctl start {unit}; {log}")]
    found = []
    if values.get("NRestarts", "0") != "0":
        cause = f"systemd has restarted it {values['NRestarts']} times after a failure"
        found.append(warning(unit, cause, log))
    if values.get("UnitFileState") == "disabled":
        found.append(warning(unit, "does not start at the next boot", f"systemctl enable {unit}"))
    return found or [fine(unit, f"is {state} ({values.get('SubState', '')})")]
