"""The interface as lines of a screen: pure, from the interaction, the size of the terminal and the time.

1. No line is wider than the terminal, and there are never more lines than it has rows.
2. Only the rows on the screen are formatted. A text of a client contains no control character (views.py).
3. A column never becomes narrower while its view is shown at the same size, so that columns do not move with each row.
"""

from __future__ import annotations

from collections.abc import Iterator

from relayd.cli.output import amount, plain, span
from relayd.cli.top.columns import Column, at_time, cell, short, value_of
from relayd.cli.top.interaction import Interaction
from relayd.cli.top.live_state import HOUR_S, MINUTE_S, LiveState, Row
from relayd.cli.top.text import cut, fill, width, wrap
from relayd.cli.top.views import VIEWS, endpoint_name, fault_of

Segment = tuple[str, str]  # a text and its style: words of terminal.STYLES
Line = tuple[Segment, ...]

GAP = 2
WIDE = 16  # cells: columns below it are not cut
SHORTEST_TITLE = 4  # of a view that is not shown, on a narrow terminal
NANO = 1e9
EXPIRES_SOON_S = 14 * 86400
HEAD_ROWS, FOOT_ROWS = 4, 1
HELP = (
    ("1 to 5, Tab", "choose the view"), ("Up, Down, j, k", "select a row; also Page Up, Page Down, Home, End"),
    ("Enter", "all cells of the row"), ("< and >", "sort by another column"), ("r", "reverse the order"),
    ("/", "filter: rows that contain the text; Enter ends, Escape removes it"), ("p", "pause, and continue"),
    ("c", "streams: cancel the request"), ("d, x, e", "upstreams: drain, disable, enable the endpoint"),
    ("b", "upstreams: reset the breaker"), ("?", "this help"), ("q", "quit"),
)


