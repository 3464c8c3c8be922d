"""Function names as Gemini takes them, and back: a name that it would refuse is written another way, always the same.

Laws:
1. A name that Gemini takes stays as it is.
2. The other way of writing depends on nothing but the name, so that a history is written as the turn before it was.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_TAKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}", re.ASCII)
_OTHER = re.compile(r"[^A-Za-z0-9_.\-]", re.ASCII)
_LONGEST = 64


def written(name: str) -> str:
    """The name for the endpoint."""
    if _TAKEN.fullmatch(name):
        return name
    mark = "_" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return "_" + _OTHER.sub("_", name)[: _LONGEST - 1 - len(mark)] + mark


def names_back(names: Iterable[str]) -> dict[str, str]:
    """From what the endpoint was told to the name that the client knows, for those that differ."""
    return {other: name for name in names if (other := written(name)) != name}
