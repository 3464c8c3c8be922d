"""All gates of a process by name: what is swept, shown, and told its limits when a plan comes into force.

1. A gate is found again under its name as long as a plan names it or somebody is in it: permits and places survive a
   reload, whatever else the reload changed.
2. Asking for a gate limits nothing and keeps nothing: a plan that is compiled and thrown away leaves no gate. Limits
   come into force by `apply`, which cannot fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from weakref import WeakValueDictionary

from relayd import clock
from relayd.limits.gate import Gate, GateLimits


class Gates:
    """One per process; owned by the gateway. Names are words with what they stand for: `upstream chutes`."""

    def __init__(self, now: Callable[[], float] = clock.monotonic) -> None:
        self._now = now
        self._known: WeakValueDictionary[str, Gate] = WeakValueDictionary()  # of every plan that still lives
        self._gates: dict[str, Gate] = {}  # in force, or not empty yet
        self._leaving: list[str] = []  # of these: named by no plan any more, and not empty yet

    def __iter__(self) -> Iterator[Gate]:
        return iter(self._gates.values())

    def named(self) -> set[str]:
        """The names of all gates that somebody has."""
        return set(self._known)

    def get(self, name: str) -> Gate:
        """The gate of this name, made at the first asking; it lives as long as somebody has it."""
        gate = self._known.get(name)
        if gate is None:
            gate = self._known[name] = Gate(name, now=self._now)
        return gate

    def apply(self, limits: Mapping[str, GateLimits]) -> None:
        """A plan has come into force: its limits hold from now on, for those too who are in already.

        A gate that is not named any more keeps its limits until the last one has left it.
        """
        for name, one in limits.items():
            gate = self._gates[name] = self.get(name)
            if gate.limits != one:
                gate.configure(one)
        self._leaving = [name for name in self._gates if name not in limits]
        self._forget()

    def sweep(self, now_s: float) -> None:
        """Called by a timer: who waits too long is refused, who can go goes."""
        for gate in list(self._known.values()):
            if gate.depth:
                gate.sweep(now_s)
        if self._leaving:
            self._forget()

    def wake(self) -> None:
        """Something came back that any of them may wait for."""
        for gate in list(self._known.values()):
            gate.wake()

    def limited(self) -> list[Gate]:
        """Those that limit something or hold somebody up, in the order of their names."""
        return [gate for name, gate in sorted(self._gates.items()) if gate.limits.requests or gate.depth]

    def _forget(self) -> None:
        for name in list(self._leaving):
            gate = self._gates[name]
            if not gate.in_flight and not gate.depth:
                del self._gates[name]
                self._leaving.remove(name)
