"""The files of an import: given by name, or included by another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field

from relayd.dataclass import dataclass

FILES = 200
DEPTH = 8
BLOCKS = 32  # that are open at the same time


class SourceError(Exception):
    """A source cannot be read or parsed. The message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file by its name and its text."""

    name: str
    text: str


@dataclass(slots=True)
class Sources:
    """The files of one import, and the way to read further ones that they include.

    `named` returns the paths that a pattern matches, relative to a file; `read` their text, or raises OSError.
    """

    given: Sequence[Source]
    named: Callable[[str, str], list[str]] = lambda pattern, beside: []
    read: Callable[[str], str] = field(default=lambda path: "")
    count: int = 0

    def included(self, pattern: str, beside: str) -> list[Source]:
        """The files that an include names. Raises SourceError for an unreadable one."""
        result = []
        for path in self.named(pattern, beside):
            self.count += 1
            if self.count > FILES:
                raise SourceError(f"{beside}: includes more than {FILES} files")
            try:
                result.append(Source(path, self.read(path)))
            except (OSError, ValueError) as fault:
                raise SourceError(f"{path}: cannot be read: {fault}") from None
        return result
