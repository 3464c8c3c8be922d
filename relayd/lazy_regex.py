"""Regular expressions that are compiled when they are first used.

1. A declaration means the same as `re.compile`: the same attributes, and the same errors, but at the first use.
2. From its second use on, a method is that of the compiled pattern.

The modules of relayd declare some 290 expressions. Compiling them took a quarter of a start, and one process uses few.
tests/unit/test_lazy_regex.py compiles all of them. All expressions of modules are declared with it.
"""

from __future__ import annotations

import re
from typing import Any, AnyStr, Generic, cast


class _LazyRegex(Generic[AnyStr]):
    """Owned by the module that declares it; immutable for its users."""

    __slots__ = (
        "_flags", "findall", "finditer", "fullmatch", "match", "pattern", "search", "split", "sub", "subn",
    )  # fmt: skip

    def __init__(self, text: AnyStr, flags: int) -> None:
        self.pattern: AnyStr = text
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(self.pattern, self._flags), name)
        setattr(self, name, found)
        return found


def lazy_regex(text: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """Declare an expression of a module; the arguments are those of `re.compile`."""
    return cast("re.Pattern[AnyStr]", _LazyRegex(text, flags))
