"""What every kind of store is given beside its own Options."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a store may keep and for how long; `folder` is the state directory, where a store may keep files."""

    entries: int
    size_bytes: int
    ttl_s: float
    folder: str
