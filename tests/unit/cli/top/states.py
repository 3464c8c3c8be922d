"""A state of the dashboard for tests of the live view."""

from __future__ import annotations

from typing import Any

from relayd.cli.top.live_state import LiveState
from relayd.server.dashboard_state import COLUMNS

NOW_S = 1_000_000.0
HOSTILE = "\x1b[2J\x07\u202eevil\n\ud800"
PROCESS: dict[str, Any] = {
    "version": "1.0", "phase": "serving", "generation": 3, "started_at": NOW_S - 90, "in_flight": 2, "lag_ms": 1,
    "buffer_bytes": 2048, "currency": "USD", "interval_s": 10, "refused": None, "warnings": [], "overload": "",
}


def cells(table: str, **values: Any) -> list[Any]:
    """A row with these cells; the others are absent."""
    return [values.get(name) for name in COLUMNS[table]]


def stream(started_ago_s: float, model: str, **values: Any) -> list[Any]:
    return cells("streams", **{
        "started": NOW_S - started_ago_s, "state": "transfer", "method": "POST", "path": "/v1/chat/completions", "route": "llm",
        "consumer": "team", "model": model, "upstream": "up", "endpoint": "a:1", "attempts": 1, "buffered": 0, "sent": 4300,
        "tokens": 40, **values,
    })  # fmt: skip


def endpoint(address: str, **values: Any) -> list[Any]:
    return cells("endpoints", **{
        "upstream": "up", "endpoint": address, "protocol": "openai_chat", "state": "enabled", "breaker": "closed",
        "health": "unknown", "available": True, "in_flight": 1, "picked": 7, "failures": 0, "outcomes": {}, **values,
    })  # fmt: skip


def tables(**changed: dict[str, list[Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "process": {name: [value] for name, value in PROCESS.items()},
        "streams": {"a": stream(75, "small"), "b": stream(5, "large", tokens=400), "c": stream(5, "medium", consumer="other")},
        "endpoints": {"up a:1": endpoint("a:1"), "up b:1": endpoint("b:1", state="draining", available=False)},
        "limits": {"l": cells("limits", scope="consumer team", measure="requests", per="1h", limit=10, used=9, left=1, share=0.9, waiting=0)},
        "failures": {"1": cells("failures", at=NOW_S - 9, status=502, code="connect_failed", outcome="upstream.connect", detail=HOSTILE)},
        "gates": {"upstream up": cells("gates", requests=8, in_flight=2, queue=4, depth=1, oldest_since=NOW_S - 3)},
        "history": {str(int(NOW_S) // 10 - 1): [60, 1, 300, 600, 10**9]},
    }
    return {**found, **changed}


def live(**changed: dict[str, list[Any]]) -> LiveState:
    state = LiveState()
    state.replace({"columns": {name: list(columns) for name, columns in COLUMNS.items()}, "tables": tables(**changed)})
    return state
