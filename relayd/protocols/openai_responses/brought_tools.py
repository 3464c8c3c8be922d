"""Tools that items of a conversation bring: a client's list beside `tools`, and what a search for tools has found.

Laws:
1. A list that is sent again with every turn stands once in what is remembered: at the place of the first.
2. An item without an id and one with an id are the same list if their tools are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from relayd.protocols import _json
from relayd.wire.json_steps import Steps, write_steps

BRINGING = ("additional_tools", "tool_search_output")
_Placed = tuple[str, Mapping[str, Any]]


def brought_tools(placed: Iterable[_Placed]) -> Iterator[tuple[str, list[Any]]]:
    """The lists of tools that items bring, each with its path. Raises Refused."""
    for at, item in placed:
        if item["type"] in BRINGING:
            tools = _json.optional(item, "tools", "a list", at + ".")
            if tools:
                yield at + ".tools", tools


def once_each(placed: Iterable[_Placed]) -> Steps[tuple[_Placed, ...]]:
    """The items, but lists of additional tools that have come already; in steps."""
    known: set[bytes] = set()
    kept: list[_Placed] = []
    for at, item in placed:
        yield
        if item["type"] == "additional_tools":
            written = yield from write_steps(item.get("tools"))
            if written in known:
                continue
            known.add(written)
        kept.append((at, item))
    return tuple(kept)
