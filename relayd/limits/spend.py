"""Spend: requests, tokens and cost, added up until they are written to the file.

1. `add` runs for every AI request to which prices apply, and looks up one row.
2. The number of rows between two writes is bounded: beyond MAX_ROWS, requests are added to rows whose model is `other`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import NamedTuple

from relayd.usage import Usage

MAX_ROWS = 5000
OTHER = "other"
DAY_S = 86400
EPOCH = datetime.date(1970, 1, 1).toordinal()


class SpendKey(NamedTuple):
    """The key of a sum. `day` is a day of UTC (2026-11-29), `model` the name at the endpoint; a group,
    consumer or model is empty if there is none."""

    day: str
    consumer: str
    group: str
    route: str
    upstream: str
    model: str
    currency: str


class SpendCounts(NamedTuple):
    """The sums of one key. `unpriced` counts the requests whose cost is unknown, which `cost_nano` does not contain,
    `estimated` those whose cost is an estimate, because their tokens were not reported."""

    requests: int
    unpriced: int
    input: int
    output: int
    cached_read: int
    cache_write: int
    reasoning: int
    cost_nano: int
    estimated: int


SpendRow = tuple[SpendKey, SpendCounts]
FIELDS = len(SpendCounts._fields)
_REQUESTS, _UNPRICED, _INPUT, _OUTPUT, _CACHED_READ, _CACHE_WRITE, _REASONING, _COST, _ESTIMATED = range(FIELDS)
_Key = tuple[str, str, str, str, str, str, str]  # a SpendKey, which a plain tuple is equal to


class Spend:
    """The sums that are not written yet. Owned by the gateway."""

    __slots__ = ("_day", "_day_number", "_rows")

    def __init__(self) -> None:
        self._rows: dict[_Key, list[int]] = {}
        self._day_number, self._day = -1, ""

    def add(
        self, wall_s: float, consumer: str, group: str, route: str, upstream: str, model: str, currency: str,
        usage: Usage | None, cost_nano: int | None, estimated: bool = False,
    ) -> None:
        """Add a request that ended at this time since 1970. `cost_nano` is None if its cost is unknown, and an estimate
        with `estimated`."""
        number = int(wall_s // DAY_S)
        if number != self._day_number:
            self._day_number, self._day = number, datetime.date.fromordinal(EPOCH + number).isoformat()
        sums = self._sums((self._day, consumer, group, route, upstream, model, currency))
        sums[_REQUESTS] += 1
        if cost_nano is None:
            sums[_UNPRICED] += 1
        else:
            sums[_COST] += cost_nano
        if estimated:
            sums[_ESTIMATED] += 1
        if usage is not None:
            sums[_INPUT] += usage.input
            sums[_OUTPUT] += usage.output
            if usage.cached_read or usage.cache_creation or usage.reasoning:
                sums[_CACHED_READ] += usage.cached_read
                sums[_CACHE_WRITE] += usage.cache_creation
                sums[_REASONING] += usage.reasoning

    def _sums(self, key: _Key) -> list[int]:
        sums = self._rows.get(key)
        if sums is None:
            if len(self._rows) >= MAX_ROWS:
                day, _, group, route, upstream, _, currency = key
                key = day, OTHER, group, route, upstream, OTHER, currency
            sums = self._rows.setdefault(key, [0] * FIELDS)
        return sums

    def forget(self, consumer: str) -> None:
        """Drop the sums of a consumer."""
        self._rows = {key: sums for key, sums in self._rows.items() if key[1] != consumer}

    def pop(self) -> list[SpendRow]:
        """The sums since the last call."""
        rows, self._rows = self._rows, {}
        return [(SpendKey(*key), SpendCounts(*sums)) for key, sums in rows.items()]

    def restore(self, rows: Iterable[SpendRow]) -> None:
        """Add sums that could not be written, for the next call of `pop`."""
        for key, counts in rows:
            sums = self._sums(key)
            sums[:] = [one + more for one, more in zip(sums, counts, strict=True)]
