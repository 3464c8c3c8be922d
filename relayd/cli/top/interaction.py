"""What keys and events change: the view, its order, its filter, the selected row, and the action that was confirmed.

Pure: it gets names of keys (keyboard.py), events (feed.py) and the time, and uses neither a terminal nor a clock.
"""

from __future__ import annotations

from relayd.cli.output import plain
from relayd.cli.top.columns import Column
from relayd.cli.top.live_state import LiveState, Row
from relayd.cli.top.views import VIEWS, RowAction, View
from relayd.dataclass import dataclass

LONGEST_FILTER = 80


@dataclass(slots=True)
class ViewState:
    """How one view is shown. `selected` is the key of a row, `index` its place when it was last seen."""

    column: Column
    descending: bool
    filter: str = ""
    selected: str = ""
    index: int = 0
    offset: int = 0  # of the first row on the screen


@dataclass(frozen=True, slots=True)
class Confirmation:
    """An action that waits for its confirmation. Its target stays the same if the rows move meanwhile."""

    path: str
    question: str


class Interaction:
    """The state of the interface. `mode` is browse, filter, confirm, detail or help."""

    def __init__(self, live: LiveState) -> None:
        self._live = live
        self._frozen: LiveState | None = None  # while paused
        self._frozen_s = 0.0
        self._views = {view.name: ViewState(column_of(view, view.sort), view.descending) for view in VIEWS}
        self.view = VIEWS[0]
        self.mode = "browse"
        self.message = ""
        self.is_fault = False  # the message reports a failure
        self.lost = "connecting"  # why there is no connection, empty while there is one
        self.may_write = True
        self.confirmation: Confirmation | None = None
        self._asked = ""  # the action that was confirmed last
        self.is_over = False
        self.page_rows = 10  # rows on the screen, set by the screen

    # ---- what is shown

    @property
    def current(self) -> ViewState:
        """The state of the view that is shown."""
        return self._views[self.view.name]

    @property
    def is_paused(self) -> bool:
        return self._frozen is not None

    @property
    def state(self) -> LiveState:
        """The state that is shown: the newest one, or that of the pause."""
        return self._frozen or self._live

    def time_s(self, now_s: float) -> float:
        """The time to which ages refer."""
        return self._frozen_s if self.is_paused else now_s

    def rows(self, now_s: float) -> list[Row]:
        """The rows of the view that match its filter, in its order."""
        view, current = self.view, self.current
        rows, wanted = self.state.rows(view.table), current.filter.casefold()
        if wanted:
            rows = [row for row in rows if any(wanted in one.text(row, now_s).casefold() for one in view.columns)]
        rows.sort(key=lambda row: sort_key(str(row["key"])))  # equal rows keep their order
        rows.sort(key=lambda row: current.column.sort(row, now_s), reverse=current.descending)
        return rows

    def window(self, rows: list[Row], height: int) -> list[Row]:
        """The rows on a screen of this height: the selected one is among them."""
        current, self.page_rows = self.current, max(1, height)
        index = self._index(rows)
        last = max(0, len(rows) - height)
        current.offset = min(max(current.offset, index - height + 1), index, last) if height > 0 else 0
        return rows[current.offset : current.offset + max(0, height)]

    def selected(self, now_s: float) -> Row | None:
        """The selected row; None without rows."""
        rows = self.rows(now_s)
        return rows[self._index(rows)] if rows else None

    def _index(self, rows: list[Row]) -> int:
        """The place of the selected row. If it is gone, the row that has taken its place is selected."""
        current = self.current
        found = next((at for at, row in enumerate(rows) if row["key"] == current.selected), -1)
        if found < 0:
            found = max(0, min(current.index, len(rows) - 1))
            current.selected = str(rows[found]["key"]) if rows else ""
        current.index = found
        return found

    # ---- keys

    def choose(self, view: str, sort: str = "", descending: bool | None = None, wanted: str = "") -> None:
        """Show a view as the options of the command say. Raises ValueError for an unknown column."""
        self.view = next(one for one in VIEWS if one.name == view)
        current = self.current
        if sort:
            current.column = column_of(self.view, sort)
            current.descending = current.column.is_number
        if descending is not None:
            current.descending = current.descending != descending
        current.filter = wanted[:LONGEST_FILTER]

    def press(self, key: str, now_s: float) -> str | None:
        """Handle a key. Returns the path of an action that was confirmed."""
        now_s = self.time_s(now_s)
        if key == "quit":
            self.is_over = True
        elif self.mode == "filter":
            self._type(key)
        elif self.mode == "confirm":
            return self._answer(key)
        elif self.mode in ("help", "detail"):
            self.mode = "browse"
        else:
            self.message, self.is_fault = "", False
            self._browse(key, now_s)
        return None

    def _browse(self, key: str, now_s: float) -> None:
        current = self.current
        steps = {
            "up": -1, "k": -1, "down": 1, "j": 1, "page_up": -self.page_rows, "page_down": self.page_rows,
            "home": -(1 << 30), "g": -(1 << 30), "end": 1 << 30, "G": 1 << 30,
        }
        if key in steps:
            self._move(steps[key], now_s)
        elif key in ("tab", "right", "backtab", "left"):
            at = VIEWS.index(self.view) + (1 if key in ("tab", "right") else -1)
            self.view = VIEWS[at % len(VIEWS)]
        elif key.isdecimal() and key.isascii() and 0 < int(key) <= len(VIEWS):
            self.view = VIEWS[int(key) - 1]
        elif key in ("<", ">"):
            at = self.view.columns.index(current.column) + (1 if key == ">" else -1)
            current.column = self.view.columns[at % len(self.view.columns)]
        elif key == "r":
            current.descending = not current.descending
        elif key == "/":
            self.mode = "filter"
        elif key == "escape":
            current.filter = ""
        elif key == "enter":
            self.mode = "detail" if self.selected(now_s) is not None else "browse"
        elif key in ("?", "h"):
            self.mode = "help"
        elif key == "p":
            self._frozen, self._frozen_s = (None, 0.0) if self.is_paused else (self._live.copy(), now_s)
        elif key == "q":
            self.is_over = True
        else:
            self._ask(key, now_s)

    def _move(self, steps: int, now_s: float) -> None:
        rows = self.rows(now_s)
        if rows:
            index = max(0, min(len(rows) - 1, self._index(rows) + steps))
            self.current.selected, self.current.index = str(rows[index]["key"]), index

    def _type(self, key: str) -> None:
        current = self.current
        if key in ("enter", "escape"):
            self.mode = "browse"
            if key == "escape":
                current.filter = ""
        elif key == "backspace":
            current.filter = current.filter[:-1]
        elif key == "clear":
            current.filter = ""
        elif len(key) == 1:
            current.filter = (current.filter + key)[:LONGEST_FILTER]

    def _ask(self, key: str, now_s: float) -> None:
        action = next((one for one in self.view.actions if one.key == key), None)
        row = None if action is None else self.selected(now_s)
        if action is None or row is None:
            return
        path = action.path(row)
        if not self.may_write:
            self.report("read-only: this user may not change anything", is_fault=True)
        elif path is None:
            self.report(f"not possible for this row: {action.label}", is_fault=True)
        else:
            self.confirmation, self.mode = Confirmation(path, action.question(row)), "confirm"

    def _answer(self, key: str) -> str | None:
        confirmation, self.confirmation, self.mode = self.confirmation, None, "browse"
        assert confirmation is not None
        if key in ("y", "Y"):
            self._asked = confirmation.question.removesuffix("?")
            self.report(f"waiting for the answer: {self._asked}")
            return confirmation.path
        self.report("nothing was done")
        return None

    # ---- events

    def finish(self, fault: str) -> None:
        """The action that was confirmed last has an answer: `fault`, or that it is done."""
        self.report(f"{self._asked}: {fault or 'done'}", is_fault=bool(fault))

    def report(self, message: str, *, is_fault: bool = False) -> None:
        """Show a message until the next key."""
        self.message, self.is_fault = plain(message), is_fault

    def actions(self) -> tuple[RowAction, ...]:
        """The actions of the view, none if they are not permitted."""
        return self.view.actions if self.may_write else ()


def sort_key(key: str) -> tuple[int, str]:
    """Numbers in their order: the older stream is the first one."""
    return len(key), key


def column_of(view: View, title: str) -> Column:
    """The column with this title, whatever its case. Raises ValueError, with the existing titles."""
    for one in view.columns:
        if one.title.casefold() == title.casefold():
            return one
    known = ", ".join(one.title.lower() for one in view.columns)
    raise ValueError(f"the view {view.name} has no column {title!r}; it has: {known}")
