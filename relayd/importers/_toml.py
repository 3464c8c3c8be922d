"""TOML as the same tree of nodes as YAML: values by tomllib, positions by the lines of tables and keys.

tomllib gives no positions. A table or key at the beginning of a line has that line; keys of inline tables, and items of
lists, have the line of the key before them.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from relayd.importers._sources import SourceError
from relayd.lazy_regex import lazy_regex
from relayd.schema.nodes import Mapping, Mark, Node, Scalar, Sequence

_KEY = r"(?:[A-Za-z0-9_-]+|\"(?:[^\"\\]|\\.)*\"|'[^']*')"
_TABLE = lazy_regex(rf"\s*(?P<array>\[)?\[\s*(?P<path>{_KEY}(?:\s*\.\s*{_KEY})*)\s*\]")
_ASSIGN = lazy_regex(rf"\s*(?P<path>{_KEY}(?:\s*\.\s*{_KEY})*)\s*=")
_PART = lazy_regex(_KEY)


def toml_tree(text: str, name: str) -> Mapping:
    """The tree of a TOML text. Raises SourceError with file and line."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        line = re.search(r"line (\d+)", str(fault))
        raise SourceError(f"{name}:{line[1] if line else 1}: TOML: {fault}") from None
    nodes = _Nodes(name, _places(text))
    found = nodes.node(values, (), Mark(name, 1, 0))
    assert isinstance(found, Mapping)
    return found


def _places(text: str) -> dict[tuple[str | int, ...], int]:
    """The lines of the keys, by their paths."""
    places: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if found := _TABLE.match(line):
            path = _with_indexes(_parts(found["path"]), counts)
            if found["array"]:
                count = counts.get(path, -1) + 1
                counts[path] = count
                table = (*path, count)
                places.setdefault(path, number)
            else:
                table = path
            for length in range(1, len(table) + 1):
                places.setdefault(table[:length], number)
        elif found := _ASSIGN.match(line):
            parts = _parts(found["path"])
            for length in range(1, len(parts) + 1):
                places.setdefault((*table, *parts[:length]), number)
    return places


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part[1:-1] if part[0] in "\"'" else part for part in _PART.findall(path))


def _with_indexes(parts: tuple[str, ...], counts: dict[tuple[str | int, ...], int]) -> tuple[str | int, ...]:
    """A path through arrays of tables: the last table of each is meant."""
    path: tuple[str | int, ...] = ()
    for position, part in enumerate(parts):
        path = (*path, part)
        if path in counts and position < len(parts) - 1:
            path = (*path, counts[path])
    return path


class _Nodes:
    """Makes the nodes. A column counts the keys of a line, because statements are told apart by line and column."""

    def __init__(self, name: str, places: dict[tuple[str | int, ...], int]) -> None:
        self.name, self.places = name, places
        self.columns: dict[int, int] = {}

    def mark(self, line: int) -> Mark:
        self.columns[line] = self.columns.get(line, 0) + 1
        return Mark(self.name, line, self.columns[line])

    def node(self, value: Any, path: tuple[str | int, ...], around: Mark) -> Node:
        if isinstance(value, dict):
            entries = []
            for key, inner in value.items():
                mark = self.mark(self.places.get((*path, key), around.line))
                entries.append((Scalar(key, False, mark), self.node(inner, (*path, key), mark)))
            return Mapping(tuple(entries), around)
        if isinstance(value, list):
            items = []
            for number, inner in enumerate(value):
                mark = self.mark(self.places.get((*path, number), around.line))
                items.append(self.node(inner, (*path, number), mark))
            return Sequence(tuple(items), around)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return Scalar(text, not isinstance(value, str), around)
