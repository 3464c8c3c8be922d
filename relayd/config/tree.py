"""Builds a bounded tree of nodes from parsing events: the cost of a text is limited before sections are built.

Laws:
1. A tree has at most DEPTH levels and at most NODES values, aliases counted as often as they are used: a text that
   expands exponentially is refused while it is still small.
2. A key is unique in its mapping and a scalar; a tag that chooses a type is refused.
3. Faults are reported through `report(mark, message, suggestion)`; Stop ends the parsing after a fatal fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.schema.nodes import Mapping, Mark, Node, Scalar, Sequence

DEPTH = 32
NODES = 200_000  # a list of 10,000 routes has 160,000; one of the prices of every known model 30,000
MERGE = "<<"

Report = Callable[[Mark, str, str], None]


class Stop(Exception):
    """Parsing ends after a fatal fault, which was reported."""


class TooDeep(Stop):
    """The text is nested deeper than DEPTH."""


@dataclass(slots=True)
class _Open:
    """A list or mapping that is not closed yet. `height` is the depth of its contents, `size` their number of nodes."""

    mapping: bool
    mark: Mark
    anchor: str | None
    parts: list[Node] = field(default_factory=list)
    size: int = 1
    height: int = 1


@dataclass(slots=True)
class Tree:
    """Receives the events of one text in order; `root` is the result. Owned by the loader, used once."""

    report: Report
    root: Node | None = None
    _open: list[_Open] = field(default_factory=list)
    _anchors: dict[str, tuple[Node, int, int]] = field(default_factory=dict)
    _size: int = 0

    def begin(self, mapping: bool, mark: Mark, anchor: str | None) -> None:
        if len(self._open) >= DEPTH:
            self.report(mark, f"is nested deeper than {DEPTH} levels", "")
            raise TooDeep
        self._count(1, mark)
        self._open.append(_Open(mapping, mark, anchor))

    def end(self) -> None:
        done = self._open.pop()
        node = self._mapping(done) if done.mapping else Sequence(tuple(done.parts), done.mark)
        self._add(node, done.size, done.height, done.anchor)

    def scalar(self, text: str, plain: bool, mark: Mark, anchor: str | None) -> None:
        self._count(1, mark)
        if any(0xD800 <= ord(sign) <= 0xDFFF for sign in text):
            self._stop(mark, "contains a lone surrogate")
        self._add(Scalar(text, plain, mark), 1, 0, anchor)

    def alias(self, name: str, mark: Mark) -> None:
        found = self._anchors.get(name)
        if found is None:
            inside = any(one.anchor == name for one in self._open)
            self._stop(mark, "refers to itself" if inside else "refers to an anchor that does not exist",
                       "" if inside else "a value that begins with * must be quoted")
        else:
            node, size, height = found
            if len(self._open) + height > DEPTH:
                self._stop(mark, f"is nested deeper than {DEPTH} levels through an alias")
            self._count(size, mark)
            self._add(node, size, height, None)

    def _count(self, size: int, mark: Mark) -> None:
        self._size += size
        if self._size > NODES:
            self._stop(mark, f"contains more than {NODES} values, aliases counted as often as they are used")

    def _add(self, node: Node, size: int, height: int, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, size, height)
        if self._open:
            into = self._open[-1]
            into.parts.append(node)
            into.size += size
            into.height = max(into.height, height + 1)
        else:
            self.root = node

    def _mapping(self, done: _Open) -> Mapping:
        entries: dict[str, tuple[Scalar, Node]] = {}
        merged: list[Node] = []
        for key, value in zip(done.parts[::2], done.parts[1::2], strict=True):
            if not isinstance(key, Scalar):
                self.report(key.mark, "a key must be a scalar", "")
            elif key.plain and key.text == MERGE:
                merged.extend(value.items if isinstance(value, Sequence) else (value,))
            elif key.text in entries:
                first = entries[key.text][0].mark
                self.report(key.mark, f"duplicate key {key.text[:60]!r}", f"first written in line {first.line}")
            else:
                entries[key.text] = (key, value)
        for other in merged:
            if not isinstance(other, Mapping):
                self.report(other.mark, "only a mapping can be merged with <<", "")
                continue
            for key, value in other.entries:
                entries.setdefault(key.text, (key, value))
        return Mapping(tuple(entries.values()), done.mark)

    def _stop(self, mark: Mark, message: str, suggestion: str = "") -> None:
        self.report(mark, message, suggestion)
        raise Stop
