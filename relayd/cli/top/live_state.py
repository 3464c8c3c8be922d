"""The state that the event stream of the dashboard sends: the whole once, then differences (server/dashboard_state).

A row is the cells by the names of their columns, and `key`, which names it within its table.
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
MINUTE_S, HOUR_S = 60, 3600


class LiveState:
    """The tables of rows. Owned by the session, changed by its events only."""

    def __init__(self) -> None:
        self._columns: dict[str, list[str]] = {}
        self._tables: dict[str, dict[str, Row]] = {}

    @property
    def is_known(self) -> bool:
        """True if a whole state was received."""
        return bool(self._tables)

    def replace(self, data: dict[str, Any]) -> None:
        """Apply an event `state`. Raises LookupError, TypeError and AttributeError if it is malformed."""
        self._columns, self._tables = data["columns"], {}
        for name, rows in data["tables"].items():
            self._add(name, rows)

    def change(self, data: dict[str, Any]) -> None:
        """Apply an event `change`. Raises LookupError, TypeError and AttributeError if it is malformed."""
        for name, parts in data.items():
            self._add(name, parts.get("rows", {}))
            table, columns = self._tables[name], self._columns[name]
            for key, cells in parts.get("set", {}).items():
                row = table.get(key)
                if row is not None:
                    row.update((columns[int(at)], cell) for at, cell in cells.items())
            for key in parts.get("gone", ()):
                table.pop(key, None)

    def _add(self, name: str, rows: dict[str, list[Any]]) -> None:
        table, columns = self._tables.setdefault(name, {}), self._columns[name]
        for key, cells in rows.items():
            table[key] = dict(zip(columns, cells, strict=False), key=key)

    def rows(self, table: str) -> list[Row]:
        """The rows of a table; none if the running relayd does not send it."""
        return list(self._tables.get(table, {}).values())

    def process(self, name: str) -> Any:
        """One value of the process; None if it is not known."""
        return self._tables.get("process", {}).get(name, {}).get("value")

    def recent(self, column: str, span_s: int, now_s: float) -> float:
        """The sum of a column of the history over the last finished intervals of this span."""
        interval_s = int(self.process("interval_s") or 10)
        current, table = int(now_s) // interval_s, self._tables.get("history", {})
        rows = (table.get(str(current - back)) for back in range(1, span_s // interval_s + 1))
        return sum(float(row.get(column) or 0) for row in rows if row is not None)

    def copy(self) -> LiveState:
        """A state that later events do not change."""
        made = LiveState()
        made._columns = self._columns
        made._tables = {
            name: {key: dict(row) for key, row in rows.items()} for name, rows in self._tables.items()
        }
        return made
