"""How one request uses the answer cache of its route: the key, the result, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from relayd.plan.plan import CachePolicy, Target
from relayd.telemetry.outcome import Record
from relayd.wire.cache_control import CacheControl, forwarded_line

SPACE = "cache:"
"""The beginning of the names of the spaces that hold the answers of one route, by `party/digest`."""

Result = Literal["hit", "miss", "bypass"]
Reason = Literal[
    "", "no_store", "client_key", "unclear", "samples", "stored_state", "stores", "server_tools", "audio",
    "not_deterministic", "memory",
]  # fmt: skip
Stored = Literal["stored", "too_large", "incomplete", "refused"]


class Add(Protocol):
    """Adds to a counter (telemetry/metrics)."""

    def __call__(self, name: str, n: float = 1, **labels: str) -> None: ...


def _count_nothing(name: str, n: float = 1, **labels: str) -> None:
    """The counter of a dry run."""


class CacheCounts:
    """Counts what the caches do; owned by the gateway."""

    __slots__ = ("_add",)

    def __init__(self, add: Add = _count_nothing) -> None:
        self._add = add

    def used(self, route: str, result: Result) -> None:
        """A request was looked up, or was not."""
        self._add("relayd.proxy.cache", route=route, result=result)

    def recorded(self, route: str, result: Stored) -> None:
        """An answer was stored, or was not."""
        self._add("relayd.proxy.cache_answers", route=route, result=result)

    def saved(self, route: str, input_tokens: int, output_tokens: int, cost_nano: int) -> None:
        """A hit needed no tokens and no money."""
        for direction, tokens in (("input", input_tokens), ("output", output_tokens)):
            if tokens:
                self._add("relayd.proxy.cache_saved_tokens", tokens, route=route, direction=direction)
        if cost_nano:
            self._add("relayd.proxy.cache_saved_cost", cost_nano, route=route)


class CacheUse:
    """Owned by its AI request. `party` is the consumer, @ADDRESS for a client without one, or empty in a shared cache.
    `key` is the digest of the request, empty until it is known. `target` is the one whose answer may be kept.
    `on_complete` gets the sizes of the pieces, the body and the content type of a complete answer; None if it is not to
    be kept. `on_dropped` gets the reason why the recording has ended before. `forwarded` is why the endpoint was asked
    nevertheless (RFC 9211 2.2): miss, stale, or request, if the client does not accept what the cache has."""

    __slots__ = (
        "control", "forwarded", "key", "on_complete", "on_dropped", "party", "policy", "reason", "result", "target",
    )

    def __init__(self, policy: CachePolicy, control: CacheControl, party: str, target: Target) -> None:
        self.policy, self.control, self.party, self.target = policy, control, party, target
        self.key = ""
        self.result: Result = "bypass"
        self.reason: Reason = ""
        self.forwarded: Literal["miss", "stale", "request"] = "request" if control.no_cache else "miss"
        self.on_complete: Callable[[Sequence[int], bytes, str], None] | None = None
        self.on_dropped: Callable[[Stored], None] | None = None

    @property
    def entry_key(self) -> str:
        """The key in the space of the route."""
        return f"{self.party}/{self.key}"

    def record(self, record: Record) -> None:
        """Add the use to the record of the exchange."""
        more = record.more = record.more or {}
        more["cache"] = self.result
        if self.key:
            more["cache_key"] = self.key
        if self.reason:
            more["cache_reason"] = self.reason

    def line(self) -> bytes:
        """Cache-Status for the answer of an endpoint."""
        if self.result == "bypass":
            return forwarded_line("bypass", detail=self.reason)
        return forwarded_line(self.forwarded, self.key)


def party_of(entry_key: str) -> str:
    """The party of an entry's key."""
    return entry_key.rpartition("/")[0]
