"""A share of requests that goes elsewhere: one number from 0 up to 1 decides, drawn by chance or made from a hash key.

What belongs together has one number: who has met the canary once meets it again, also when its part grows.
"""

from __future__ import annotations

SPAN = 1 << 64


def roll_of(key: int) -> float:
    """The number of a hash key: the same for the same key, spread evenly, apart from the key's place on a ring."""
    mixed = (key ^ key >> 31) * 0xBF58476D1CE4E5B9 % SPAN
    return ((mixed ^ mixed >> 29) % (1 << 48)) / (1 << 48)
