"""The state that the dashboard shows, as tables of rows, and the difference between two states.

1. A state is plain JSON data: per table the columns, and rows by key. A row changes only if something has happened:
   ages and remaining times are sent as the time of their beginning or end, and computed by the page.
2. Every table is bounded, and so are texts of clients (LONGEST_TEXT). A state is read and compared in steps. Texts of
   clients and endpoints are data; the page inserts them as text, never as HTML.
"""

from __future__ import annotations

import os
from typing import Any

from relayd import __version__, clock
from relayd.proxy.exchange import Exchange
from relayd.proxy.gateway import Gateway
from relayd.server.admin_live import COMPARED, DESCRIBED, first_steps
from relayd.server.admin_views import ProcessState, milliseconds
from relayd.server.exchange_number import number_of
from relayd.telemetry.recent import BUCKETS, FAILURE_FIELDS, INTERVAL_S, LONGEST_TEXT, RecentFailure
from relayd.telemetry.telemetry import Telemetry
from relayd.wire.json_steps import Steps

MAX_STREAMS = 1000
MAX_ENDPOINTS = 1000
MAX_LIMITS = 500
MAX_VALUES = 5000  # last used values of `each`, and of keys, among which the most used ones are looked for
MAX_GATES = 300
CHARACTERS_PER_TOKEN = 4

Row = list[Any]
Table = dict[str, Row]
State = dict[str, Table]

COLUMNS: dict[str, tuple[str, ...]] = {
    "process": ("value",),
    "streams": (
        "started", "state", "method", "path", "route", "consumer", "model", "upstream", "endpoint", "attempts",
        "buffered", "sent", "tokens", "id",
    ),
    "endpoints": (
        "upstream", "endpoint", "protocol", "state", "breaker", "forced", "health", "health_why", "available",
        "in_flight", "limit", "picked", "failures", "retry_at", "last_fault", "p50", "p90", "p99", "t50", "t90", "t99",
        "outcomes",
    ),
    "gates": ("requests", "in_flight", "queue", "depth", "oldest_since", "next_wait"),
    "limits": (
        "scope", "value", "measure", "per", "model", "limit", "used", "reserved", "left", "share", "waiting", "shadow",
    ),
    "failures": ("at", "status", "total", *FAILURE_FIELDS),
    "history": ("requests", "failures", "input", "output", "cost"),
    "certificates": ("of", "name", "file", "expires_at", "warning"),
    "generations": ("at", "changes"),
}


