"""Lists of tools in input items: `additional_tools` of the client, and `tool_search_output`, the result of a search.

Laws:
1. A list of additional tools that the client repeats with every turn is stored once, at its first position.
2. Lists are compared by their tools; the ids of their items do not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from relayd.protocols import _json
from relayd.wire.json_steps import Steps, write_steps

TOOL_LIST_TYPES = ("additional_tools", "tool_search_output")
_LocatedItem = tuple[str, Mapping[str, Any]]


def item_tool_lists(located_items: Iterable[_LocatedItem]) -> Iterator[tuple[str, list[Any]]]:
    """Yield each non-empty list of tools with its path. Raises Refused if `tools` is not a list."""
    for at, item in located_items:
        if item["type"] in TOOL_LIST_TYPES:
            tools = _json.optional(item, "tools", "a list", at + ".")
            if tools:
                yield at + ".tools", tools


def without_repeated_lists(located_items: Iterable[_LocatedItem]) -> Steps[tuple[_LocatedItem, ...]]:
    """Return the items without repeated lists of additional tools; in steps."""
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
