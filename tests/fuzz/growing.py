"""Documents that grow: one or two places of a JSON document are repeated, lengthened or filled, as often as is asked.

Work that is not linear in its input shows itself when one place grows, or when two grow together.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]
IDS = frozenset(("id", "call_id", "tool_call_id", "tool_use_id", "item_id", "name", "$ref"))
FILLINGS = (
    " ", "\n", "a", '"', "\\", "{", "}", "[", "]", "{}", "[],", '{"a":', '"a":', "\\u0041", "\\n", "\u20ac", "\U0001f600", "\x00", "/", "%41", "=",
    "<think>", "data: ", "data:a;base64,", "-", "_", "null", "[DONE]", ": ", '{"a":1}', '{"a":1,', '"usage":{', "1", "x y ",
)  # fmt: skip
WEIGHTS: dict[type, int] = {list: 8, dict: 2, str: 1}
STRINGS, LISTS, OBJECTS = ("longer", "filled"), ("repeated", "numbered", "entry", "numbered entry"), ("members", "one value")


@dataclass(frozen=True)
class Growth:
    """What happens at one place: `kind` is one of the words above; `filling` is for strings, `entry` for lists."""

    path: Path
    kind: str
    filling: str = ""
    entry: int = 0


@dataclass(frozen=True)
class Growing:
    """A document and what grows in it."""

    name: str
    document: Any
    growths: tuple[Growth, ...]

    def at(self, count: int) -> Any:
        """The document with each place `count` times as large; a place inside of another one only four times."""
        document = copy.deepcopy(self.document)
        for growth in sorted(self.growths, key=lambda one: -len(one.path)):
            inside = any(other is not growth and growth.path[: len(other.path)] == other.path for other in self.growths)
            document = _replaced(document, growth.path, growth, 4 if inside else count)
        return document

    def count_for(self, size: int) -> int:
        """How often it must grow to have about this many bytes."""
        one, many = (len(json.dumps(self.at(count))) for count in (1, 9))
        return max(1, (size - one) * 8 // max(1, many - one))


def places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every list, object and string of a document that is not empty, with its path."""
    if isinstance(value, dict | list | str) and value:
        yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def growing(rng: random.Random, name: str, document: Any) -> Growing:
    """One or two places of a document, chosen by chance: rather a list than a string, rather the whole than a detail."""
    found = list(places(document))
    weights = [WEIGHTS[type(value)] / (1 + len(path)) for path, value in found]
    chosen = dict(rng.choices(found, weights, k=rng.choice((1, 1, 2))))
    return Growing(name, document, tuple(_growth(rng, path, value) for path, value in chosen.items()))


def _growth(rng: random.Random, path: Path, value: Any) -> Growth:
    if isinstance(value, str):
        return Growth(path, rng.choice(STRINGS), rng.choice(FILLINGS))
    return Growth(path, rng.choice(LISTS if isinstance(value, list) else OBJECTS), entry=rng.randrange(len(value)))


def _replaced(document: Any, path: Path, growth: Growth, count: int) -> Any:
    if not path:
        return _grown(document, growth, count)
    document[path[0]] = _replaced(document[path[0]], path[1:], growth, count)
    return document


def _grown(value: Any, growth: Growth, count: int) -> Any:
    if growth.kind == "longer":
        return value * count
    if growth.kind == "filled":
        return value + growth.filling * count
    if growth.kind == "repeated":
        return value * count
    if growth.kind == "numbered":
        return [renumbered(one, number) for number in range(count) for one in value]
    if growth.kind in ("entry", "numbered entry"):
        entry = value[growth.entry]
        many = [renumbered(entry, number) for number in range(count)] if growth.kind != "entry" else [entry] * count
        return value[: growth.entry] + many + value[growth.entry + 1 :]
    name, one = list(value.items())[growth.entry]
    if growth.kind == "members":
        return value | {f"{name}{number}": one for number in range(1, count)}
    return {**value, name: [copy.deepcopy(one) for _ in range(count)]}


def renumbered(value: Any, number: int, key: str = "") -> Any:
    """A copy in which ids and names have a number behind them."""
    if isinstance(value, dict):
        return {name: renumbered(one, number, name) for name, one in value.items()}
    if isinstance(value, list):
        return [renumbered(one, number, key) for one in value]
    return f"{value}{number}" if isinstance(value, str) and key in IDS else value
