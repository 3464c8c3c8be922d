"""Path patterns of other programs as regular expressions of relayd, which match the whole path."""

from __future__ import annotations

import re

from relayd.config.patterns import fault_of_path
from relayd.lazy_regex import lazy_regex
from relayd.wire.regex_proof import fault_of_regex

_SIMPLE = lazy_regex(r"[A-Za-z0-9/_\-.|()?:*+\[\]^$\\,{}~!=&@]*", re.ASCII)
_SPECIAL = ".*+?()[]{}|^$\\"


def whole_path(pattern: str, *, ignore_case: bool = False) -> str:
    """A regular expression that is searched in the path, as one that matches the whole path. Raises ValueError."""
    if "|" in _top_level(pattern):
        alternatives = [_anchored(one) for one in _split(pattern)]
        result = f"(?:{'|'.join(alternatives)})"
    else:
        result = _anchored(pattern)
    if ignore_case:
        result = f"(?i:{result})"
    if fault := fault_of_regex(result):
        raise ValueError(fault)
    return result


def is_portable(pattern: str) -> bool:
    """True if PCRE, RE2 and Python understand the pattern in the same way, and it has no escapes for characters."""
    return _SIMPLE.fullmatch(pattern) is not None and re.search(r"\\[a-ce-rt-vx-zA-CE-RT-VX-Z0-9]|\(\?[^:]|\[\[:", pattern) is None


def literal_prefix(pattern: str) -> str:
    """The text with which every match of an anchored pattern begins; empty if the pattern is not anchored."""
    if not pattern.startswith("^"):
        return ""
    literal = ""
    for position in range(1, len(pattern)):
        sign = pattern[position]
        if sign in _SPECIAL:
            return literal[:-1] if sign in "*?{" else "" if "|" in _top_level(pattern) else literal
        literal += sign
    return literal


def usable_prefix(path: str) -> bool:
    return fault_of_path(path, whole=False) is None


def _anchored(pattern: str) -> str:
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[1 if begins else 0 : -1 if ends else None]
    # As short as possible: a search finds the first place, on which groups depend.
    return f"{'' if begins else '.*?'}{inner}{'' if ends or inner.endswith(('.*', '(.*)')) else '.*'}"


def _top_level(pattern: str) -> str:
    """The pattern without groups, classes and escapes."""
    return "".join(sign for sign, depth in _depths(pattern) if depth == 0)


def _split(pattern: str) -> list[str]:
    parts = [""]
    for sign, depth in _depths(pattern):
        if sign == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _depths(pattern: str) -> list[tuple[str, int]]:
    """Each character (an escape is one) with its depth: 0 outside of groups and classes."""
    result, depth, inside, position = [], 0, False, 0
    while position < len(pattern):
        sign = pattern[position : position + 2] if pattern[position] == "\\" else pattern[position]
        position += len(sign)
        if sign == "[" and not inside:
            inside, depth = True, depth + 1
        elif sign == "(" and not inside:
            depth += 1
        result.append((sign, depth))
        if sign == "]" and inside:
            inside, depth = False, depth - 1
        elif sign == ")" and not inside:
            depth -= 1
    return result
