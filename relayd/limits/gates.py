"""All gates of a process by name.

1. A gate keeps its identity under its name while a plan uses it or an exchange is in it. Permits and queue entries
   survive a reload, whatever else the reload changes.
2. `get` neither sets limits nor retains a gate, so a plan that is compiled and discarded leaves no gate behind. Limits
   take effect by `apply`, which cannot fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from weakref import WeakValueDictionary

from relayd import clock
from relayd.limits.gate import Gate, GateLimits


class Gates:
    """One per process; owned by the gateway. A name consists of a kind and a name, as in `upstream chutes`."""

    def __init__(self, now: Callable[[], float] = clock.monotonic) -> None:
        self._now = now
        self._known: WeakValueDictionary[str, Gate] = WeakValueDictionary()  # of every plan in memory
        self._gates: dict[str, Gate] = {}  # of the plan in force, and those not empty yet
        self._draining: list[str] = []  # names in `_gates` that no plan uses any more and that are not empty yet

    def __iter__(self) -> Iterator[Gate]:
        return iter(self._gates.values())

    def names(self) -> set[str]:
        """The names of all gates that are referenced."""
        return {gate.name for gate in self._alive()}

    def get(self, name: str) -> Gate:
        """The gate of this name, created by the first call. It exists while it is referenced. A reload compiles in a
        thread and calls this there."""
        gate = self._known.get(name)
        if gate is None:
            gate = self._known[name] = Gate(name, now=self._now)
        return gate

    def apply(self, limits: Mapping[str, GateLimits]) -> None:
        """Put the limits of a plan into force, also for exchanges that are already in a gate.

        A gate that the plan does not name keeps its limits until the last exchange has left it.
        """
        for name, one in limits.items():
            gate = self._gates[name] = self.get(name)
            if gate.limits != one:
                gate.configure(one)
        self._draining = [name for name in self._gates if name not in limits]
        self._remove_drained()

    def sweep(self, now_s: float) -> None:
        """Refuse requests that waited too long and grant free permits. Called by a timer."""
        for gate in self._alive():
            if gate.depth:
                gate.sweep(now_s)
        if self._draining:
            self._remove_drained()

    def wake(self) -> None:
        """Grant what became possible in any gate, after capacity elsewhere became available."""
        for gate in self._alive():
            gate.wake()

    def limited(self) -> list[Gate]:
        """The gates that have a limit or waiting requests, sorted by name."""
        return [gate for name, gate in sorted(self._gates.items()) if gate.limits.requests or gate.depth]

    def _alive(self) -> list[Gate]:
        # valuerefs() is one operation of the interpreter; values() is not, and a thread may add a gate meanwhile.
        return [gate for reference in self._known.valuerefs() if (gate := reference()) is not None]

    def _remove_drained(self) -> None:
        for name in list(self._draining):
            gate = self._gates[name]
            if not gate.in_flight and not gate.depth:
                del self._gates[name]
                self._draining.remove(name)
