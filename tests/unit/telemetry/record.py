"""A filled record for the tests of this folder."""

from __future__ import annotations

from typing import Any

from relayd.telemetry.outcome import Record


def record(**changes: Any) -> Record:
    made = Record()
    values = {
        "id": "0190-abc", "listener": "public", "peer": "127.0.0.1:5000", "client": "10.0.0.9", "method": "POST",
        "host": "example.org", "path": "/v1/chat", "route": "llm", "upstream": "chutes", "endpoint": "a:443",
        "consumer": "team", "status": 200, "bytes_in": 10, "bytes_out": 2000, "attempts": 1, "generation": 3,
        "started_wall": 1_700_000_000.25, "queue_s": 0.0, "connect_s": 0.0015, "first_byte_s": 0.02, "total_s": 0.5,
        "ended_by": "upstream", "phase": "transfer",
    }
    for name, value in {**values, **changes}.items():
        setattr(made, name, value)
    return made
