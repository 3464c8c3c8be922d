"""Permits: how many exchanges are under way at one time, and whose they are.

1. `take` and `give` come in pairs; whoever took gives once. The gate's tickets see to that.
2. Nothing is revoked: a limit that was lowered below what is taken lets nobody in until enough was given back.
"""

from __future__ import annotations


class Permits:
    """Counts; owned by one gate. `limit` 0 means no limit. `held` has no entry for who holds none."""

    __slots__ = ("held", "limit", "taken")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.taken = 0
        self.held: dict[str, int] = {}

    @property
    def free(self) -> bool:
        """Whether one more may be taken."""
        limit = self.limit
        return not limit or self.taken < limit

    @property
    def over(self) -> int:
        """How many must be given back before the next one is free, less one."""
        return max(0, self.taken - self.limit) if self.limit else 0

    def take(self, who: str) -> None:
        """Take one."""
        self.taken += 1
        held = self.held
        held[who] = held.get(who, 0) + 1

    def give(self, who: str) -> None:
        """Give one back."""
        self.taken -= 1
        held = self.held
        left = held[who] - 1
        if left:
            held[who] = left
        else:
            del held[who]
