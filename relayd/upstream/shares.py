"""The canary's share of requests: decided by a number in [0, 1), random or computed from an affinity key.

Requests with the same affinity key always map to the same number in [0, 1), so a client stays on the canary when its
weight grows.
"""

from __future__ import annotations

SPAN = 1 << 64


def fraction_of(key: int) -> float:
    """The number of an affinity key: deterministic, evenly distributed, independent of the key's point on a ring."""
    mixed = (key ^ key >> 31) * 0xBF58476D1CE4E5B9 % SPAN
    return ((mixed ^ mixed >> 29) % (1 << 48)) / (1 << 48)
