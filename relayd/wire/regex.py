"""Parser of the regular expressions in a configuration: a subset of Python's syntax, parsed into a tree.

1. An unknown construct is rejected with its position, so that a new construct of a later Python is never accepted
   without support.
2. Python's own matcher determines the bytes that a set, an escape or a letter matches, so the tree agrees with it.
3. The sets contain only bytes that the path of a request can contain (`ALPHABET`).

relayd has its own parser because `re._parser` is private and changes between versions of Python.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex

ALPHABET = bytes(code for code in range(0x21, 0x7F) if code not in b"#?")
EVERY = (1 << len(ALPHABET)) - 1
BITS = {code: 1 << position for position, code in enumerate(ALPHABET)}
MAX_CHARS = 500
MAX_DEPTH = 20
MAX_GROUPS = 32  # the matcher saves the ends of all groups in each iteration of a repetition

_COUNT = lazy_regex(r"\{([0-9]*)(,?)([0-9]*)\}", re.ASCII)
_GROUP = lazy_regex(r"\((?:\?(?:P<[A-Za-z_][A-Za-z0-9_]*>|[:>]|([ais]*)(?:-([is]+))?:))?", re.ASCII)
_FLAGS = lazy_regex(r"\(\?([ais]+)\)")
_REFUSED_GROUPS = {
    "(?=": "a lookahead", "(?!": "a lookahead; write the exception as a separate route before this one",
    "(?<": "a lookbehind", "(?P=": "a backreference", "(?(": "a conditional", "(?#": "a comment",
}


class Unsupported(ValueError):
    """An unsupported construct. `position` counts characters from 1."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"{reason}, at character {position}")


@dataclass(frozen=True, slots=True)
class Chars:
    """One byte of a set; `mask` has a bit for each byte of ALPHABET."""

    mask: int


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`most` is None if unbounded; `position` is its position (from 1), `text` its source text."""

    body: Node
    least: int
    most: int | None
    possessive: bool
    position: int
    text: str


Node = Chars | Sequence | Choice | Repeat


@lru_cache(4096)
def _mask(item: str, ignore_case: bool) -> int:
    """The bytes that one item of a pattern matches, according to Python's matcher."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about future set syntax
        found = re.compile(item.encode(), re.IGNORECASE if ignore_case else 0).findall(ALPHABET)
    return sum(BITS[byte[0]] for byte in found)


class _Parser:
    """Parses one pattern; used once."""

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
            raise Unsupported(self.position + 1, "an unmatched closing parenthesis")
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
        """Skip an anchor at the beginning or end of the pattern. It has no effect: the whole path must match."""
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
            raise Unsupported(start + 1, f"{sign} with nothing to repeat")
        if sign in "^$":
            raise Unsupported(start + 1, f"{sign} inside the pattern (for the character itself write \\{sign})")
        if sign == "{":
            more = "" if _COUNT.match(text, start) else "; for any segment of a path write [^/]+"
            raise Unsupported(start + 1, f"a brace with nothing to repeat (for the character itself write \\{{{more})")
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
            raise Unsupported(start + 1, "an unterminated set")
        return index + 1

    def escape_end(self, start: int) -> int:
        sign = self.text[start + 1 : start + 2]
        if sign == "x":
            return start + 4
        if sign.isdigit():
            raise Unsupported(start + 1, "a backreference")
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
            raise Unsupported(start + 1, f"more than {MAX_GROUPS} groups; write (?:...) for unreferenced groups")
        if found[1] is not None or found[2] is not None:
            ignore_case = (ignore_case or "i" in (found[1] or "")) and "i" not in (found[2] or "")
        self.position = found.end()
        inner = self.choice(ignore_case)
        if not self.text.startswith(")", self.position):
            raise Unsupported(start + 1, "an unmatched opening parenthesis")
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
                raise Unsupported(self.position + 1, f"{found[0]}, with its bounds in the wrong order")
            self.position = found.end()
        else:
            return body
        possessive = text.startswith("+", self.position)
        self.position += text[self.position : self.position + 1] in ("+", "?")
        if (again := text[self.position : self.position + 1]) and again in "*+?":
            raise Unsupported(self.position + 1, f"{again} after a repetition")
        return Repeat(body, least, most, possessive, start + 1, text[start : self.position])


def parse(text: str) -> Node:
    """The tree of a pattern. Raises Unsupported."""
    return _Parser(text).whole()
