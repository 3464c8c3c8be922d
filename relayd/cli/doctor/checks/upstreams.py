"""Every endpoint, as `relayd probe` asks it: discovery, DNS, connection, TLS, certificate, response, keys, models.

Compares the clock with that of the endpoints, too. Runs each `discovery` once, sends one GET request to each endpoint,
never a prompt, and one for each further key of an upstream.
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncGenerator
from email.utils import parsedate_to_datetime

from relayd import clock
from relayd.cli.diagnosis import Finding, diagnose, fine, warning
from relayd.cli.doctor.examination import Context
from relayd.cli.upstream_inspection import inspections, specs_of

NEEDS_CONFIGURATION = True
INSPECTION_S = 10.0
SKEW_S = 60.0


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    specs = specs_of(context.config)
    skews_s = []
    async for one in inspections(specs, min(INSPECTION_S, context.timeout_s / 2)):
        for finding in diagnose(one.spec, one.found):
            yield finding
        if one.found.date and (skew_s := skew_of(one.found.date)) is not None:
            skews_s.append(skew_s)
    median_s = statistics.median(skews_s) if skews_s else 0.0
    if abs(median_s) > SKEW_S:
        side = "behind" if median_s > 0 else "ahead of"
        cause = f"this machine is {abs(median_s):.0f} s {side} the Date of its endpoints"
        yield warning("clock", cause, "synchronise the clock: timedatectl set-ntp true")
    if not specs:
        yield fine("upstreams", "the configuration has no upstreams")


def skew_of(date: str) -> float | None:
    """Seconds by which a Date field is later than this machine's clock; None for an invalid one."""
    try:
        return parsedate_to_datetime(date).timestamp() - clock.wall()
    except (ValueError, OverflowError):
        return None
