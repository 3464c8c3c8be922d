"""Selects access records, as JSON objects, by their members. All conditions must hold; of one condition, any value."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from typing import Any

from relayd.dataclass import dataclass

NAMED = ("route", "upstream", "consumer", "model", "outcome")

JsonRecord = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """The conditions. `names` are patterns with * and ? by the name of a member; `statuses` are texts as 503 or 5xx.
    `slow_s`: the shortest time of a request, None for any. `failures`: only requests that failed, with a status of 400
    or more, or without a complete response. `id`: only the request with this id."""

    names: Mapping[str, tuple[str, ...]]
    statuses: tuple[str, ...] = ()
    slow_s: float | None = None
    failures: bool = False
    id: str = ""

    def accepts(self, record: JsonRecord) -> bool:
        """True if all conditions hold."""
        for name in self.names:
            values = [record.get(name) or ""] + ([record.get("model_served") or ""] if name == "model" else [])
            if not self.may_be(name, *values):
                return False
        shown = str(record.get("status", ""))
        if self.statuses and shown not in self.statuses and f"{shown[:1]}xx" not in self.statuses:
            return False
        if self.failures and record.get("outcome") == "complete" and (number(record, "status") or 0) < 400:
            return False
        if self.id and record.get("id") != self.id:
            return False
        return self.slow_s is None or (number(record, "total_ms") or 0.0) >= self.slow_s * 1000

    def may_be(self, name: str, *values: str) -> bool:
        """True if one of these values of a member is accepted."""
        patterns = self.names.get(name, ())
        return not patterns or any(fnmatch.fnmatchcase(str(value), one) for value in values for one in patterns)


def number(record: JsonRecord, name: str) -> float | None:
    """A number of a record; None without one. A file may contain anything."""
    value = record.get(name)
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None
