"""The interface of all kinds of `discovery:`, and what an upstream's discovery knows at present.

A kind is a module of discovery/ with a docstring (its manual entry), `Options` (its YAML keys) and a class `Discovery`.
It lives: construct (no side effects) -> `faults` and `cautions` (a check; may be all) -> `run` until it is cancelled,
which ends it.
`run` calls nothing that blocks: `_threads.in_thread` runs such a call in its own thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Protocol

from relayd import clock, registry
from relayd.dataclass import dataclass
from relayd.upstream.spec import DiscoverySpec

FOLDER = "relayd.upstream.discovery"


@dataclass(frozen=True, slots=True)
class Address:
    """One discovered address: the values of an entry of `endpoints:`. `limit` is the maximum of concurrent exchanges,
    0 for no limit; `priority` None is the default of the balancer. `instance` names what is at the address, if the kind
    knows it, and `run` its present start: another instance or run at the same address is another endpoint."""

    url: str
    weight: int = 1
    priority: int | None = None
    limit: int = 0
    instance: str = ""
    run: str = ""


class LookupFault(Exception):
    """A lookup failed; the text is the reason for the log."""


class NoSuchName(LookupFault):
    """The name server knows that the name, or a record of this type, does not exist."""


class Report(Protocol):
    """Receives the results of a kind."""

    def found(self, addresses: Sequence[Address], note: str = "") -> None:
        """The complete list of addresses now; it replaces the previous one. `note` says why some were left out."""

    def confirmed(self) -> None:
        """A lookup succeeded, and the list that was found last has not changed."""

    def failed(self, reason: str, expired: bool = False) -> None:
        """A lookup failed: the list that was found last stays, unless it has `expired`."""

    async def pause(self, seconds: float) -> None:
        """Wait before the next lookup: this long, or until an endpoint could not be reached (not within a second)."""


class ApiClient(Protocol):
    """HTTP GET requests to one server, for a kind that asks an API. All methods raise LookupFault."""

    async def get(self, target: str, most_bytes: int, timeout_s: float) -> bytes:
        """The body of a response with status 200."""

    def lines(self, target: str, most_bytes: int, silence_s: float) -> AsyncGenerator[bytes, None]:
        """The lines of an endless response, each of at most `most_bytes`, without their ends. The first item is empty:
        the head has arrived. It ends normally after `silence_s` without a byte."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a kind may use besides its Options. `parse_endpoints` reads a text with a list of `endpoints:` entries and
    the name of its file (raises LookupFault; slow for large texts). `connect` makes a client for a server's URL or
    unix:/path."""

    parse_endpoints: Callable[[bytes, str], tuple[Address, ...]]
    connect: Callable[[str], ApiClient]


class Discovery(Protocol):
    """One kind at work for one upstream. Constructed with its Options and Tools.

    `source` names what is looked up, for the log and status. `interval_s` is the longest time between two successful
    lookups, in seconds.
    """

    source: str
    interval_s: float

    def faults(self) -> Iterable[tuple[str, str]]:
        """Pairs of an option and why this process cannot use it: a fault of the configuration. Changes nothing."""

    def cautions(self) -> Iterable[tuple[str, str]]:
        """Pairs of an option and what is wrong with it on this machine now. Reads, changes nothing."""

    async def run(self, report: Report) -> None:
        """Look up the addresses and report them, again and again, until cancelled."""


def discovery(spec: DiscoverySpec, tools: Tools) -> Discovery:
    """A new discovery of one upstream."""
    made: Discovery = registry.load(FOLDER, spec.kind).Discovery(spec.options, tools)
    return made


def url_parts(spec: DiscoverySpec) -> tuple[str, str] | None:
    """Scheme and base path of all addresses of a discovery; None if its Options have no `url_parts`: then each address
    has its own."""
    known: Callable[[], tuple[str, str]] | None = getattr(spec.options, "url_parts", None)
    return None if known is None else known()


def _ignore() -> None:
    """The default of `look_again`."""


class Discovered:
    """What the discovery of one upstream found. Owned by the daemon's discovery, read by status.

    `found_s` is the time of the last successful lookup, `changed_s` of the last change of addresses; None before.
    `fault` is the reason of a failure since then, `note` why addresses were left out.
    """

    __slots__ = ("changed_s", "changes", "failures", "fault", "found_s", "look_again", "note", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.found_s: float | None = None
        self.changed_s: float | None = None
        self.fault = self.note = ""
        self.changes = self.failures = 0
        self.look_again: Callable[[], None] = _ignore  # called when an endpoint could not be reached

    def age_s(self) -> float | None:
        """Seconds since the last successful lookup; None before the first."""
        return None if self.found_s is None else clock.monotonic() - self.found_s

    def why_empty(self) -> str:
        """Why the upstream has no endpoint."""
        if self.fault:
            return f"no endpoint is known: {self.source}: {self.fault}"
        if self.found_s is None:
            return f"no endpoint is known yet: {self.source} has not answered"
        return f"no endpoint is known: {self.source}: {self.note or 'nothing was found'}"

    def describe(self) -> dict[str, object]:
        """For status."""
        age_s = self.age_s()
        changed_s = None if self.changed_s is None else clock.monotonic() - self.changed_s
        return {
            "source": self.source, "age_s": None if age_s is None else round(age_s, 1),
            "changed_age_s": None if changed_s is None else round(changed_s, 1), "fault": self.fault,
            "note": self.note, "changes": self.changes, "failures": self.failures,
        }
