"""`relayd upstreams`: every endpoint, whether it is used, and the reasons if it is not.

Exit codes: 0 shown, 1 relayd does not respond, 2 wrong usage.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from relayd.cli.output import addresses, discovery, is_settled, paint, plain, span, table
from relayd.cli.watch import add_options, show

HELP = "show every endpoint: its state, breaker, health and load"
COLUMNS = (
    "UPSTREAM", "ENDPOINT", "AVAILABLE", "STATE", "BREAKER", "HEALTH", "IN FLIGHT", "WEIGHT", "PRIORITY", "PICKED",
    "FAILED", "NOTE",
)
COLOURS = {
    "yes": "green", "no": "red", "draining": "yellow", "leaving": "yellow", "disabled": "yellow", "open": "red",
    "half_open": "yellow", "failing": "red", "passing": "green",
}


def configure(parser: argparse.ArgumentParser) -> None:
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    return show(arguments, "/upstreams", lines)


def lines(data: dict[str, Any]) -> Iterator[str]:
    """One line for each endpoint."""
    rows = [row(upstream, endpoint) for upstream in data["upstreams"] for endpoint in upstream["endpoints"]]
    if not data["upstreams"]:
        yield "there are no upstreams"
        return
    yield from table([COLUMNS, *rows])
    for upstream in data["upstreams"]:
        if source := discovery(upstream):
            yield paint(f"{upstream['name']}: {source}", "dim" if is_settled(upstream) else "yellow")
        if not upstream["available"]:
            yield paint(f"{upstream['name']}: no endpoint is available", "red")
        for endpoint in upstream["endpoints"]:
            if known := addresses(endpoint):
                yield paint(f"{upstream['name']}: {plain(endpoint['address'])} is {known}", "dim")
        for key in upstream["keys"]:
            if key["state"] != "in_force":
                why = f": {plain(key['why'])}" if key["why"] else ""
                away = f"{upstream['name']}: key of {plain(key['source'])} {key['state']} for {span(key['for_s'])}{why}"
                yield paint(away, "yellow")


def row(upstream: dict[str, Any], endpoint: dict[str, Any]) -> tuple[str, ...]:
    weight, now = endpoint["weight"], endpoint["effective_weight"]
    return (
        upstream["name"], plain(endpoint["address"]), coloured("yes" if endpoint["available"] else "no"),
        coloured(endpoint["state"]), coloured(endpoint["breaker"]), coloured(endpoint["health"]),
        f"{endpoint['in_flight']} of {endpoint['limit']}" if endpoint["limit"] else str(endpoint["in_flight"]),
        str(weight) if weight == now else f"{now:g} of {weight}", str(endpoint["priority"]), str(endpoint["picked"]),
        str(endpoint["failures"]), plain(note(endpoint)),
    )


def coloured(state: str) -> str:
    return paint(state, COLOURS[state]) if state in COLOURS else state


def note(endpoint: dict[str, Any]) -> str:
    """The reasons for the state of an endpoint, and how long it lasts."""
    notes = []
    if endpoint["state"] != "enabled" and not endpoint["in_flight"]:
        notes.append("no request is running")
    if endpoint["forced"]:
        notes.append("opened by hand")
    elif endpoint["retry_in_s"] is not None:
        notes.append(f"probe in {span(endpoint['retry_in_s'])}")
    if endpoint["resting_for_s"]:
        notes.append(f"cooling down for {span(endpoint['resting_for_s'])}")
    if endpoint["health"] == "failing" and endpoint["health_why"]:
        notes.append(endpoint["health_why"])
    if endpoint["last_fault"] and (endpoint["consecutive_failures"] or not endpoint["available"]):
        notes.append(f"last fault: {endpoint['last_fault']}")
    return ", ".join(notes)
