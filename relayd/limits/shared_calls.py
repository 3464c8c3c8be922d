"""Calls of the shared scripts: the server, the keys, the arguments, and what the answers mean."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from relayd.lazy_regex import lazy_regex
from relayd.limits.counter import Counter
from relayd.limits.shared_scripts import JOIN, LEAVE, RESERVE, SETTLE, SYNC, Script
from relayd.limits.window import Span

_SPANS = {"total": 0, "day": -1, "month": -2}
_READABLE = " /=:*@,+~()"
_LINE = lazy_regex(r"[0-9]+ [0-9]+ (-?[0-9]{1,15}) (.+)")

Arg = int | str
OnAnswer = Callable[[Any], None]  # gets the answer, or Failed


class Failed(NamedTuple):
    """A call without an answer. `unknown` is true if it may have been executed."""

    unknown: bool


class Server(Protocol):
    """The server. A call is answered in a later turn, at the latest after `timeout_s`."""

    timeout_s: float

    @property
    def available(self) -> bool:
        """False if calls fail at once."""

    def key(self, *parts: str) -> str:
        """A key. All of them may be used in one call."""

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Arg], on_answer: OnAnswer) -> None:
        """Run a script."""


class Use(NamedTuple):
    """The state of a window in the server at its time: the current slot, and the amounts used and held."""

    slot: int
    used: int
    held: int


class Entry(NamedTuple):
    """What a reservation, or a use that was counted locally, adds to a window. `slot` is that of the reservation, which
    counts if the server does not have the reservation any more."""

    counter: Counter
    slot: int
    amount: int


class Operation(NamedTuple):
    """One operation of a batch: the number of a reservation to end, negative to make it if the server does not have it,
    or 0 for amounts that were counted locally."""

    number: int
    entries: Sequence[Entry]


class Crossed(NamedTuple):
    """Thresholds of a counter that were crossed: those from `first` to before `end`."""

    counter: Counter
    first: int
    end: int


@functools.lru_cache(maxsize=8192)
def name_of(window_key: str) -> str:
    """The name of a window in keys of the server: printable ASCII without braces."""
    return quote(window_key.encode("utf-8", "surrogatepass"), safe=_READABLE)


def span_arg(span: Span) -> int:
    """A span as the scripts read it."""
    return span.length_ms or _SPANS[span.kind]


def reserve_args(demands: Iterable[tuple[Counter, int]], number: int, expires_ms: int, now: Arg = "") -> list[Arg]:
    """The arguments of `reserve`."""
    args: list[Arg] = [now, expires_ms, number]
    for counter, amount in demands:
        args += (span_arg(counter.rule.span), amount, counter.limit, int(counter.counts_only))
    return args


def settle_args(
    counters: Sequence[Counter], operations: Iterable[Operation], batch: Arg, now: Arg = ""
) -> list[Arg]:
    """The arguments of `settle`. `counters` has one counter of every window, in the order of the keys."""
    args: list[Arg] = [now, batch, len(counters)]
    for counter in counters:
        args += (span_arg(counter.rule.span), len(counter.warn_at), *counter.warn_at)
    position = {counter.window.key: index for index, counter in enumerate(counters, 1)}
    for number, entries in operations:
        args += (number, len(entries))
        for counter, slot, amount in entries:
            args += (position[counter.window.key], slot, amount)
    return args


def uses(numbers: Sequence[int]) -> list[Use]:
    """The states of windows in an answer."""
    return [Use(*numbers[at : at + 3]) for at in range(0, len(numbers), 3)]


def crossed(answer: Sequence[int], counters: Sequence[Counter]) -> list[Crossed]:
    """The crossed thresholds in an answer of `settle`."""
    return [Crossed(counters[answer[at] - 1], answer[at + 1], answer[at + 2]) for at in range(0, len(answer), 3)]


class Saved(NamedTuple):
    """The fields of a window: amounts by slot, and the held part of them."""

    slots: dict[int, int]
    held: dict[int, int]


def saved(fields: Sequence[bytes]) -> Saved:
    """The answer of `sync` for one window. Fields that cannot be read count as absent."""
    found = Saved({}, {})
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        amounts = found.slots if name[:1] == b"s" else found.held if name[:1] == b"h" else None
        if amounts is not None and name[1:].isdigit():
            amounts[int(name[1:])] = int(value)
    return found


class Joined(NamedTuple):
    """The answer of `join`: the server's time, the number of the last batch that the server has applied, the numbers of
    this instance's reservations there, and the instances that the server waits for."""

    now_ms: int
    batch: int
    open: list[int]
    missing: list[bytes]


