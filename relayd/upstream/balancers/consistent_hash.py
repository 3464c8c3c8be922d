"""The same key to the same endpoint, so that prompt caches and sessions are hit; without a key the least loaded one.

1. Every endpoint has points on a ring, as many as its weight asks for; a key belongs to the first point behind it. When
   an endpoint goes, only its own keys move, and they spread over all others.
2. Load is bounded: an endpoint that has more than `bound` times its fair share of what is in flight passes its keys on
   to the next point, until it has room again; the first few exchanges do not count, since with little in flight a fair
   share says nothing. `bound: 0` never does.
3. While an endpoint returns slowly, a growing part of its keys comes home, always the same part first.
4. Places on the ring come from addresses alone: instances of relayd that know nothing of each other agree.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from relayd.upstream.balancers import least_request
from relayd.upstream.endpoint import Endpoint

SPAN = 1 << 64
MOST_POINTS = 65536


@dataclass(frozen=True, slots=True)
class Options:
    """`bound` is how many times the average load an endpoint takes, `spare` how many exchanges it takes in any case,
    `points` how many places on the ring it has for a weight of 1."""

    bound: float = 1.25
    spare: int = 4
    points: int = 160


class Balancer:
    """Owns the ring; `join` builds it."""

    __slots__ = ("_bound", "_keyless", "_owners", "_points", "_ring", "_spare")

    def __init__(self, options: Options) -> None:
        self._bound = options.bound
        self._points, self._spare = options.points, options.spare
        self._keyless = least_request.Balancer(least_request.Options())
        self._ring: list[int] = []
        self._owners: list[Endpoint] = []

    def join(self, endpoints: Sequence[Endpoint]) -> None:
        """All endpoints of the upstream, also those that may not be asked now; again when they change."""
        self._keyless.join(endpoints)
        wanted = sum(one.spec.weight for one in endpoints) * self._points
        scale = min(1.0, MOST_POINTS / wanted) if wanted else 1.0
        placed = sorted(
            ((place_of(f"{one.label}#{number}".encode()), one)
             for one in endpoints
             for number in range(max(1, int(one.spec.weight * self._points * scale)))),
            key=lambda pair: (pair[0], pair[1].label),
        )
        self._ring = [place for place, _ in placed]
        self._owners = [one for _, one in placed]

    def pick(self, candidates: Sequence[Endpoint], key: int | None) -> Endpoint:
        """One of the candidates, which are at least two."""
        if key is None or not self._ring:
            return self._keyless.pick(candidates, key)
        owners = self._owners
        count = len(owners)
        at = bisect_left(self._ring, key % SPAN)
        allowed, spare = self._allowed(candidates), self._spare
        seen: set[int] = set()
        left = len(candidates)
        for step in range(count):
            one = owners[(at + step) % count]
            if one.place in seen:
                continue
            seen.add(one.place)
            if one in candidates:
                share = one.weight / one.spec.weight
                fits = one.in_flight < spare or one.in_flight < allowed * one.weight
                if fits and (share >= 1.0 or part_of(key, one.place) < share):
                    return one
                left -= 1
                if not left:
                    break
        return self._keyless.pick(candidates, key)

    def _allowed(self, candidates: Sequence[Endpoint]) -> float:
        """Exchanges that an endpoint may have per unit of its weight, before it takes one more."""
        if not self._bound:
            return 1e300
        load, weight = 1, 0.0
        for one in candidates:
            load += one.in_flight
            weight += one.weight
        return self._bound * load / weight


def place_of(data: bytes) -> int:
    """A place on the ring; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def part_of(key: int, place: int) -> float:
    """From 0 to 1, the same for the same key and endpoint: which part of its keys this one belongs to."""
    mixed = ((key ^ (place + 1) * 0x9E3779B97F4A7C15) * 0xD6E8FEB86659FD93) % SPAN
    return ((mixed ^ mixed >> 32) % (1 << 32)) / (1 << 32)
