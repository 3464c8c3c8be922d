"""The dialects of this package: a subpackage of relayd.protocols that defines DIALECT is a dialect.

1. The name in relayd.yaml is the subpackage's name; nothing else lists the dialects.
2. `names` loads nothing; `dialect` loads the requested dialect, once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from relayd import registry
from relayd.protocols.dialect import Dialect

PACKAGE = "relayd.protocols"
PLAIN = "plain"  # opaque bytes: no dialect
DEFAULT = "openai_chat"  # the clients' dialect on a route that selects by model and has no `protocol:`


def names() -> tuple[str, ...]:
    """The names of all dialects, sorted."""
    return registry.kinds(PACKAGE, packages_only=True)


@functools.cache
def dialect(name: str) -> Dialect | None:
    """The dialect of this name; None for `plain`. Raises KeyError for an unknown name."""
    if name == PLAIN:
        return None
    if name not in names():
        raise KeyError(f"{name!r} is no dialect; known: {', '.join(names())}")
    found = registry.load(PACKAGE, name).DIALECT
    if not isinstance(found, Dialect) or found.name != name:
        raise KeyError(f"{PACKAGE}.{name} does not define the dialect {name}")
    return found


def load(name: str) -> Dialect:
    """As `dialect`, for a name other than `plain`."""
    found = dialect(name)
    if found is None:
        raise KeyError(f"{name} is no dialect")
    return found


def dialects() -> tuple[Dialect, ...]:
    """All dialects; loads them."""
    return tuple(load(name) for name in names())


class Protocols:
    """The values of `protocol:`: `plain` and the dialects. `endpoints` excludes dialects that only clients speak.

    Looking up one value loads that dialect only; iterating, for error messages and manuals, may load all of them.
    """

    def __init__(self, *, endpoints: bool = False) -> None:
        self._endpoints = endpoints

    def __contains__(self, name: object) -> bool:
        return name == PLAIN or (isinstance(name, str) and name in names() and self._is_included(name))

    def __iter__(self) -> Iterator[str]:
        yield PLAIN
        yield from (name for name in names() if self._is_included(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _is_included(self, name: str) -> bool:
        return not self._endpoints or load(name).has_endpoints
