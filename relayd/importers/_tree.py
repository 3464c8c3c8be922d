"""A file with nested keys (YAML, JSON or TOML) as sections whose keys know their statement in the report.

1. Every key and every scalar of a list is a statement; none is converted without a note, and the others are reported.
2. The value of a key that is named like a secret is hidden in the report.
3. A statement covers the lines up to the next one, without comments and empty lines at its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.importers._draft import is_secret_name
from relayd.importers._report import Item, Report
from relayd.lazy_regex import lazy_regex
from relayd.schema.nodes import Mapping, Mark, Node, Scalar, Sequence
from relayd.schema.scalars import FALSE, TRUE

_REFERENCE = lazy_regex(r"\$|os\.environ/")  # the name of a variable, not a secret
_NOTHING = lazy_regex(r"\s*(?:#.*|//.*)?[\s{}\[\](),]*")


@dataclass(slots=True)
class Field:
    """A key or a list item with its value."""

    name: str
    item: Item
    node: Node
    tree: Tree

    @property
    def text(self) -> str | None:
        """The text of a scalar; None for a list, a section and null."""
        return self.node.text if isinstance(self.node, Scalar) and not self.node.null else None

    @property
    def number(self) -> float | None:
        try:
            return float(self.text or "")
        except ValueError:
            return None

    @property
    def flag(self) -> bool | None:
        """The truth value of a scalar; None if it is none."""
        text = (self.text or "").lower()
        return True if text in TRUE else False if text in FALSE else None

    def __iter__(self) -> Iterator[Field]:
        """The keys of a section, or the items of a list; nothing for a scalar."""
        if isinstance(self.node, Mapping):
            for key, value in self.node.entries:
                yield Field(key.text, self.tree.item(key.mark), value, self.tree)
        elif isinstance(self.node, Sequence):
            for number, value in enumerate(self.node.items):
                yield Field(str(number), self.tree.item(value.mark, self.item), value, self.tree)

    def get(self, name: str) -> Field | None:
        """The key of a section."""
        found = self.node.find(name) if isinstance(self.node, Mapping) else None
        return None if found is None else Field(name, self.tree.item(found[0].mark), found[1], self.tree)

    def at(self, path: str) -> Field | None:
        """The key at a path of names with dots."""
        found: Field | None = self
        for name in path.split("."):
            found = None if found is None else found.get(name)
        return found

    @property
    def texts(self) -> list[str]:
        """The scalars of a list; a single scalar is a list of one."""
        if self.text is not None:
            return [self.text]
        return [one.text for one in self if one.text is not None] if isinstance(self.node, Sequence) else []

    def everything(self) -> Iterator[Field]:
        """This key and all keys and items below it."""
        yield self
        for one in self:
            yield from one.everything()

    def exact(self, reason: str = "") -> None:
        """Note this key and everything below it."""
        for one in self.everything():
            one.item.exact(reason)

    def rest(self, note: str, reason: str) -> None:
        """Note the nodes without a report, here and below: `note` is the name of an Item's method."""
        for one in self.everything():
            if not one.item.notes:
                getattr(one.item, note)(reason)


@dataclass(slots=True)
class Tree:
    """The statements of one file."""

    report: Report
    name: str
    items: dict[tuple[int, int], Item] = field(default_factory=dict)

    def root(self, text: str, node: Mapping) -> Field:
        self.report.source(self.name, text)
        whole = Item(self.name, 0, 0)
        root = Field("", whole, node, self)
        self._register(node, None)
        self._lines(text)
        return root

    def item(self, mark: Mark, default: Item | None = None) -> Item:
        """The statement that begins here. A list item that is no scalar has the statement of its list."""
        found = self.items.get((mark.line, mark.column), default)
        assert found is not None
        return found

    def _register(self, node: Node, outer: Item | None) -> None:
        if isinstance(node, Mapping):
            for key, value in node.entries:
                if isinstance(value, Scalar) and is_secret_name(key.text) and not _REFERENCE.match(value.text):
                    self.report.hide(value.text)
                self._register(value, self._new(key, outer))
        elif isinstance(node, Sequence):
            for one in node.items:
                if isinstance(one, Scalar):
                    self._new(one, outer)
                else:
                    self._register(one, outer)

    def _new(self, scalar: Scalar, outer: Item | None) -> Item:
        position = scalar.mark.line, scalar.mark.column
        if position not in self.items:
            self.items[position] = self.report.item(self.name, scalar.mark.line, 0, scalar.text[:40], outer)
        return self.items[position]

    def _lines(self, text: str) -> None:
        lines = text.split("\n")
        begins = sorted({line for line, _ in self.items})
        ends = dict(zip(begins, [*begins, len(lines) + 1][1:], strict=True))
        for one in self.items.values():
            last = ends[one.line] - 1
            while last > one.line and _NOTHING.fullmatch(lines[last - 1]):
                last -= 1
            one.last = last
