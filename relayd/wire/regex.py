"""The syntax of the regular expressions that a configuration may hold: a subset of Python's, parsed into a tree.

1. What this parser does not know is refused, with its place. Nothing is guessed, so a later Python cannot add a
   construct that passes unseen.
2. Which bytes a set, an escape or a letter matches is asked of Python's own matcher, so the tree cannot disagree.
3. Only bytes that the path of a request can hold count (`ALPHABET`); every other byte is left out of the sets.

The parser is relayd's own because `re._parser` is private and changes between versions of Python.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache

ALPHABET = bytes(code for code in range(0x21, 0x7F) if code not in b"#?")
EVERY = (1 << len(ALPHABET)) - 1
BITS = {code: 1 << position for position, code in enumerate(ALPHABET)}
MAX_CHARS = 500
MAX_DEPTH = 20
MAX_GROUPS = 32  # the matcher keeps the ends of all of them for each turn of a repetition

_COUNT = re.compile(r"\{([0-9]*)(,?)([0-9]*)\}", re.ASCII)
_GROUP = re.compile(r"\((?:\?(?:P<[A-Za-z_][A-Za-z0-9_]*>|[:>]|([ais]*)(?:-([is]+))?:))?", re.ASCII)
_FLAGS = re.compile(r"\(\?([ais]+)\)")
_REFUSED_GROUPS = {
    "(?=": "a lookahead", "(?!": "a lookahead; write the exception as a route of its own before this one",
    "(?<": "a lookbehind", "(?P=": "a reference back to a group", "(?(": "a conditional", "(?#": "a comment",
}


class Unsupported(ValueError):
    """A construct that is refused. `position` counts characters from 1."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"{reason}, at character {position}")


@dataclass(frozen=True, slots=True)
class Chars:
    """One byte out of a set; `mask` has a bit for each byte of ALPHABET."""

    mask: int


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`most` is None without a bound; `position` is where it begins (from 1) and `text` how it is written."""

    body: Node
    least: int
    most: int | None
    possessive: bool
    position: int
    text: str


Node = Chars | Sequence | Choice | Repeat


@lru_cache(4096)
def _mask(item: str, ignore_case: bool) -> int:
    """The bytes that one item of a pattern matches, by Python's own account."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sets whose meaning may change one day
        found = re.compile(item.encode(), re.IGNORECASE if ignore_case else 0).findall(ALPHABET)
    return sum(BITS[byte[0]] for byte in found)


