"""`relayd status`: the current state of the running relayd.

Exit codes: 0 shown, 1 relayd does not respond, 2 wrong usage.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from relayd import clock
from relayd.cli.commands.limits import row as limit_row
from relayd.cli.output import addresses, amount, discovery, is_settled, paint, plain, span, table
from relayd.cli.watch import add_options, show

HELP = "show generation, listeners, upstreams and exchanges in flight of the running relayd"
SHOWN = 50
COLUMNS = ("ID", "AGE", "PHASE", "BUFFERED", "ROUTE", "UPSTREAM", "REQUEST")
COLOUR_OF_PHASE = {"serving": "green", "starting": "yellow", "draining": "yellow"}


def configure(parser: argparse.ArgumentParser) -> None:
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    return show(arguments, "/status", lines)


def lines(data: dict[str, Any]) -> Iterator[str]:
    """The status as text."""
    colour = COLOUR_OF_PHASE.get(data["phase"], "yellow")
    yield f"relayd {data['version']} {paint(data['phase'], colour)}, pid {data['pid']}, up {span(data['uptime_s'])}"
    yield f"configuration {data['config']['file']}, generation {data['generation']}"
    for warning in data["config"]["warnings"]:
        yield paint(f"  {warning}", "yellow")
    if data["refused"] is not None:
        yield paint("the last reload was refused:", "red")
        yield from (paint(f"  {finding}", "red") for finding in data["refused"]["findings"])
    yield f"event loop {data['loop']['lag_ms']:g} ms late, at worst {data['loop']['worst_ms']:g} ms"
    if data["overload"]["active"]:
        over = data["overload"]
        yield paint(f"overloaded ({over['why']}): {over['share']:.0%} of the requests are rejected", "red")
    held = data.get("request_buffers")  # missing in the reply of an older daemon
    if held and held["bodies"]:
        bound = f" of {amount(held['limit_bytes'])}" if held["limit_bytes"] else ""
        line = f"request buffers {amount(held['used_bytes'])}{bound}, waiting for memory: {held['waiting']}"
        yield paint(line, "yellow") if held["waiting"] else line
    keys = data.get("keys")
    if keys and keys["issued"]:
        yield f"{keys['issued']} keys of relayd keys"
    if keys and keys["fault"]:
        yield paint(f"the key store cannot be read: {keys['fault']}", "red")
    store = data.get("store")  # missing in the reply of an older daemon
    if store and store["degraded"]:
        yield paint(f"the store {store['kind']} is degraded: {plain(str(store.get('why', '')))}", "red")
        if "server" in store:
            since = span(max(0.0, clock.wall() - store["since"]))
            line = f"  {store['server']}, for {since}, on_failure: {store['on_failure']}, waiting: {store['waiting']}"
            yield paint(line, "red")
    elif store and "server" in store:
        yield f"store {store['kind']} {store['server']}, changes that wait: {store['waiting']}"
    spend = data.get("spend")  # missing in the reply of an older daemon
    if spend and spend["fault"]:
        yield paint(f"spend cannot be written to {plain(spend['file'])}: {plain(spend['fault'])}", "red")
    capture = data.get("capture")  # missing in the reply of an older daemon
    if capture and (capture["is_on"] or capture["exchanges"]):
        until = f", on for {span(capture['ends_in_s'])} at the latest" if capture["is_on"] else ""
        kept = f"capture: {capture['exchanges']} exchanges, {amount(capture['bytes'])} bytes{until}"
        yield paint(kept, "yellow")
    yield ""
    rows = [("LISTENER", "ADDRESS")]
    rows += [(one["name"], one["address"] + (" TLS" if one["tls"] else "")) for one in data["listeners"]]
    yield from table([*rows])
    for one in data.get("certificates", ()):
        end = f"certificate of {one['of']} {one['name']}: {span(max(one['left_s'], 0))} left, {one['file']}"
        yield paint(one["warning"] or end, "red" if one["warning"] else "dim")
    upstreams = [("UPSTREAM", "PROTOCOL", "ENDPOINT", "IN FLIGHT", "STATE", "ADDRESSES")]
    for one in data["upstreams"]:
        for end in one["endpoints"]:
            row_of = one["name"], one["protocol"], end["endpoint"], str(end["in_flight"]), state(end), addresses(end)
            upstreams.append(row_of)
        if not one["endpoints"]:
            upstreams.append((one["name"], one["protocol"], "none", str(one["in_flight"]), paint("empty", "red"), ""))
    if len(upstreams) > 1:
        yield ""
        yield from table([*upstreams])
    for one in data["upstreams"]:
        if source := discovery(one):
            yield paint(f"{one['name']}: {source}", "dim" if is_settled(one) else "yellow")
    gates = [(one["name"], f"{one['in_flight']} of {one['requests'] or 'any'}", waiting(one)) for one in data["gates"]]
    if gates:
        yield ""
        yield from table([("LIMIT", "IN FLIGHT", "WAITING"), *gates])
    if data.get("limits"):  # missing in a daemon of an older version
        yield ""
        rates = [(one[0], one[1], f"{one[3]} of {one[2]}", one[6]) for one in map(limit_row, data["limits"])]
        yield from table([("RATE, BUDGET", "COUNTS", "USED", "FREE IN"), *rates])
    yield ""
    yield f"{data['in_flight']} exchanges in flight"
    if data["exchanges"]:
        yield from table([COLUMNS, *map(row, data["exchanges"][:SHOWN])])
    if data["in_flight"] > SHOWN:
        yield f"... the oldest {SHOWN} are shown; relayd streams and --json have more"


def state(endpoint: dict[str, Any]) -> str:
    """`available`, or the first reason why an endpoint is not used. `relayd upstreams` shows all reasons."""
    if endpoint["available"]:
        return paint("available", "green")
    if endpoint["state"] != "enabled":
        return paint(endpoint["state"], "yellow")
    if endpoint["health"] == "failing":
        return paint("failing", "red")
    return paint("breaker open", "red") if endpoint["breaker"] == "open" else paint("cooling down", "yellow")


def waiting(gate: dict[str, Any]) -> str:
    if not gate["depth"]:
        return "none"
    return f"{gate['depth']} of {gate['queue']}, the oldest for {span(gate['oldest_wait_s'])}"


def row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        plain(one["id"]), span(one["age_s"]), one["room"], amount(one["buffered_bytes"]), one["route"],
        one["upstream"], plain(f"{one['method']} {one['path']}"),
    )
