"""Requests with the same key go to the same endpoint, so that prompt caches and sessions are hit; requests without a
key go to the least loaded endpoint.

1. Every endpoint has points on a ring, their number proportional to its weight. A key belongs to the next point on the
   ring. When an endpoint leaves, only its own keys move, distributed over all others.
2. Load is bounded: while an endpoint has more than `bound` times its fair share of the exchanges in flight, its keys go
   to the next point. The first `spare` exchanges are exempt, because a fair share of few exchanges is meaningless.
   `bound: 0` disables the bound.
3. During the slow start of an endpoint, a growing part of its keys returns to it, always in the same order.
4. Points depend on addresses only: independent instances of relayd agree.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from relayd.lazy_regex import lazy_regex
from relayd.schema import section, setting
from relayd.upstream.affinity import Affinity
from relayd.upstream.balancers import least_request
from relayd.upstream.endpoint import Endpoint

SPAN = 1 << 64
POINTS = 160  # on the ring, for a weight of 1
MOST_POINTS = 65536
SOURCE = lazy_regex(r"client|consumer|session|prompt|(?:header|cookie):[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,200}")


@section()
class Options:
    """The key of a request, with `balance: consistent_hash`."""

    written_as: ClassVar[str] = "hash"

    by: tuple[str, ...] = setting(
        default=("session", "consumer", "client"), example=["header:x-session-id", "prompt"],
        doc="Sources of the key; the first one that a request has is used: header:NAME, cookie:NAME, consumer, session "
            "(the client's session on a route with `session: true`, else the identifier of the conversation in the "
            "request), prompt (the beginning of a long prompt, so that the "
            "endpoint's prompt cache is hit), client (the client's address).",
    )
    bound: float = setting(
        default=1.25, minimum=1, zero_is_off=True,
        doc="How many times its fair share of the exchanges in flight an endpoint may have before its requests go to "
            "the next endpoint.",
    )
    spare: int = setting(
        default=4, minimum=0,
        doc="Exchanges that an endpoint may have in any case: a fair share of few exchanges is meaningless.",
    )
    prompt_bytes: int = setting(
        default=4096, minimum=64, maximum=1 << 20,
        doc="Bytes of the prompt that make the key; a shorter prompt has no key.",
    )

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.by:
            yield "by", "needs at least one source"
        for index, source in enumerate(self.by):
            if SOURCE.fullmatch(source) is None:
                yield f"by[{index}]", "is none of header:NAME, cookie:NAME, consumer, session, prompt, client"


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
        """Set all endpoints of the upstream, unavailable ones included. Called again when they change."""
        self._keyless.join(endpoints)
        wanted = sum(one.spec.weight for one in endpoints) * POINTS
        scale = min(1.0, MOST_POINTS / wanted) if wanted else 1.0
        points = sorted(
            ((ring_point(f"{one.label}#{number}".encode()), one)
             for one in endpoints
             for number in range(max(1, int(one.spec.weight * POINTS * scale)))),
            key=lambda pair: (pair[0], pair[1].label),
        )
        self._ring = [point for point, _ in points]
        self._owners = [one for _, one in points]

    def pick(self, candidates: Sequence[Endpoint], key: int | None) -> Endpoint:
        """Choose one of at least two candidates."""
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
            if one.index in seen:
                continue
            seen.add(one.index)
            if one in candidates:
                share = one.weight / one.spec.weight
                fits = one.in_flight < spare or one.in_flight < allowed * one.weight
                if fits and (share >= 1.0 or key_fraction(key, one.index) < share):
                    return one
                left -= 1
                if not left:
                    break
        return self._keyless.pick(candidates, key)

    def _allowed(self, candidates: Sequence[Endpoint]) -> float:
        """The exchanges per unit of weight below which an endpoint may take one more."""
        if not self._bound:
            return 1e300
        load, weight = 1, 0.0
        for one in candidates:
            load += one.in_flight
            weight += one.weight
        return self._bound * load / weight


def ring_point(data: bytes) -> int:
    """A point on the ring; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def key_fraction(key: int, index: int) -> float:
    """A number in [0, 1) for a key and an endpoint: the order in which keys return during a slow start."""
    mixed = ((key ^ (index + 1) * 0x9E3779B97F4A7C15) * 0xD6E8FEB86659FD93) % SPAN
    return ((mixed ^ mixed >> 32) % (1 << 32)) / (1 << 32)
