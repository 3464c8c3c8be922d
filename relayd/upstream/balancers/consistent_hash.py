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
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from relayd.schema import section, setting
from relayd.upstream.affinity import Affinity
from relayd.upstream.balancers import least_request
from relayd.upstream.endpoint import Endpoint

SPAN = 1 << 64
POINTS = 160  # on the ring, for a weight of 1
MOST_POINTS = 65536
WORD = re.compile(r"client|consumer|session|prompt|(?:header|cookie):[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,200}")


@section()
class Options:
    """Which requests belong together, with `balance: consistent_hash`."""

    written_as: ClassVar[str] = "hash"

    by: tuple[str, ...] = setting(
        default=("session", "consumer", "client"), example=["header:x-session-id", "prompt"],
        doc="The first of these that a request has: header:NAME, cookie:NAME, consumer, session (the conversation as "
            "its request names it), prompt (how a long prompt begins, so that the endpoint's prompt cache is hit), "
            "client (its address).",
    )
    bound: float = setting(
        default=1.25, minimum=1, zero_is_off=True,
        doc="How many times its fair share of what is in flight an endpoint takes before its requests go to the next "
            "one.",
    )
    spare: int = setting(
        default=4, minimum=0,
        doc="How many requests an endpoint takes in any case: with little in flight a fair share says nothing.",
    )
    prompt_bytes: int = setting(
        default=4096, minimum=64, maximum=1 << 20,
        doc="How much of a prompt is looked at; what is shorter has no prompt to hit a cache with.",
    )

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.by:
            yield "by", "needs at least one word"
        for place, word in enumerate(self.by):
            if WORD.fullmatch(word) is None:
                yield f"by[{place}]", "is none of header:NAME, cookie:NAME, consumer, session, prompt, client"


class Balancer:
    """Owns the ring; `join` builds it."""

    __slots__ = ("_bound", "_keyless", "_owners", "_ring", "_spare", "affinity")
    numbers_endpoints: ClassVar[bool] = False

    def __init__(self, options: Options, chance: Callable[[], float]) -> None:
        self.affinity: Affinity | None = Affinity(options.by, options.prompt_bytes)
        self._bound, self._spare = options.bound, options.spare
        self._keyless = least_request.Balancer(least_request.Options(), chance)
        self._ring: list[int] = []
        self._owners: list[Endpoint] = []

    def join(self, endpoints: Sequence[Endpoint]) -> None:
        """All endpoints of the upstream, also those that may not be asked now; again when they change."""
        self._keyless.join(endpoints)
        wanted = sum(one.spec.weight for one in endpoints) * POINTS
        scale = min(1.0, MOST_POINTS / wanted) if wanted else 1.0
        placed = sorted(
            ((place_of(f"{one.label}#{number}".encode()), one)
             for one in endpoints
             for number in range(max(1, int(one.spec.weight * POINTS * scale)))),
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
