"""The memory of a reader that only checks or compares a response."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relayd.wire.json_steps import Steps


class NoMemory:
    """Finds nothing, and stores nothing. A `Memory` of relayd.protocols.dialect."""

    must_fetch = False

    def get(self, key: str) -> Any:
        """Nothing is known."""
        return None

    def get_steps(self, key: str) -> Steps[Any]:
        """Nothing is known."""
        yield
        return None

    def fetch_steps(self, keys: Iterable[str]) -> Steps[None]:
        """Nothing is known."""
        yield

    def put(self, key: str, value: Any) -> None:
        """Nothing is stored."""

    def put_steps(self, key: str, value: Any) -> Steps[None]:
        """Nothing is stored."""
        yield

    def delete(self, key: str) -> bool:
        """Nothing was stored."""
        return False

    def lost(self, key: str) -> str:
        """No reason is needed."""
        return ""
