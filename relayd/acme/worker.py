"""The thread that obtains and renews certificates. The ACME library blocks, so nothing of this runs on the event loop.

1. A daemon thread: a directory that hangs delays neither the end of the process nor a request.
2. Instances with the same state take turns: the one with the lock reads the state again, and orders what is still due.
   Machines that share certificates take turns in the same way, with a lease (acme/sharing).
3. While the server that machines share is away, nothing is ordered as long as it can wait: until a certificate has a
   tenth of its lifetime left, or for ALONE_S if there is none. Then the machine orders alone.
4. No fault ends the thread. It looks at all certificates once a minute, so changes of the clock have no effect.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from relayd import clock, registry
from relayd.acme import schedule
from relayd.acme.sharing import Alone, Away, Lease, NoSharing, Sharing
from relayd.acme.spec import CertificateSpec
from relayd.acme.state import LockedByOther, Record, State
from relayd.dataclass import dataclass

LONGEST_WAIT_S = 60.0
OTHER_S = 2.0  # between two looks while another instance orders
ALONE_S = 300.0  # how long a missing certificate waits for the server that machines share
FAULT_S = 60.0  # after a fault of the state, such as a full disk


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of one certificate. `event` is the latest event: issued, failed, or empty. `urgency` is empty,
    warning or error. Times are Unix seconds, 0 without a certificate."""

    name: str
    record: Record
    begins_s: float = 0.0
    ends_s: float = 0.0
    event: str = ""
    urgency: str = ""


