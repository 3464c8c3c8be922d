"""Sections of the configuration made in Python, with the keys that plug-ins add to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def section(kind: Callable[..., T], /, **members: object) -> T:
    """One section. A type checker knows its own fields only, and not those of `schema.plugins.members`."""
    return kind(**members)
