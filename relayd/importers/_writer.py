"""Writes the sections of a relayd.yaml with comments; the only writer of YAML of the importers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relayd.importers._draft import Commented, Values
from relayd.schema.show import show_text, show_value

WIDTH = 100


def yaml_text(sections: Values, head: str) -> str:
    """The text of a relayd.yaml. `head`: the comment at its beginning."""
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    for name, section in sections.items():
        lines += ["", f"{name}:"]
        lines += _items(section) if isinstance(section, list) else _names(section, 1)
    return "\n".join(lines) + "\n"


def _items(section: list[Any]) -> Iterator[str]:
    for one in section:
        yield from _comment(one, 1)
        value = one.value if isinstance(one, Commented) else one
        flow = show_value(value)
        if len(flow) <= WIDTH:
            yield f"  - {flow}"
            continue
        block = list(_names(value, 2))
        yield f"  - {block[0].lstrip()}"
        yield from block[1:]


def _names(section: Values, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, one in section.items():
        yield from _comment(one, depth)
        value = one.value if isinstance(one, Commented) else one
        key = show_text(str(name))
        flow = show_value(value)
        if not isinstance(value, (dict, list)) or len(indent + key + flow) <= WIDTH or not value:
            yield f"{indent}{key}: {flow}"
        elif isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _names(value, depth + 1)
        else:
            yield f"{indent}{key}:"
            yield from (f"{indent}  - {show_value(item)}" for item in value)


def _comment(one: Any, depth: int) -> Iterator[str]:
    if isinstance(one, Commented) and one.comment:
        yield f"{'  ' * depth}# {one.comment}"
