"""Regular expressions of `match.regex`: they run on bytes that strangers choose, so what they can cost is bounded.

The bound is by form: no repetition inside a repetition, no alternatives inside one, few open repetitions, so that the
steps grow at most with a small power of the path's length. A possessive inner part (`[^/]++`) is free of that.
"""

from __future__ import annotations

import re
import warnings

LENGTH = 500
OPEN_REPETITIONS = 4
MANY = 100

_BRACES = re.compile(r"\{([0-9]*)(,?)([0-9]*)\}", re.ASCII)


def fault_of_regex(text: str) -> str | None:
    """What speaks against a regular expression, or None."""
    if len(text) > LENGTH:
        return f"is longer than {LENGTH} characters"
    try:
        # A warning of the compiler (a set that may change its meaning) is not worth refusing a configuration for.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except re.error as fault:
        return f"is not a regular expression: {fault.msg}"
    except (OverflowError, RecursionError):
        return "is too large a regular expression"
    return _cost(text)


def _cost(text: str) -> str | None:
    """The form's fault. Each open group is [holds a repetition, holds alternatives]."""
    groups: list[list[bool]] = [[False, False]]
    count = 0
    index = 0
    last: list[bool] = [False, False]
    while index < len(text):
        sign = text[index]
        if sign == "\\":
            index, last = index + 2, [False, False]
        elif sign == "[":
            index, last = _after_set(text, index), [False, False]
        elif sign == "(":
            groups.append([False, False])
            index = _after_opening(text, index)
        elif sign == ")":
            last = groups.pop() if len(groups) > 1 else last
            groups[-1] = [groups[-1][0] or last[0], groups[-1][1] or last[1]]
            index += 1
        elif sign == "|":
            groups[-1][1] = True
            index, last = index + 1, [False, False]
        else:
            width, many = _quantifier(text, index)
            if width == 0:
                index, last = index + 1, [False, False]
                continue
            index += width
            possessive = text[index : index + 1] == "+"
            index += text[index : index + 1] in ("+", "?") and 1
            if many:
                if last[0]:
                    return "repeats a group that holds a repetition; that can take for ever (make the inner one possessive: ++)"
                if last[1]:
                    return "repeats a group that holds alternatives; that can take for ever (use a set: [ab])"
            if not possessive:
                groups[-1][0] = True
                count += many
                if count > OPEN_REPETITIONS:
                    return f"has more than {OPEN_REPETITIONS} open repetitions; that can take for ever"
            last = [False, False]
    return None


def _quantifier(text: str, index: int) -> tuple[int, bool]:
    """Its width (0: there is none), and whether it repeats without a near end."""
    if text[index] in "*+":
        return 1, True
    if text[index] == "?":
        return 1, False
    found = _BRACES.match(text, index)
    if found is None or (not found[1] and not found[3]):
        return 0, False
    most = found[3] if found[2] else found[1]
    return len(found[0]), not most or int(most) > MANY


def _after_set(text: str, index: int) -> int:
    index += 1
    index += text[index : index + 1] == "^"
    index += text[index : index + 1] == "]"
    while index < len(text) and text[index] != "]":
        index += 2 if text[index] == "\\" else 1
    return index + 1


def _after_opening(text: str, index: int) -> int:
    """Behind `(`, `(?:`, `(?P<name>` and their kind, whose question mark repeats nothing."""
    found = re.compile(r"\((?:\?(?:P?<[A-Za-z_]\w*>|P=|P>|<?[=!]|[:>#(]|[aiLmsux\-]+:?))?").match(text, index)
    return found.end() if found else index + 1