class Screen:
    """Makes the lines. It remembers the widths of columns."""

    def __init__(self, top: Interaction, *, marks_selected: bool = True) -> None:
        self._top, self._marks_selected = top, marks_selected
        self._shown: tuple[str, int] = ("", 0)
        self._widths: dict[str, int] = {}

    def lines(self, columns: int, rows: int, now_s: float) -> list[Line]:
        """The whole screen."""
        top = self._top
        now_s = top.time_s(now_s)
        height = rows - HEAD_ROWS - FOOT_ROWS
        head = [self._summary(columns, now_s), self._attention(columns, now_s), self._tabs(columns)]
        if top.mode == "help":
            body = [(("", ""),), *help_lines(columns)]
        elif top.mode == "detail":
            body = [(("", ""),), *self._detail(columns, now_s)]
        else:
            body = self.table(columns, height, now_s)
        body = body[: max(0, height + 1)]
        body += [((("", "")),)] * (height + 1 - len(body))
        return [fitted(line, columns) for line in [*head, *body, self._foot(columns)]][: max(0, rows)]

    # ---- the head

    def _summary(self, columns: int, now_s: float) -> Line:
        state = self._top.state
        if not state.is_known:
            return (("relayd", "bold"),)
        process = state.process
        waiting = sum(value_of(row, "depth") or 0 for row in state.rows("gates"))
        minute, hour = float(MINUTE_S), HOUR_S
        tokens = state.recent("input", MINUTE_S, now_s) + state.recent("output", MINUTE_S, now_s)
        cost = state.recent("cost", hour, now_s) / NANO
        phase = plain(str(process("phase")))
        parts: list[Segment] = [
            (f"relayd {plain(str(process('version')))}", "bold"), (phase, "green" if phase == "serving" else "yellow"),
            (f"{process('in_flight')} in flight", ""), (f"{waiting:.0f} waiting", "yellow" if waiting else ""),
            (f"{short(state.recent('requests', MINUTE_S, now_s) / minute)} req/s", ""),
            (f"{short(tokens / minute)} tokens/s", ""), (f"generation {process('generation')}", ""),
            (f"up {span(max(0.0, now_s - float(process('started_at') or now_s)))}", ""),
            (f"loop {process('lag_ms')} ms", ""), (f"{amount(int(process('buffer_bytes') or 0))} buffered", ""),
        ]
        if cost:
            parts.insert(6, (f"{cost:.2f} {plain(str(process('currency') or ''))} in the last hour", ""))
        kept: list[Segment] = []
        left = columns
        for text, style in parts:
            size = width(text) + (GAP if kept else 0)
            if size > left:
                break
            kept += [(" " * GAP, ""), (text, style)] if kept else [(text, style)]
            left -= size
        return tuple(kept)

    def _attention(self, columns: int, now_s: float) -> Line:
        if self._top.lost:
            return ((cut(f"no connection, trying again: {plain(self._top.lost)}", columns), "reverse red"),)
        found = list(attention(self._top.state, now_s))
        if not found:
            return (("", ""),)
        found.sort(key=lambda one: one[1] != "red")
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return ((cut(found[0][0], columns - len(more)) + more, found[0][1]),)

    def _tabs(self, columns: int) -> Line:
        top = self._top
        made: list[Segment] = []
        is_wide = columns >= 76
        for number, view in enumerate(VIEWS, 1):
            is_shown = view is top.view
            text = f"{view.title} {len(top.state.rows(view.table))}"
            if not is_wide and not is_shown:
                text = view.title[:SHORTEST_TITLE]
            made.append((f" {number} {text} ", "reverse" if is_shown else "dim"))
        if top.is_paused:
            made.append((" PAUSED ", "reverse yellow"))
        return tuple(made)

    # ---- the table

    def table(self, columns: int, height: int, now_s: float) -> list[Line]:
        """The titles and the rows of the current view."""
        top = self._top
        current, rows = top.current, top.rows(now_s)
        shown = top.window(rows, height)
        texts = [{one.title: one.text(row, now_s) for one in top.view.columns} for row in shown]
        chosen = self._chosen(columns, texts)
        titles = []
        for column, cells in chosen:
            mark = ("v" if current.descending else "^") if column is current.column else ""
            style = "reverse bold" if mark else "reverse"
            titles.append((fill(column.title + mark, cells, right=column.is_number), style))
        lines = [joined(titles, columns, "reverse")]
        if not rows:
            text = f"No row contains {plain(current.filter)!r}." if current.filter else top.view.empty
            return [*lines, ((text, "dim"),)]
        for row, of_row in zip(shown, texts, strict=True):
            style = "reverse" if self._marks_selected and row["key"] == current.selected else ""
            cells_of = [
                (fill(of_row[column.title], cells, right=column.is_number), style or column.style(row))
                for column, cells in chosen
            ]
            lines.append(joined(cells_of, columns, style))
        return lines

    def _chosen(self, columns: int, texts: list[dict[str, str]]) -> list[tuple[Column, int]]:
        """The columns that fit, in their order, and their widths. The column of the order is always among them."""
        top = self._top
        if self._shown != (top.view.name, columns):
            self._shown, self._widths = (top.view.name, columns), {}
        wanted: dict[str, int] = {}
        for column in top.view.columns:
            widest = max((width(text[column.title]) for text in texts), default=0)
            if not widest and column is not top.current.column and not self._widths.get(column.title):
                continue  # a column without any text takes no room
            cells = max(self._widths.get(column.title, 0), len(column.title) + 1, min(widest, column.widest))
            wanted[column.title] = self._widths[column.title] = cells
        ranked = [one for one in top.view.columns if one.title in wanted]
        ranked.sort(key=lambda one: (one is not top.current.column, one.rank))
        left, given = columns + GAP, dict[str, int]()
        for column in ranked:
            cells = wanted[column.title]
            is_whole = column.is_number or column.widest < WIDE
            least = cells if is_whole else min(cells, max(column.widest // 2, len(column.title) + 1))
            if not given:
                least = min(least, columns)
            if least + GAP <= left:
                given[column.title] = least
                left -= least + GAP
        for column in ranked:
            more = min(left, wanted[column.title] - given.get(column.title, wanted[column.title]))
            if more > 0:
                given[column.title] += more
                left -= more
        return [(one, given[one.title]) for one in top.view.columns if one.title in given]

    def _detail(self, columns: int, now_s: float) -> list[Line]:
        row = self._top.selected(now_s)
        if row is None:
            return [(("It has ended.", "dim"),)]
        return list(detail_lines(row, self._top.view.columns, columns, now_s))

    # ---- the foot

    def _foot(self, columns: int) -> Line:
        top = self._top
        if top.mode == "filter":
            return ((cut(f"filter: {plain(top.current.filter)}_", columns), "bold"),)
        if top.mode == "confirm" and top.confirmation is not None:
            answer = " [y/N]"
            return ((cut(top.confirmation.question, columns - len(answer)) + answer, "reverse yellow"),)
        if top.message:
            return ((cut(top.message, columns), "red" if top.is_fault else "green"),)
        if top.mode != "browse":
            return (("any key: back", "dim"),)
        hints = ["? help", "q quit", "/ filter", *(f"{one.key} {one.label}" for one in top.actions())]
        hints += ["< > r sort", "p pause", "Enter details"]
        if top.current.filter:
            hints.insert(0, f"filter {plain(top.current.filter)!r}, Esc removes it")
        if not top.may_write:
            hints.insert(0, "read-only")
        return ((cut("  ".join(hints), columns), "dim"),)


def attention(state: LiveState, now_s: float) -> Iterator[Segment]:
    """What an operator should know, as texts and colours."""
    refused = state.process("refused")
    if refused:
        yield f"the reload at {at_time(float(refused[0]))} was refused: {plain('; '.join(map(str, refused[1])))}", "red"
    if overload := state.process("overload"):
        yield f"overloaded: {plain(str(overload))}", "red"
    for row in state.rows("endpoints"):
        name, note = endpoint_name(row), fault_of(row)
        if row.get("breaker") == "open":
            yield f"{name}: the breaker is open{'; ' + note if note else ''}", "red"
        elif row.get("health") == "failing":
            yield f"{name}: the health check fails{'; ' + note if note else ''}", "red"
        elif row.get("state") in ("draining", "disabled"):
            yield f"{name} is {row['state']}", "yellow"
    for row in state.rows("certificates"):
        left_s = (value_of(row, "expires_at") or now_s) - now_s
        if row.get("warning"):
            yield cell(row, "warning"), "red"
        elif left_s < EXPIRES_SOON_S:
            yield f"the certificate of {cell(row, 'name')} ends in {span(max(0.0, left_s))}", "yellow"
    for row in state.rows("gates"):
        if row.get("depth"):
            yield f"{cell(row, 'key')}: {cell(row, 'depth')} requests wait", "yellow"
    for row in state.rows("limits"):
        if (value_of(row, "share") or 0) >= 0.9:
            used = f"{row['share']:.0%} of {cell(row, 'limit')} {cell(row, 'measure')} per {cell(row, 'per')}"
            yield f"{cell(row, 'scope')} {cell(row, 'value')}: {used} is used", "yellow"
    for warning in state.process("warnings") or ():
        yield plain(str(warning)), "yellow"


def help_lines(columns: int) -> Iterator[Line]:
    """The keys and their meaning."""
    for keys, meaning in HELP:
        yield (fill(f"  {keys}", 18), "bold"), (cut(meaning, max(0, columns - 18)), "")


def detail_lines(row: Row, columns: tuple[Column, ...], width_cells: int, now_s: float) -> Iterator[Line]:
    """All cells of a row that have a text, with the whole text."""
    indent = 16
    for column in columns:
        text = column.text(row, now_s)
        for at, part in enumerate(wrap(text, max(4, width_cells - indent)) if text else ()):
            yield (fill("" if at else f"  {column.title.lower()}", indent), "bold"), (part, column.style(row))


def joined(cells: list[Segment], columns: int, style: str) -> Line:
    """Cells with gaps between them; a style of the whole line fills it."""
    made: list[Segment] = []
    for at, one in enumerate(cells):
        made += [(" " * GAP, style), one] if at else [one]
    rest = columns - sum(width(text) for text, _ in made)
    return (*made, (" " * max(0, rest), style)) if style else tuple(made)


def fitted(line: Line, columns: int) -> Line:
    """The line cut to the width of the terminal."""
    made: list[Segment] = []
    left = columns
    for text, style in line:
        size = width(text)
        if size > left:
            made.append((cut(text, left), style))
            break
        made.append((text, style))
        left -= size
    return tuple(made)
