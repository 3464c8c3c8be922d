"""The certificates of the listeners while relayd runs: those from ACME are obtained and renewed, and changed files of
both kinds come into use without a reload.

1. The thread of relayd.acme.worker orders; its reports are handled on the event loop.
2. Files are looked at every few seconds, in a thread. Files that cannot be used are reported, and the certificates in
   use stay. A certificate that another instance has obtained is found in the same way.
3. A process that drains or leaves begins no order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Iterable
from dataclasses import field

from relayd import clock
from relayd.acme.spec import specs_of
from relayd.acme.state import UNFINISHED, Record, State
from relayd.acme.worker import Standing, Worker
from relayd.config.listener import Tls
from relayd.daemon.changeover import Changeover
from relayd.daemon.preflight import Expiry, day_of, listener_expiries, remaining
from relayd.daemon.shared_certificates import SharedCertificates
from relayd.daemon.shared_state import shared_server
from relayd.daemon.timers import Timers
from relayd.dataclass import dataclass
from relayd.errors import ConfigError
from relayd.plan.plan import Plan
from relayd.plan.specs import stamps_of
from relayd.proxy.gateway import Gateway
from relayd.server.tls import PemFault, make_context
from relayd.telemetry.metrics import Labels

LOOK_S = 3.0
REPEAT_S = 3600.0  # between two log lines about one broken file


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a look at the files of one listener: a new context, or the fault of its files."""

    stamps: tuple[str, ...]
    context: ssl.SSLContext | None = None
    expiries: list[Expiry] = field(default_factory=list)
    fault: str = ""