class Held(NamedTuple):
    """A reservation of an instance that is gone: its number, and the spans and keys of its windows."""

    number: int
    windows: tuple[tuple[int, str], ...]


def held(answer: Sequence[bytes]) -> list[Held]:
    """The answer of `leave`. Lines that cannot be read, which relayd has not written, hold nothing."""
    found = []
    for number, record in zip(answer[::2], answer[1::2], strict=True):
        matches = [_LINE.fullmatch(line) for line in record.decode("ascii", "replace").split("\n")]
        found.append(Held(int(number), tuple((int(one[1]), one[2]) for one in matches if one is not None)))
    return found


def release_args(reservations: Sequence[Held], now: Arg = "") -> tuple[list[str], list[Arg]]:
    """The windows' keys and the arguments of a `settle` that takes back what reservations hold."""
    spans = {key: span for one in reservations for span, key in one.windows}
    position = {key: index for index, key in enumerate(spans, 1)}
    args: list[Arg] = [now, "", len(spans)]
    for span in spans.values():
        args += (span, 0)
    for one in reservations:
        args += (one.number, len(one.windows))
        for _, key in one.windows:
            args += (position[key], 0, 0)
    return list(spans), args


class SharedCalls:
    """The calls of one instance, which has a random name."""

    def __init__(self, server: Server) -> None:
        self.instance = secrets.token_hex(8)
        self.move(server)

    def move(self, server: Server) -> None:
        """Call this server from now on."""
        self.server = server
        self._own_open_key = server.key("rates", "open", self.instance)
        self._window_prefix = server.key("rates", "window", "")

    def reserve(
        self, demands: Sequence[tuple[Counter, int]], number: int, expires_ms: int, on_answer: OnAnswer
    ) -> None:
        """Reserve all amounts or none, but not after `expires_ms` of the server's time."""
        keys = [self._open_key(), *[self._window_key(counter) for counter, _ in demands]]
        self.server.call(RESERVE, keys, reserve_args(demands, number, expires_ms), on_answer)

    def settle(
        self, counters: Sequence[Counter], operations: Sequence[Operation], batch: int, on_answer: OnAnswer
    ) -> None:
        """Apply a batch, once. `counters` has one counter of every window."""
        keys = [self._open_key(), *[self._window_key(counter) for counter in counters]]
        self.server.call(SETTLE, keys, settle_args(counters, operations, batch), on_answer)

    def sync(self, counters: Iterable[Counter], number: int, on_answer: OnAnswer) -> None:
        """Report that this instance runs, and read windows."""
        keys = [self._instances_key(), self._open_key(), *[self._window_key(counter) for counter in counters]]
        self.server.call(SYNC, keys, ["", self.instance, number], on_answer)

    def join(self, number: int, is_complete: bool, wait_ms: int, others: Iterable[str], on_answer: OnAnswer) -> None:
        """Ask what the server has of this instance, or report that it has everything. `others` are instances that ran
        when the server was last available."""
        keys = [self._instances_key(), self._open_key(), self._master_key()]
        args: list[Arg] = ["", "", self.instance, number, int(is_complete), wait_ms, *others]
        self.server.call(JOIN, keys, args, on_answer)

    def leave(self, instance: str, number: str, on_answer: OnAnswer) -> None:
        """Read what an instance holds that does not run any more; forget it if it holds nothing."""
        keys = [self._instances_key(), self._open_key(instance), self._master_key()]
        self.server.call(LEAVE, keys, [instance, number], on_answer)

    def release(self, instance: str, reservations: Sequence[Held], on_answer: OnAnswer) -> None:
        """Take back what reservations of an instance hold."""
        windows, args = release_args(reservations)
        self.server.call(SETTLE, [self._open_key(instance), *windows], args, on_answer)

    def _instances_key(self) -> str:
        return self.server.key("rates", "instances")

    def _master_key(self) -> str:
        return self.server.key("rates", "master")

    def _open_key(self, instance: str = "") -> str:
        return self.server.key("rates", "open", instance) if instance else self._own_open_key

    def _window_key(self, counter: Counter) -> str:
        return self._window_prefix + name_of(counter.window.key)
