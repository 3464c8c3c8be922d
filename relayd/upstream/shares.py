"""A share of requests that goes elsewhere: the canary's, and the mirror's copies.

One number from 0 up to 1 decides: drawn by chance for every request, or made from the request's hash key, so that who
has met the canary once meets it again.
"""

from __future__ import annotations

from dataclasses import dataclass

SPAN = 1 << 64


@dataclass(frozen=True, slots=True)
class Share:
    """`upstream` takes this part of the requests, from 0 to 1."""

    upstream: str
    part: float

    def takes(self, roll: float) -> bool:
        """Whether a request with this number goes there; 0 takes none, 1 takes all."""
        return roll < self.part


def roll_of(key: int) -> float:
    """The number of a hash key: the same for the same key, spread evenly, apart from the key's place on a ring."""
    mixed = (key ^ key >> 31) * 0xBF58476D1CE4E5B9 % SPAN
    return ((mixed ^ mixed >> 29) % (1 << 48)) / (1 << 48)
