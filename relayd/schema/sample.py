"""Renders the complete sample file: every key with its meaning and its default, all commented out.

Law: removing one `#` from every line that does not begin with `##` results in a text with known keys only.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from relayd.schema.describe import (
    Key,
    is_one_of,
    is_section,
    keys,
    list_item,
    mapping_value,
    shorthand_of,
    without_none,
)
from relayd.schema.show import SECRET_EXAMPLE, bounds, show_default, show_key_kind, show_value
from relayd.schema.types import Duration, Money, Secret, Size

WIDTH = 118
INDENT = "  "


def sample(root: type, title: str) -> str:
    """The sample file of a document whose outermost section is `root`."""
    lines = [f"## {line}" for line in textwrap.wrap(title, WIDTH - 3)]
    for key in keys(root):
        lines.append("")
        lines.extend(_key(key, 0))
    return "\n".join(lines) + "\n"


def _doc(text: str, depth: int) -> Iterator[str]:
    lead = f"## {INDENT * depth}"
    yield from (f"{lead}{line}" for line in textwrap.wrap(text, WIDTH - len(lead)))


def _line(text: str, depth: int) -> str:
    return f"#{INDENT * depth}{text}"


def _key(key: Key, depth: int) -> Iterator[str]:
    yield from _doc(_meaning(key), depth)
    inner = key.bare
    if is_section(inner) and not _short(inner):
        yield _line(f"{key.name}:", depth)
        yield from _section(inner, depth + 1)
        return
    item, value = list_item(inner), mapping_value(inner)
    if is_section(item) and not _short(item):
        yield _line(f"{key.name}:", depth)
        yield from _first_dashed(list(_section(item, depth + 2)), depth + 1)
    elif is_section(value) and not _short(value):
        yield _line(f"{key.name}:", depth)
        yield _line("example:", depth + 1)
        yield from _section(value, depth + 2)
    else:
        for one in (inner, item, value):
            if is_section(one):
                yield from _inside(one, depth + 1)
        yield _line(f"{key.name}: {_written(key)}", depth)


def _inside(section: type, depth: int) -> Iterator[str]:
    """The keys of a section that is shown in one line, as comments."""
    for key in keys(section):
        yield from _doc(f"{key.name}: {_meaning(key)}", depth)
        for one in (key.bare, list_item(key.bare), mapping_value(key.bare)):
            if is_section(one):
                yield from _inside(one, depth + 1)


def _short(section: Any) -> bool:
    """True if the sample shows a section by its shorthand or in one line."""
    return shorthand_of(section) is not None or is_one_of(section)


def _section(section: type, depth: int) -> Iterator[str]:
    for key in keys(section):
        yield from _key(key, depth)


def _first_dashed(lines: list[str], depth: int) -> Iterator[str]:
    """Lines of a section as the first item of a list, with a dash before the first key."""
    lead = f"#{INDENT * (depth + 1)}"
    done = False
    for line in lines:
        if not done and not line.startswith("##") and line.startswith(lead):
            line, done = f"#{INDENT * depth}- {line[len(lead):]}", True
        yield line


def _meaning(key: Key) -> str:
    default, bound = show_default(key) if not _has_section(key) else "", bounds(key)
    facts = [show_key_kind(key)]
    facts += [bound] if bound else []
    facts += ["required"] if key.required else [f"default {default}"] if default else []
    facts += [f"not in force yet, waits for {key.pending}"] if key.pending else []
    return f"{key.doc} ({'; '.join(facts)})"


def _has_section(key: Key) -> bool:
    return any(is_section(kind) for kind in (key.bare, list_item(key.bare), mapping_value(key.bare)))


def _written(key: Key) -> str:
    if key.example is not None:
        return show_value(key.example)
    default = "" if _has_section(key) else show_default(key)
    return default or _made_up(key.bare, key)


def _made_up(kind: Any, key: Key | None = None) -> str:
    """A made-up value that shows the form, for a key without default and example."""
    kind = without_none(kind)
    item, value = list_item(kind), mapping_value(kind)
    if item is not None:
        return f"[{_made_up(item, key)}]"
    if value is not None:
        return f"{{example: {_made_up(value)}}}"
    if is_section(kind):
        short = shorthand_of(kind)
        first = next((one for one in keys(kind) if one.name == short), keys(kind)[0])
        choice = show_value(first.example) if first.example is not None else show_default(first) or _made_up(first.kind)
        return choice if short else f"{{{first.name}: {choice}}}"
    if kind is Secret:
        return SECRET_EXAMPLE
    if kind in (Duration, Money, Size, int, float, bool):
        return {Duration: "30s", Money: "2.50", Size: "64KiB", int: "1", float: "1", bool: "true"}[kind]
    if key is not None and key.choices is not None:
        return next(iter(key.choices))
    if key is not None and key.pattern is not None and key.pattern.startswith("/"):
        return "/example"
    return "example" if kind is str else show_default(key) if key is not None else ""
