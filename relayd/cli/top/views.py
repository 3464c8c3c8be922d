"""The views of `relayd top` as data: which table each shows, its columns, and the actions on a row."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from relayd.cli.output import amount, span
from relayd.cli.top.columns import (
    Column,
    at_time,
    cell,
    counted,
    elapsed,
    figure,
    measured,
    milliseconds,
    named,
    percent,
    short,
    since,
    value_of,
    words,
)
from relayd.cli.top.live_state import Row
from relayd.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class RowAction:
    """An action on the selected row. `path` is that of the admin application, None if the row does not permit it.
    `question` is asked before."""

    key: str
    label: str
    path: Callable[[Row], str | None]
    question: Callable[[Row], str]


@dataclass(frozen=True, slots=True)
class View:
    """One view. `sort` is the title of the column by which it is sorted at first."""

    name: str
    title: str
    table: str
    columns: tuple[Column, ...]
    sort: str
    descending: bool
    empty: str
    actions: tuple[RowAction, ...] = ()


def octets(value: float) -> str:
    return amount(int(value))


def status(value: float) -> str:
    return f"{value:.0f}"


def request_of(row: Row) -> str:
    """Method and path."""
    return f"{cell(row, 'method')} {cell(row, 'path')}".strip()


def rate(row: Row, now_s: float) -> float | None:
    """Tokens per second since the beginning of the stream."""
    tokens, age_s = value_of(row, "tokens"), since(row, "started", now_s)
    return None if not tokens or not age_s else tokens / age_s


def availability(row: Row) -> str:
    """`available`, or the first reason why an endpoint gets no requests."""
    if row.get("available"):
        return "available"
    if row.get("state") != "enabled":
        return cell(row, "state")
    if row.get("health") == "failing":
        return "failing"
    return "breaker open" if row.get("breaker") == "open" else "cooling down"


def availability_style(row: Row) -> str:
    return "green" if row.get("available") else "yellow" if row.get("state") != "enabled" else "red"


def fault_of(row: Row) -> str:
    """Why an endpoint fails, or has failed."""
    return cell(row, "health_why") or cell(row, "last_fault")


def counts_of(row: Row) -> str:
    """What a rate or budget counts: `requests per 1h alice`."""
    parts = (cell(row, "measure"), "per", cell(row, "per"), cell(row, "value"), cell(row, "model"))
    return " ".join(part for part in parts if part)


def share_style(row: Row) -> str:
    share = value_of(row, "share") or 0.0
    return "red" if share >= 1 else "yellow" if share >= 0.8 else ""


def mode_of(row: Row) -> str:
    return "counts only" if row.get("shadow") else "enforced"


def code_of(row: Row) -> str:
    return cell(row, "code") or "upstream error"


def failure_style(row: Row) -> str:
    return "yellow" if cell(row, "outcome").startswith("client") else "red"


def cancel_path(row: Row) -> str | None:
    return f"/streams/{quote(str(row['key']), safe='')}/cancel"


def cancel_question(row: Row) -> str:
    return f"Cancel {request_of(row)} of {cell(row, 'consumer') or 'no consumer'}?"


def endpoint_name(row: Row) -> str:
    """Upstream and address."""
    return f"{cell(row, 'upstream')} {cell(row, 'endpoint')}"


def endpoint_path(row: Row, action: str) -> str:
    upstream, endpoint = (quote(str(row.get(name)), safe="") for name in ("upstream", "endpoint"))
    return f"/upstreams/{upstream}/endpoints/{endpoint}/{action}"


def endpoint_action(key: str, label: str, states: tuple[str, ...]) -> RowAction:
    """An action on an endpoint in one of these states."""

    def path(row: Row) -> str | None:
        return endpoint_path(row, label) if row.get("state") in states else None

    return RowAction(key, label, path, lambda row: f"{label.capitalize()} {endpoint_name(row)}?")


def breaker_path(row: Row) -> str | None:
    return endpoint_path(row, "breaker/reset") if row.get("breaker") in ("open", "half_open") else None


STREAMS = View(
    "streams", "Streams", "streams", (
        elapsed("AGE", 0, "started"),
        named("STATE", 4, "state", 10),
        named("CONSUMER", 3, "consumer", 20),
        named("MODEL", 1, "model", 28),
        named("UPSTREAM", 6, "upstream", 20),
        named("ENDPOINT", 10, "endpoint"),
        named("ROUTE", 9, "route", 20),
        counted("TRIES", 11, "attempts", short),
        counted("BUFFERED", 12, "buffered", octets),
        counted("SENT", 7, "sent", octets),
        counted("TOKENS", 5, "tokens", short),
        figure("TOKENS/S", 8, rate, short),
        words("REQUEST", 2, request_of, 48),
        named("ID", 13, "id"),
    ), "AGE", True, "No request is under way.",
    (RowAction("c", "cancel", cancel_path, cancel_question),),
)  # fmt: skip
UPSTREAMS = View(
    "upstreams", "Upstreams", "endpoints", (
        named("UPSTREAM", 0, "upstream", 20),
        named("ENDPOINT", 1, "endpoint", 40),
        words("STATE", 2, availability, 14, availability_style),
        named("BREAKER", 6, "breaker", 10),
        named("HEALTH", 7, "health", 10),
        measured("IN FLIGHT", 3, "in_flight", short),
        counted("LIMIT", 8, "limit", short),
        counted("REQUESTS", 9, "picked", short),
        counted("FAILED", 4, "failures", short),
        counted("P50", 10, "p50", milliseconds),
        counted("P99", 5, "p99", milliseconds),
        counted("FIRST P50", 12, "t50", milliseconds),
        counted("FIRST P99", 11, "t99", milliseconds),
        named("PROTOCOL", 14, "protocol", 18),
        words("LAST FAULT", 13, fault_of, 60),
    ), "UPSTREAM", False, "No upstream has an endpoint.",
    (
        endpoint_action("d", "drain", ("enabled",)), endpoint_action("x", "disable", ("enabled", "draining")),
        endpoint_action("e", "enable", ("draining", "disabled")),
        RowAction("b", "reset breaker", breaker_path, lambda row: f"Reset the breaker of {endpoint_name(row)}?"),
    ),
)  # fmt: skip
CONSUMERS = View(
    "consumers", "Consumers", "limits", (
        named("OF", 0, "scope", 28),
        words("COUNTS", 1, counts_of, 40),
        measured("SHARE", 2, "share", percent, share_style),
        measured("USED", 3, "used", short),
        measured("LIMIT", 4, "limit", short),
        measured("LEFT", 5, "left", short),
        counted("RESERVED", 7, "reserved", short),
        counted("WAITING", 6, "waiting", short),
        words("MODE", 8, mode_of, 12),
    ), "SHARE", True, "No rates or budgets are in use. A counter appears with its first request.",
)  # fmt: skip
FAILURES = View(
    "failures", "Failures", "failures", (
        measured("TIME", 0, "at", at_time),
        counted("STATUS", 2, "status", status),
        words("CODE", 1, code_of, 24, failure_style),
        words("REQUEST", 5, request_of, 40),
        named("CONSUMER", 4, "consumer", 20),
        named("MODEL", 6, "model", 28),
        named("UPSTREAM", 7, "upstream", 20),
        named("ENDPOINT", 8, "endpoint"),
        named("ROUTE", 10, "route", 20),
        counted("TOOK", 9, "total", span),
        named("OUTCOME", 11, "outcome", 20),
        named("DETAIL", 3, "detail", 60),
        named("ID", 12, "id"),
    ), "TIME", True, "Nothing has failed since relayd started.",
)  # fmt: skip
QUEUES = View(
    "queues", "Queues", "gates", (
        named("LIMIT", 0, "key", 40),
        measured("IN FLIGHT", 1, "in_flight", short),
        counted("PERMITS", 2, "requests", short),
        measured("WAITING", 3, "depth", short),
        counted("QUEUE", 4, "queue", short),
        elapsed("OLDEST WAITS", 5, "oldest_since"),
        counted("NEXT WAITS", 6, "next_wait", span),
    ), "WAITING", True, "No limits of requests are configured.",
)  # fmt: skip
VIEWS: tuple[View, ...] = (STREAMS, UPSTREAMS, CONSUMERS, FAILURES, QUEUES)