class _Parser:
    """One pattern being parsed; used once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.depth = 0
        self.groups = 0

    def whole(self) -> Node:
        ignore_case = False
        flags = _FLAGS.match(self.text)
        if flags is not None:
            ignore_case, self.position = "i" in flags[1], flags.end()
        tree = self.choice(ignore_case)
        if self.position < len(self.text):
            raise Unsupported(self.position + 1, "a parenthesis that was not opened")
        return tree

    def choice(self, ignore_case: bool) -> Node:
        parts = [self.sequence(ignore_case)]
        while self.text.startswith("|", self.position):
            self.position += 1
            parts.append(self.sequence(ignore_case))
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def sequence(self, ignore_case: bool) -> Node:
        parts: list[Node] = []
        if self.depth == 0:
            self.skip_anchor("^", "\\A")
        while self.position < len(self.text) and self.text[self.position] not in "|)":
            if self.depth == 0 and self.skip_anchor("$", "\\Z"):
                break
            start = self.position
            parts.append(self.repeated(self.atom(ignore_case), start))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def skip_anchor(self, *anchors: str) -> bool:
        """Anchors where the whole path begins and ends say nothing that is not so without them."""
        for anchor in anchors:
            end = self.position + len(anchor)
            last = self.text[end : end + 1] in ("", "|")
            if self.text.startswith(anchor, self.position) and (last or anchor in ("^", "\\A")):
                self.position = end
                return True
        return False

    def atom(self, ignore_case: bool) -> Node:
        text, start = self.text, self.position
        sign = text[start]
        if sign == "(":
            return self.group(ignore_case)
        if sign in "*+?":
            raise Unsupported(start + 1, f"{sign} without anything to repeat")
        if sign in "^$":
            raise Unsupported(start + 1, f"{sign} inside the pattern (for the character itself write \\{sign})")
        if sign == "{":
            hint = "" if _COUNT.match(text, start) else "; for any segment of a path write [^/]+"
            raise Unsupported(start + 1, f"a brace that repeats nothing (for the character itself write \\{{{hint})")
        if sign == ".":
            self.position += 1
            return Chars(EVERY)
        if sign == "[":
            self.position = self.set_end(start)
        elif sign == "\\":
            self.position = self.escape_end(start)
        else:
            self.position += 1
            return Chars(_mask(re.escape(sign), ignore_case))
        try:
            return Chars(_mask(text[start : self.position], ignore_case))
        except re.error as fault:
            raise Unsupported(start + 1, f"{text[start : self.position]}, {fault.msg}") from None

    def set_end(self, start: int) -> int:
        text, index = self.text, start + 1
        index += text.startswith("^", index)
        index += text.startswith("]", index)
        while index < len(text) and text[index] != "]":
            index += 2 if text[index] == "\\" else 1
        if index >= len(text):
            raise Unsupported(start + 1, "a set that is not closed")
        return index + 1

    def escape_end(self, start: int) -> int:
        sign = self.text[start + 1 : start + 2]
        if sign == "x":
            return start + 4
        if sign.isdigit():
            raise Unsupported(start + 1, "a reference back to a group")
        if sign in "bBAZz" or not sign:
            raise Unsupported(start + 1, f"\\{sign}")
        if sign.isalpha() and sign not in "dDwWsStnrfva":
            raise Unsupported(start + 1, f"\\{sign}")
        return start + 2

    def group(self, ignore_case: bool) -> Node:
        start = self.position
        found = _GROUP.match(self.text, start)
        if found is None or (found[0] == "(" and self.text.startswith("?", found.end())):
            what = next((_REFUSED_GROUPS[one] for one in _REFUSED_GROUPS if self.text.startswith(one, start)), "")
            raise Unsupported(start + 1, what or f"{self.text[start : start + 4]}...")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unsupported(start + 1, f"groups nested deeper than {MAX_DEPTH}")
        self.groups += found[0] == "(" or found[0].startswith("(?P<")
        if self.groups > MAX_GROUPS:
            raise Unsupported(start + 1, f"more than {MAX_GROUPS} groups; write (?:...) where nothing refers to one")
        if found[1] is not None or found[2] is not None:
            ignore_case = (ignore_case or "i" in (found[1] or "")) and "i" not in (found[2] or "")
        self.position = found.end()
        inner = self.choice(ignore_case)
        if not self.text.startswith(")", self.position):
            raise Unsupported(start + 1, "a parenthesis that is not closed")
        self.position += 1
        self.depth -= 1
        return inner

    def repeated(self, body: Node, start: int) -> Node:
        text = self.text
        sign = text[self.position : self.position + 1]
        if sign and sign in "*+?":
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
            self.position += 1
        elif sign == "{" and (found := _COUNT.match(text, self.position)) is not None and found[0] != "{}":
            least = int(found[1] or 0)
            most = None if found[2] and not found[3] else int(found[3] or found[1] or 0)
            if most is not None and most < least:
                raise Unsupported(self.position + 1, f"{found[0]}, whose bounds are the wrong way round")
            self.position = found.end()
        else:
            return body
        possessive = text.startswith("+", self.position)
        self.position += text[self.position : self.position + 1] in ("+", "?")
        if (again := text[self.position : self.position + 1]) and again in "*+?":
            raise Unsupported(self.position + 1, f"{again} behind a repetition")
        return Repeat(body, least, most, possessive, start + 1, text[start : self.position])


def parse(text: str) -> Node:
    """The tree of a pattern. Raises Unsupported."""
    return _Parser(text).whole()
