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

TOOL_LIST_TYPES = ("additional_tools", "tool_search_output")
_LocatedItem = tuple[str, Mapping[str, Any]]


def item_tool_lists(located_items: Iterable[_LocatedItem]) -> Iterator[tuple[str, list[Any]]]:
    """The lists of tools that items bring, each with its path. Raises Refused."""
    for at, item in located_items:
        if item["type"] in TOOL_LIST_TYPES:
            tools = _json.optional(item, "tools", "a list", at + ".")
            if tools:
                yield at + ".tools", tools


def without_repeated_lists(located_items: Iterable[_LocatedItem]) -> Steps[tuple[_LocatedItem, ...]]:
    """The items, but lists of additional tools that have come already; in steps."""
    seen: set[bytes] = set()
    unique: list[_LocatedItem] = []
    for at, item in located_items:
        yield
        if item["type"] == "additional_tools":
            json_text = yield from write_steps(item.get("tools"))
            if json_text in seen:
                continue
            seen.add(json_text)
        unique.append((at, item))
    return tuple(unique)
