"""The reasons why a store could not write or read a value, for clients, the log and metrics.

`lost` returns the reason for the client, `pop_failures` the failures for the log and the metric.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from typing import NamedTuple

REMEMBERED = 1024  # lost values whose cause is remembered


class Fault(NamedTuple):
    """A cause. `cause` is the metric's label; `client_message` is shown to clients; `cure` is for the operator."""

    cause: str
    client_message: str
    cure: str


LOCKED = Fault(
    "locked", "the gateway's store is locked by another program",
    "Another program holds a lock on the file; `fuser -v {path}` names it. End it, or give relayd a separate file.",
)
FULL = Fault("full", "the disk of the gateway's store is full", "Free space on the disk of {path}.")
READ_ONLY = Fault(
    "read_only", "the gateway's store cannot be written",
    "Make {path} and its directory writable for relayd's user.",
)
DAMAGED = Fault(
    "damaged", "the gateway's store was damaged and has been replaced by an empty one",
    "The damaged {path} was renamed; its entries are lost to relayd.",
)
SLOW = Fault(
    "slow", "the gateway's store is overloaded", "The disk of {path} is too slow for the amount of data to store."
)
TOO_LARGE = Fault(
    "too_large", "it is larger than a quarter of the gateway's store",
    "A value was larger than a quarter of the store; raise `store: size`.",
)
CLOSED = Fault(
    "closed", "the gateway's store was changed during the request",
    "A reload has changed `store:`; values that older requests wanted to store in {path} are lost.",
)
UNREACHABLE = Fault(
    "unreachable", "the gateway's store cannot be reached",
    "Redis cannot be reached or refuses writes; `relayd doctor redis` examines it, `relayd status` shows the cause.",
)
FAILED = Fault(
    "failed", "the gateway's store cannot be written", "Check the disk of {path}; see also the kernel's log."
)

_BY_TEXT = (
    ("locked", LOCKED), ("busy", LOCKED), ("full", FULL), ("readonly", READ_ONLY), ("unable to open", READ_ONLY),
)


def fault_of(error: sqlite3.Error) -> Fault:
    """Map an SQLite error to a fault by its message; SQLite's messages are stable."""
    text = str(error).lower()
    return next((fault for pattern, fault in _BY_TEXT if pattern in text), FAILED)


class Failure(NamedTuple):
    """The number of failures with this fault since the last report, and the reason for the last one."""

    fault: Fault
    times: int
    why: str


class Losses:
    """The failures of a store. Owned by the store."""

    __slots__ = ("_failed", "_lost", "total")

    def __init__(self) -> None:
        self._lost: OrderedDict[tuple[str, str], Fault] = OrderedDict()
        self._failed: dict[str, Failure] = {}
        self.total = 0

    def lose(self, entry_key: tuple[str, str], fault: Fault, why: str) -> None:
        """Record that the value of a space and key could not be written or read."""
        self._lost[entry_key] = fault
        self._lost.move_to_end(entry_key)
        if len(self._lost) > REMEMBERED:
            self._lost.popitem(last=False)
        self.count(fault, why)

    def count(self, fault: Fault, why: str) -> None:
        """Record a failure that concerns no single value."""
        self.total += 1
        known = self._failed.get(fault.cause)
        self._failed[fault.cause] = Failure(fault, 1 if known is None else known.times + 1, why)

    def found(self, entry_key: tuple[str, str]) -> None:
        """Clear the cause: the value exists, or its owner deleted it."""
        if self._lost:
            self._lost.pop(entry_key, None)

    def client_message(self, entry_key: tuple[str, str]) -> str:
        """The reason why the value is missing, as text for the client; empty if none is known."""
        fault = self._lost.get(entry_key)
        return "" if fault is None else fault.client_message

    def pop_failures(self) -> list[Failure]:
        """The failures since the last call."""
        if not self._failed:
            return []
        failed, self._failed = self._failed, {}
        return list(failed.values())