class Certificates:
    """A service of the lifecycle."""

    def __init__(self, gateway: Gateway, changeover: Changeover, state: State) -> None:
        self._gateway, self._changeover, self._state = gateway, changeover, state
        self._loop = asyncio.get_running_loop()
        self._shared = SharedCertificates(state, gateway.telemetry.journal, self._on_received)
        self._worker = Worker(
            state, os.environ, self._report, lambda: not (gateway.draining or gateway.leaving), self._shared
        )
        self._standings: dict[str, Standing] = {}
        self._owners: dict[str, str] = {}  # the listener that names a domain
        self._tls: dict[str, Tls] = {}
        self._stamps: dict[str, tuple[str, ...]] = {}
        self._look: asyncio.Task[None] | None = None
        self._closed = False

    # ---- the service

    def commit(self, plan: Plan) -> None:
        config = plan.config
        specs = specs_of(config.listeners)
        self._owners = {}
        for name, listener in config.listeners.items():
            for domain in () if listener.tls is None or listener.tls.acme is None else listener.tls.acme.domains:
                self._owners.setdefault(domain.lower(), name)
        self._standings = {name: one for name, one in self._standings.items() if name in self._owners}
        tls = {name: one.tls for name, one in config.listeners.items() if one.tls is not None}
        self._tls, self._stamps = tls, {name: stamps_of(*self._files(one)) for name, one in tls.items()}
        self._gateway.challenge_response = self._state.http_response if specs else None
        if not self._closed:
            self._shared.commit(shared_server(self._gateway), specs)
            self._worker.apply(specs)

    def start(self, timers: Timers) -> None:
        timers.every("certificate_files", LOOK_S, self.look)
        self._shared.start(timers)

    def gauges(self) -> None:
        failures: dict[Labels, float] = {(name,): one.record.failures for name, one in self._standings.items()}
        self._gateway.telemetry.metrics.set_gauges("relayd.certs.failures", failures)

    def left_s(self) -> dict[Labels, float]:
        """The seconds until each issued certificate expires, by listener and file."""
        return {
            (self._owners[name], self._state.certificate_file(name)): round(one.ends_s - clock.wall())
            for name, one in self._standings.items() if one.ends_s
        }

    def close(self) -> None:
        self._closed = True
        self._worker.stop()
        self._shared.close()
        if self._look is not None:
            self._look.cancel()

    def _on_received(self) -> None:
        """Another machine has obtained a certificate, which is in the state now."""
        self.look()
        self._worker.wake()

    # ---- reports of the thread

    def _report(self, standing: Standing) -> None:
        """Called in the thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._on_report, standing)

    def _on_report(self, one: Standing) -> None:
        journal = self._gateway.telemetry.journal
        if one.event == "fault":
            journal.limited("acme_fault", REPEAT_S, "error", "certificates_not_examined", one.record.error)
            return
        if one.name not in self._owners:
            return
        self._standings[one.name] = one
        if one.event:
            self._gateway.telemetry.metrics.add("relayd.certs.attempts", domain=one.name, result=one.event)
        if one.event == "issued":
            message = f"valid until {day_of(one.ends_s)}, renewed from {day_of(one.record.renew_at)}"
            journal.info("certificate_issued", message, domain=one.name, directory=one.record.directory)
            self.look()
        elif one.event == "failed":
            self._log_failure(one)

    def _log_failure(self, one: Standing) -> None:
        left_s = one.ends_s - clock.wall()
        state = "there is no certificate" if not one.ends_s else "THE CERTIFICATE HAS EXPIRED" if left_s <= 0 else (
            f"the certificate in use ends {remaining(left_s)}")
        pause_s = max(one.record.next_try - clock.wall(), 0.0)
        message = f"{one.record.error}; {state}; next attempt in {pause_s:.0f} s"
        level = one.urgency or "warning"
        self._gateway.telemetry.journal.event(
            level, "certificate_failed", message, domain=one.name, failures=one.record.failures
        )

    # ---- files

    def look(self) -> None:
        """Look whether files have changed. Called by a timer, and after a certificate was issued."""
        if self._closed or not self._tls or (self._look is not None and not self._look.done()):
            return
        self._look = self._loop.create_task(self._look_once())

    async def _look_once(self) -> None:
        wanted = dict(self._tls)
        found = await asyncio.to_thread(self._read, wanted, dict(self._stamps))
        for name, one in found.items():
            listener = self._changeover.listeners.active.get(name)
            if self._closed or listener is None or self._tls.get(name) != wanted[name]:
                continue  # a reload has changed the listener meanwhile
            journal = self._gateway.telemetry.journal
            if one.fault:
                message = f"{one.fault}; the certificates in use stay"
                journal.limited(f"certificate_refused:{name}:{one.fault}", REPEAT_S, "warning", "certificate_refused",
                                message, listener=name)
                continue
            self._stamps[name] = one.stamps
            listener.context = one.context
            self._changeover.replace_expiries(name, one.expiries)
            journal.info("certificates_loaded", "Changed files are in use.", listener=name)
            self._worker.wake()

    def _read(self, wanted: dict[str, Tls], known: dict[str, tuple[str, ...]]) -> dict[str, Found]:
        """The listeners whose files have changed. Called in a thread."""
        found = {}
        for name, tls in wanted.items():
            stamps = stamps_of(*self._files(tls))
            if stamps == known.get(name):
                continue
            try:
                found[name] = Found(stamps, make_context(name, tls, self._state), listener_expiries(name, tls))
            except ConfigError as refused:
                found[name] = Found(stamps, fault="; ".join(one.message for one in refused.findings))
            except PemFault as fault:
                found[name] = Found(stamps, fault=str(fault))
        return found

    def _files(self, tls: Tls) -> Iterable[str]:
        for one in tls.certificates:
            yield from (one.cert, one.key)
        if tls.client_ca is not None:
            yield tls.client_ca
        for domain in () if tls.acme is None else tls.acme.domains:
            yield self._state.certificate_file(domain)

    # ---- the admin application

    def describe(self) -> list[dict[str, object]]:
        """The entries of /status."""
        return [self._describe(name) for name in self._owners]

    def _describe(self, name: str) -> dict[str, object]:
        one = self._standings.get(name, Standing(name, Record()))
        record, now = one.record, clock.wall()
        warning = f"certificate of {name}: {record.error}" if record.error else ""
        if not one.ends_s and not warning:
            warning = f"certificate of {name}: not obtained yet"
        return {
            "of": "listener", "name": self._owners[name], "file": self._state.certificate_file(name), "domain": name,
            "expires_at": one.ends_s, "left_s": int(one.ends_s - now) if one.ends_s else 0, "warning": warning,
            "urgency": one.urgency, "directory": record.directory, "origin": record.origin,
            "renew_at": record.renew_at,
            "suggested": record.suggested, "failures": record.failures, "next_try": record.next_try,
            "tried_at": record.tried_at, "trying": record.error == UNFINISHED, "fault": record.error,
        }

    def renew(self, name: str = "") -> list[str]:
        """Renew a certificate now, or all with an empty name. Returns their names, none if there is no such name."""
        name = name.lower()
        names = [name] if name in self._owners else [] if name else list(self._owners)
        self._worker.renew(names)
        return names
