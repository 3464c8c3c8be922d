"""Who has the most waiting: counts per consumer, the largest known at once.

A full queue takes the last place of whoever has the most, so that one consumer cannot fill it for all. Adding,
dropping and asking cost the same whatever the number of consumers.
"""

from __future__ import annotations


class Crowd:
    """The waiters of one priority, counted by consumer; owned by a waiting queue."""

    __slots__ = ("_buckets", "_most", "counts")

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        # Consumers by count; a change moves one by one step, so the largest count is found without a search.
        self._buckets: dict[int, dict[str, None]] = {}
        self._most = 0

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, who: str) -> None:
        """One more of this consumer."""
        count = self.counts.get(who, 0)
        self._move(who, count, count + 1)
        self._most = max(self._most, count + 1)

    def drop(self, who: str) -> None:
        """One less of this consumer."""
        count = self.counts[who]
        self._move(who, count, count - 1)
        if self._most == count and count not in self._buckets:
            self._most = count - 1

    def largest(self) -> tuple[str, int]:
        """The consumer with the most, the last to get there when there are several; ("", 0) when there is none."""
        bucket = self._buckets.get(self._most)
        return (next(reversed(bucket)), self._most) if bucket else ("", 0)

    def _move(self, who: str, before: int, after: int) -> None:
        if before:
            bucket = self._buckets[before]
            del bucket[who]
            if not bucket:
                del self._buckets[before]
        if after:
            self._buckets.setdefault(after, {})[who] = None
            self.counts[who] = after
        else:
            del self.counts[who]