class Worker:
    """One per process. `may_order` is false while relayd ends; like `report` it is called in the thread."""

    def __init__(
        self, state: State, environment: Mapping[str, str], report: Callable[[Standing], None],
        may_order: Callable[[], bool] = lambda: True, sharing: Sharing | None = None,
    ) -> None:
        self._sharing = sharing or NoSharing()
        self._halt = self._stop = threading.Event()
        self._away_since_s: float | None = None
        self._state, self._environment, self._report, self._may_order = state, environment, report, may_order
        self._wake = threading.Condition()
        self._woken = False
        self._specs: tuple[CertificateSpec, ...] = ()
        self._forced: set[str] = set()
        self._paused: dict[str, float] = {}  # after a fault of the state, which cannot record the pause
        self._unwritten: dict[str, tuple[Record, Record]] = {}  # meanwhile: what the state has, and lacks
        self._last: dict[str, Standing] = {}
        self._thread: threading.Thread | None = None
        self._random = random.Random()

    def apply(self, specs: Iterable[CertificateSpec]) -> None:
        """Take care of these certificates from now on. Starts the thread if there are any."""
        with self._wake:
            self._specs = tuple(specs)
            self._forced &= {spec.name for spec in self._specs}
        self.wake()
        if self._specs and self._thread is None and not self._stop.is_set():
            self._thread = threading.Thread(target=self._run, name="acme", daemon=True)
            self._thread.start()

    def renew(self, names: Iterable[str]) -> None:
        """Renew these certificates now, regardless of their age and of failed attempts."""
        with self._wake:
            self._forced |= set(names)
        self.wake()

    def wake(self) -> None:
        """Look at the certificates now: another instance may have changed them."""
        with self._wake:
            self._woken = True
            self._wake.notify()

    def stop(self) -> None:
        """End the thread at its next step."""
        self._stop.set()
        self._halt.set()
        with self._wake:
            self._wake.notify()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread, at most this long."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    # ---- the thread

    def _run(self) -> None:
        ordering = None
        while not self._stop.is_set():
            wait_s = FAULT_S
            try:
                if ordering is None:
                    ordering = registry.load("relayd.acme", "order")
                wait_s = self._round(ordering)
            except Exception as error:  # rescue door: certificates must be renewed whatever has failed
                if not self._stop.is_set():
                    self._report(Standing("", Record(error=f"{type(error).__name__}: {error}"), event="fault"))
            with self._wake:
                if not self._woken and not self._stop.is_set():
                    self._wake.wait(wait_s)
                self._woken = False

    def _round(self, ordering: ModuleType) -> float:
        """Look at all certificates. Returns the seconds until the next look."""
        with self._wake:
            specs, forced = self._specs, frozenset(self._forced)
        self._state.prepare()
        wait_s = LONGEST_WAIT_S
        for spec in specs:
            if self._stop.is_set():
                break
            if self._specs is not specs:  # a reload: no order for what it removed, no delay for what it added
                return 0.0
            try:
                standing = self._look(ordering, spec)
                if self._is_due(standing, spec, forced) and self._may_order():
                    with self._state.lock(), self._lease(standing, spec, forced) as lease:
                        standing = self._act(ordering, lease, spec, forced)
                self._report(standing)
            except Away as away:
                wait_s = min(wait_s, OTHER_S)
                if self._order_at(standing, spec) <= clock.wall():  # otherwise only a question waits
                    self._report(self._waiting(standing, str(away)))
                continue
            except LockedByOther:
                wait_s = min(wait_s, OTHER_S)
                continue
            except OSError as error:
                standing = self._failed_state(spec, error)
            wait_s = min(wait_s, max(self._next_action(standing, spec) - clock.wall(), 0.1))
        return wait_s

    @contextlib.contextmanager
    def _lease(self, standing: Standing, spec: CertificateSpec, forced: frozenset[str]) -> Iterator[Lease]:
        """Exclude other machines. Raises LockedByOther, and Away if the certificate can wait."""
        with contextlib.ExitStack() as held:
            try:
                lease = held.enter_context(self._sharing.lease(self._stop))
                self._away_since_s = None
            except Away:
                if self._away_since_s is None:
                    self._away_since_s = clock.monotonic()
                if standing.ends_s:
                    can_wait = clock.wall() < schedule.latest_renewal(standing.begins_s, standing.ends_s)
                else:
                    can_wait = clock.monotonic() < self._away_since_s + ALONE_S
                if can_wait and spec.name not in forced:
                    raise
                lease = Alone(self._stop)
            self._halt = lease.halt
            if self._stop.is_set():
                self._halt.set()
            yield lease

    @staticmethod
    def _waiting(standing: Standing, reason: str) -> Standing:
        """The status while a certificate waits for the server that machines share."""
        text = f"waits for the store that machines share: {reason}"
        return replace(standing, record=replace(standing.record, error=text), urgency=standing.urgency or "warning")

    def _look(self, ordering: ModuleType, spec: CertificateSpec, event: str = "") -> Standing:
        written, leaf = self._state.read_record(spec.name), ordering.examine(self._state, spec.name)
        before, fault = self._unwritten.get(spec.name, (None, written))
        if written == before and clock.wall() < self._paused[spec.name]:
            return replace(self._standing(spec.name, fault, leaf, event), urgency="error")
        self._unwritten.pop(spec.name, None)
        return self._standing(spec.name, written, leaf, event)

    def _standing(self, name: str, record: Record, leaf: Any, event: str) -> Standing:
        begins_s, ends_s = (0.0, 0.0) if leaf is None else (leaf.begins_s, leaf.ends_s)
        urgency = schedule.urgency(begins_s, ends_s, record.failures, clock.wall())
        standing = self._last[name] = Standing(name, record, begins_s, ends_s, event, urgency)
        return standing

    def _next_action(self, standing: Standing, spec: CertificateSpec) -> float:
        """When something is to be done for a certificate: ordered, or the authority asked."""
        at = self._order_at(standing, spec)
        return min(at, standing.record.ask_at) if self._may_ask(standing) else at

    def _order_at(self, standing: Standing, spec: CertificateSpec) -> float:
        record = standing.record
        wanted = record.renew_at or schedule.renewal_time(standing.begins_s, standing.ends_s, 0.0)
        if not standing.ends_s or (record.directory and record.directory not in spec.section.directory):
            wanted = 0.0  # no certificate, or one of an authority that is not used any more
        wanted = min(wanted, schedule.latest_renewal(standing.begins_s, standing.ends_s))
        return max(wanted, record.next_try, self._paused.get(spec.name, 0.0))

    @staticmethod
    def _may_ask(standing: Standing) -> bool:
        return bool(standing.record.directory) and standing.ends_s > clock.wall()

    def _is_due(self, standing: Standing, spec: CertificateSpec, forced: frozenset[str]) -> bool:
        return spec.name in forced or self._next_action(standing, spec) <= clock.wall()

    def _act(
        self, ordering: ModuleType, lease: Lease, spec: CertificateSpec, forced: frozenset[str]
    ) -> Standing:
        """Order, or ask the authority; unless another instance has done so meanwhile. The lock is held. Raises
        LockedByOther if the lease was lost meanwhile."""
        orderer = ordering.Orderer(self._state, self._environment, lease)
        standing = self._look(ordering, spec)
        if not self._is_due(standing, spec, forced):
            return standing
        chance = self._random.random()
        try:
            if spec.name in forced or self._order_at(standing, spec) <= clock.wall():
                with self._wake:
                    self._forced.discard(spec.name)
                record = orderer.attempt(spec, standing.record, chance)
                return self._look(ordering, spec, "failed" if record.error else "issued")
            orderer.ask(spec, standing.record, ordering.examine(self._state, spec.name), chance)
        except ordering.Stopped:
            if self._stop.is_set():
                raise
            raise LockedByOther from None
        return self._look(ordering, spec)

    def _failed_state(self, spec: CertificateSpec, error: OSError) -> Standing:
        """The state cannot be read or written: nothing is ordered, and the certificate in use stays."""
        self._paused[spec.name] = clock.wall() + FAULT_S
        with self._wake:
            self._forced.discard(spec.name)
        text = f"{self._state.folder}: {error.strerror or error}"
        last = self._last.get(spec.name, Standing(spec.name, Record()))
        record = replace(
            last.record, error=text, failures=last.record.failures + 1, tried_at=clock.wall(),
            next_try=self._paused[spec.name],
        )
        with contextlib.suppress(OSError):  # an attempt may have written that it has begun
            self._unwritten[spec.name] = self._state.read_record(spec.name), record
        standing = replace(last, record=record, event="failed", urgency="error")
        self._report(standing)
        return standing
