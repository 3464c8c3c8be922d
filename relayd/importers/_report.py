"""The report of an import: what became of each line of the source, and why.

1. A parser registers every statement of the source as an Item, before anything is converted.
2. A statement that no converter has noted is reported as not supported; nothing is dropped in silence.
3. A line is reported once, with the worst fidelity of its statements and all their reasons.
4. No text of the report contains a hidden value (a secret), or what its words show to be one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.importers._masking import MASK, masked_form, masked_source

TEXT_LENGTH = 120
NO_SECRETS = {"", "none", "null", "true", "false", "yes", "no", "0", "1"}  # written where no key is needed
UNKNOWN = "has no counterpart that this import knows"


class Fidelity(enum.IntEnum):
    """What became of a statement, from best to worst."""

    EXACT = 0
    APPROXIMATE = 1
    BY_HAND = 2
    UNSUPPORTED = 3

    def __str__(self) -> str:
        return ("exact", "approximate", "by hand", "not supported")[self]


@dataclass(slots=True, eq=False)
class Item:
    """A statement of the source, from `line` to `last`. Owned by the parser that made it; converters note what became of it."""

    file: str
    line: int
    last: int
    label: str = ""
    inner: list[Item] = field(default_factory=list)
    notes: list[tuple[Fidelity, str]] = field(default_factory=list)

    @property
    def position(self) -> str:
        return f"{self.file}:{self.line}"

    def _note(self, fidelity: Fidelity, reason: str) -> None:
        if (fidelity, reason) not in self.notes:
            self.notes.append((fidelity, reason))

    def exact(self, reason: str = "") -> None:
        self._note(Fidelity.EXACT, reason)

    def approximate(self, reason: str) -> None:
        self._note(Fidelity.APPROXIMATE, reason)

    def by_hand(self, reason: str) -> None:
        self._note(Fidelity.BY_HAND, reason)

    def unsupported(self, reason: str) -> None:
        self._note(Fidelity.UNSUPPORTED, reason)

    def everything(self) -> Iterable[Item]:
        """This item and all items inside it."""
        yield self
        for one in self.inner:
            yield from one.everything()

    def result(self) -> tuple[Fidelity, tuple[str, ...]]:
        """The worst fidelity and the reasons. A block without a note of its own is as known as its contents."""
        if self.notes:
            return max(fidelity for fidelity, _ in self.notes), tuple(reason for _, reason in self.notes if reason)
        if any(one.notes for outer in self.inner for one in outer.everything()):
            return Fidelity.EXACT, ()
        return Fidelity.UNSUPPORTED, (UNKNOWN,)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the report. `line` to `last` are the lines of the source that it covers."""

    file: str
    line: int
    last: int
    text: str
    fidelity: Fidelity
    reasons: tuple[str, ...]


@dataclass(slots=True)
class Report:
    """All statements of all sources of one import. Owned by the Draft."""

    texts: dict[str, Sequence[str]] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)

    def source(self, name: str, text: str) -> None:
        self.texts[name] = text.split("\n")

    def item(self, file: str, line: int, last: int = 0, label: str = "", outer: Item | None = None) -> Item:
        """A new statement. Lines count from 1; `last` is `line` if not given."""
        one = Item(file, line, max(line, last), label)
        (self.items if outer is None else outer.inner).append(one)
        return one

    def remark(self, text: str) -> None:
        """Something about the whole import rather than about a line."""
        if text not in self.remarks:
            self.remarks.append(text)

    def hide(self, value: str) -> None:
        """Replace this value by *** in every text of the report. It is a secret."""
        if value.strip().lower() not in NO_SECRETS:
            self.hidden.add(value.strip())

    def masked(self, text: str) -> str:
        for value in sorted(self.hidden, key=len, reverse=True):
            text = text.replace(value, MASK)
        return text

    def entries(self) -> list[Entry]:
        """The report, in the order of the sources; statements of the same line are one entry."""
        lines: dict[tuple[str, int], list[Item]] = {}
        for outer in self.items:
            for one in outer.everything():
                lines.setdefault((one.file, one.line), []).append(one)
        order = {name: number for number, name in enumerate(self.texts)}
        positions = sorted(lines, key=lambda at: (order.get(at[0], len(order)), at[0], at[1]))
        return [self._entry(position, lines[position], following) for position, following in zip(positions, [*positions, ("", 0)][1:], strict=True)]

    def _entry(self, position: tuple[str, int], items: list[Item], following: tuple[str, int]) -> Entry:
        file, line = position
        results = [(one, *one.result()) for one in items]
        fidelity = max(found for _, found, _ in results)
        labels: dict[str, list[str]] = {}
        for one, _, why in results:
            for reason in why:
                labels.setdefault(reason, []).append(one.label)
        several = len(labels) > 1
        reasons = [f"{names[0]}: {reason}" if several and len(names) == 1 and names[0] else reason for reason, names in labels.items()]
        last = max(one.last for one in items)
        if following[0] == file:
            last = min(last, following[1] - 1)
        source = self.texts.get(file, ())
        text = " ".join(source[line - 1].split()) if 0 < line <= len(source) else ""
        text = masked_source(self.masked(text))
        shown = text if len(text) <= TEXT_LENGTH else f"{text[: TEXT_LENGTH - 3]}..."
        return Entry(file, line, max(last, line), shown, fidelity, tuple(masked_form(self.masked(reason)) for reason in reasons))
