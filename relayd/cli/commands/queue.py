"""`relayd queue`: every limit, its load, and the waiting requests in the order in which they will be admitted.

Exit codes: 0 shown, 1 relayd does not respond, 2 wrong usage.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from relayd.cli.output import paint, span, table
from relayd.cli.watch import add_options, show

HELP = "show every limit, its load, and the waiting requests in order of admission"
SHOWN = 50
GATES = ("LIMIT", "IN FLIGHT", "WAITING", "OLDEST", "AVERAGE TIME", "NEXT WAITS", "CONSUMERS IN FLIGHT + WAITING")
WAITERS = ("POSITION", "LIMIT", "CONSUMER", "PRIORITY", "WAITED", "EXPECTED")


def configure(parser: argparse.ArgumentParser) -> None:
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    return show(arguments, "/queue", lines)


def lines(data: dict[str, Any]) -> Iterator[str]:
    """One line for each limit, then one for each waiting request."""
    if not data["gates"]:
        yield "nothing is limited"
        return
    yield from table([GATES, *map(gate_row, data["gates"])])
    depth = sum(gate["depth"] for gate in data["gates"])
    if not depth:
        return
    yield ""
    yield from table([WAITERS, *map(waiter_row, data["waiting"][:SHOWN])])
    if depth > SHOWN:
        yield f"... {depth} wait; the next {SHOWN} are shown, --json has more"


def gate_row(gate: dict[str, Any]) -> tuple[str, ...]:
    most, share = gate["requests"], gate.get("share")  # the part of this instance in a shared limit
    full = most and gate["in_flight"] >= (most if share is None else share)
    of = f"{gate['in_flight']} of {(most or 'any') if share is None else f'{share} ({most} shared)'}"
    waits = f"{gate['depth']} of {gate['queue']}"
    return (
        gate["name"], paint(of, "yellow") if full else of,
        paint(waits, "red") if gate["depth"] and gate["depth"] >= gate["queue"] else waits,
        span(gate["oldest_wait_s"]) if gate["depth"] else "-",
        span(gate["service_time_s"]) if gate["service_time_s"] else "-",
        span(gate["next_wait_s"]) if gate["next_wait_s"] else "-",
        consumers(gate["in_flight_of"], gate["waiting_of"]),
    )


def consumers(in_flight: dict[str, int], waiting: dict[str, int], most: int = 6) -> str:
    """`team 3+12, other 1+0`, sorted by the number of requests."""
    names = sorted({*in_flight, *waiting}, key=lambda name: (-in_flight.get(name, 0) - waiting.get(name, 0), name))
    parts = [f"{name or 'nobody'} {in_flight.get(name, 0)}+{waiting.get(name, 0)}" for name in names[:most]]
    return ", ".join(parts + ([f"{len(names) - most} more"] if len(names) > most else []))


def waiter_row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(one["place"]), one["gate"], one["consumer"] or "nobody", str(one["priority"]), span(one["waited_s"]),
        span(one["expected_s"]),
    )