class DashboardState:
    """Reads the state. Reading changes nothing and waits for nothing."""

    def __init__(self, gateway: Gateway, telemetry: Telemetry, state: ProcessState) -> None:
        self._gateway, self._telemetry, self._state = gateway, telemetry, state

    def read(self) -> Steps[State]:
        """The current state."""
        wall_s = clock.wall()
        recent = self._telemetry.recent
        first, buckets = recent.history()
        endpoints = yield from self._endpoints(wall_s)
        streams = yield from self._streams()
        gates = self._gates(wall_s)
        yield
        limits = yield from self._limits()
        return {
            "process": self._process(wall_s),
            "streams": streams,
            "endpoints": endpoints,
            "gates": gates,
            "limits": limits,
            "failures": {str(one.number): failure_row(one) for one in (*recent.client_failures, *recent.failures)},
            "history": {str(first + index): list(bucket) for index, bucket in enumerate(buckets)},
            "certificates": {
                f"{one['of']} {one['name']} {one.get('domain', one['file'])}": [
                    one["of"], one.get("domain") or one["name"], one["file"],
                    int(wall_s + float(str(one["left_s"]))) // 60 * 60, one["warning"],
                ]
                for one in self._state.certificates()
            },
            "generations": {
                str(one.number): [round(one.wall, 3), None if one.changes is None else list(one.changes)]
                for one in self._state.generations
            },
        }

    def _streams(self) -> Steps[Table]:
        exchanges = self._gateway.exchanges
        oldest = tuple(exchanges)
        if len(oldest) > MAX_STREAMS:
            oldest = tuple((yield from first_steps(oldest, MAX_STREAMS, lambda one: one.record.started)))
        found: Table = {}
        for number, exchange in enumerate(oldest, 1):
            if exchange in exchanges:  # it has not ended between two steps
                found[number_of(exchange)] = stream_row(exchange)
            if not number % DESCRIBED:
                yield
        return found

    def _process(self, wall_s: float) -> Table:
        state, gateway = self._state, self._gateway
        plan, refusal = gateway.plan, state.refusal
        overload, buffers = gateway.overload.describe(), gateway.buffers.describe()
        values: dict[str, object] = {
            "version": __version__, "pid": os.getpid(), "phase": "draining" if gateway.draining else state.phase,
            "generation": 0 if plan is None else plan.generation, "started_at": round(state.started_wall),
            "file": state.config_file, "loaded_at": round(state.loaded_wall, 3), "warnings": list(state.warnings),
            "refused": None if refusal is None else [round(refusal.wall, 3), list(refusal.findings)],
            "lag_ms": round(milliseconds(state.lag_s())), "in_flight": len(gateway.exchanges),
            "overload": overload["why"] if overload["active"] else "", "buffer_bytes": buffers["used_bytes"],
            "listeners": [] if plan is None else [
                [name, one.address, one.tls is not None] for name, one in plan.config.listeners.items()
            ],
            "currency": self._telemetry.recent.currency, "interval_s": INTERVAL_S, "buckets": BUCKETS,
            "sessions": len(gateway.sessions),
            "rollback": state.rollback is not None and state.rollback.is_possible,
        }
        return {name: [value] for name, value in values.items()}

    def _endpoints(self, wall_s: float) -> Steps[Table]:
        found: Table = {}
        statistics = self._telemetry.recent.endpoints
        plan = self._gateway.plan
        for one_upstream in () if plan is None else plan.upstreams.values():
            upstream: dict[str, Any] = yield from one_upstream.describe_steps()
            name = upstream["name"]
            for one in upstream["endpoints"]:
                if len(found) >= MAX_ENDPOINTS:
                    return found
                of = statistics.get((name, one["address"]))
                times: Row = [] if of is None else [round(second * 1000) for second in of.percentiles()]
                left_s = one["retry_in_s"]
                found[f"{name} {one['address']}"] = [
                    name, one["address"], upstream["protocol"], one["state"], one["breaker"], one["forced"],
                    one["health"], one["health_why"], one["available"], one["in_flight"], one["limit"], one["picked"],
                    one["failures"], None if left_s is None else round(wall_s + left_s), one["last_fault"],
                    *(times or [None] * 6), {} if of is None else dict(of.outcomes),
                ]
        return found

    def _gates(self, wall_s: float) -> Table:
        found: Table = {}
        for gate in self._gateway.gates.limited():
            if len(found) >= MAX_GATES:
                break
            one = gate.describe()
            waits_s = one["oldest_wait_s"]
            assert isinstance(waits_s, float | int)
            found[gate.name] = [
                one["requests"], one["in_flight"], one["queue"], one["depth"],
                round(wall_s - waits_s) if waits_s else None, one["next_wait_s"],
            ]
        return found

    def _limits(self) -> Steps[Table]:
        ledger = self._gateway.ledger
        now = ledger.now()
        counters = yield from ledger.counters(MAX_VALUES)
        found = yield from first_steps(counters, MAX_LIMITS, lambda one: -one.window.used / one.limit)
        names = COLUMNS["limits"]
        rows: Table = {}
        for number, one in enumerate(found, 1):
            data = one.describe(now)
            rows[f"{data['key']} {data['value']}"] = [data[name] for name in names]
            if not number % DESCRIBED:
                yield
        return rows


def stream_row(exchange: Exchange) -> Row:
    """The row of one exchange. Its path has no query, which could contain a key."""
    record, ai_request = exchange.record, exchange.ai_request
    tokens = 0 if ai_request is None else ai_request.output_characters // CHARACTERS_PER_TOKEN
    return [
        round(record.started_wall, 1), exchange.phase, record.method, record.path[:LONGEST_TEXT], record.route,
        record.consumer, "" if ai_request is None else (ai_request.model or "")[:LONGEST_TEXT], record.upstream,
        record.endpoint, record.attempts, exchange.buffered(), record.bytes_out, tokens, record.id,
    ]


def failure_row(failure: RecentFailure) -> Row:
    """The row of one failure."""
    return [round(failure.wall_s, 3), failure.status, round(failure.total_s, 3), *failure.record]


def difference(old: State, new: State) -> Steps[dict[str, Any]]:
    """What turns one state into another: per table `rows` that are new, `set` with the changed cells of a row by the
    number of their column, and `gone` with the keys of removed rows. Empty without any."""
    found: dict[str, Any] = {}
    for name, rows in new.items():
        before = old.get(name, {})
        added: Table = {}
        changed: dict[str, dict[str, Any]] = {}
        for number, (key, row) in enumerate(rows.items()):
            if not number % COMPARED:
                yield
            known = before.get(key)
            if known is None:
                added[key] = row
            elif known != row:
                changed[key] = {str(at): cell for at, cell in enumerate(row) if cell != known[at]}
        gone = [key for key in before if key not in rows] if len(before) + len(added) != len(rows) else []
        parts = {"rows": added, "set": changed, "gone": gone}
        if any(parts.values()):
            found[name] = {part: value for part, value in parts.items() if value}
    return found
