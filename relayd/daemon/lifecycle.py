"""The life cycle of the process: start, serve, reload, drain, stop.

    starting -> serving <-> (reloading) -> draining (no successor) or leaving (a successor has taken over) -> stopped

1. A refused reload changes nothing. It is reported in the log, in /status, in a gauge and to the caller.
2. Reloads run one after the other. All signals that arrive during a reload cause one further reload.
3. A drain ends with the last exchange or at its timeout, and immediately at a second stop request.
4. Under a keeper relayd passes it the listening sockets before it reports READY=1.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from functools import partial

from relayd import __version__, clock
from relayd.acme.state import State
from relayd.config.load import Loaded, load
from relayd.config.model import Config
from relayd.daemon import activation, admin_socket_path, checks
from relayd.daemon.accepted import last_accepted
from relayd.daemon.certificate_watch import CertificateWatch
from relayd.daemon.certificates import Certificates
from relayd.daemon.changeover import Changeover, Prepared, end_exchanges, telemetry_settings, undo_all
from relayd.daemon.discovery import DiscoveryService
from relayd.daemon.drain import Drain
from relayd.daemon.file_watch import FileWatch
from relayd.daemon.generations import Generations
from relayd.daemon.issued_keys import IssuedKeys
from relayd.daemon.key_sources import KeySources
from relayd.daemon.ledger import Ledger
from relayd.daemon.loop_lag import LoopLag
from relayd.daemon.maintenance import Maintenance
from relayd.daemon.notify import Notifier
from relayd.daemon.preflight import load_checked, pem_stamps
from relayd.daemon.rates import RateReports
from relayd.daemon.rollback import Read, Rollback
from relayd.daemon.saved_generation import SavedGeneration
from relayd.daemon.services import Services
from relayd.daemon.shared_state import shared_services
from relayd.daemon.signals import Signals, block_signals
from relayd.daemon.start_error import StartError, reasons, start_error
from relayd.daemon.state_dir import acme_folder, keys_folder, seal_key, state_folder
from relayd.daemon.store_reports import StoreReports
from relayd.daemon.timers import Timers
from relayd.daemon.turns import in_turns, log_changes
from relayd.daemon.upgrade import Upgrade
from relayd.errors import ConfigError
from relayd.plan.diff import contents_diff, diff, files_diff
from relayd.proxy.gateway import Gateway
from relayd.server.admin import AdminServer
from relayd.server.admin_application import AdminApplication
from relayd.server.admin_views import AdminViews, ProcessState, Refusal, ReloadResult
from relayd.server.sockets import STORED
from relayd.telemetry.journal import LoggingBridge
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient

FLUSH_S = 0.05
RETIRE_S = 0.5
RESERVED_DESCRIPTORS = 64
DESCRIPTORS_PER_CONNECTION = 2
# A middle collection examines up to 75,000 objects, some 10 milliseconds; a full one is rare. With a million objects
# between two middle ones, large bodies of several clients made everybody wait 150 milliseconds.
GC_THRESHOLDS = (25_000, 2, 1000)


def run(path: str, *, watch: bool = False) -> int:
    """Serve until stopped. `watch`: reload when a file changes. Raises ConfigError or StartError if the start fails."""
    block_signals()  # a SIGHUP before the loop runs must neither be lost nor end the process
    old = checks.too_old(checks.versions())
    if old:
        raise StartError(*old)
    refused: ConfigError | None = None
    accepted = last_accepted()
    try:
        loaded = load(path) if accepted is None else load_checked(path)[0]
    except ConfigError as error:
        if accepted is None:
            raise
        loaded, refused = accepted, error
    return asyncio.run(serve(path, loaded, accepted, refused, watch=watch))


async def serve(
    path: str, loaded: Loaded, accepted: Loaded | None = None, refused: ConfigError | None = None, *,
    watch: bool = False,
) -> int:
    """Run one process life on the running loop. `accepted`: the configuration to fall back to if `loaded` cannot be put
    into force. `refused`: the error of the file, if `loaded` is that fallback already."""
    # Access log and sinks may fail: `start` opens them.
    settings = replace(telemetry_settings(loaded.config), access_file=None, sinks={})
    telemetry = Telemetry.build(settings)
    LoggingBridge(telemetry.journal).install()
    life = Lifecycle(path, telemetry, watch=watch)
    try:
        await life.services.prepare(loaded.config)
        reason = life.start(loaded, accepted) or refused
        if reason is not None:
            life.report_fallback(reason)
        await life.stopped.wait()
    finally:
        life.close()
    return 0


class Lifecycle:
    """Owns every part of the running process. One per process. Used from the loop only."""

    def __init__(self, path: str, telemetry: Telemetry, *, watch: bool = False) -> None:
        self.path = os.path.abspath(path)
        self.telemetry, self.journal = telemetry, telemetry.journal
        self.notifier = Notifier()
        self.state = ProcessState(self.path)
        self.lag = LoopLag(telemetry.lag)
        self.state.lag_s, self.state.worst_lag_s = (lambda: self.lag.current_s), (lambda: self.lag.worst_s)
        self.state.certificates = lambda: [
            *(one.describe() for one in self.changeover.expiries), *self.certificates.describe()
        ]
        self.state.renew = lambda name: self.certificates.renew(name)
        self.client: StreamClient = StreamClient(force_instance=True)
        self.gateway = Gateway(self.client, telemetry)
        self.gateway.seal_key, fault = seal_key()
        if fault:
            self.journal.warning("seal_key_not_kept", "Sealed summaries cannot be opened after a restart.", why=fault)
        self.views = AdminViews(self.gateway, telemetry, self.state)
        actions = {"/reload": self.reload, "/upgrade": self.upgrade, "/diff": self.compare, "/reopen": self.reopen}
        self.gateway.admin = AdminApplication(self.views, actions)
        telemetry.refresh_gauges = self._gauges
        self.inherited = activation.inherited_sockets()
        self.descriptors = checks.raise_descriptors()
        max_connections = max(16, (self.descriptors.now - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION)
        self.changeover = Changeover(self.gateway, telemetry, self.inherited, max_connections)
        self.signals = Signals(self.on_hangup, self.on_stop, self.telemetry.reopen, self._on_upgrade_signal)
        self.stopped = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reloading = asyncio.Lock()
        self._reload_requested = False
        self._waiting_reloads = 0  # number of reloads that wait for the current one
        self._socket_note = ""
        maintenance = Maintenance(self.gateway, self.client, self.lag, self.journal, self.descriptors.now)
        self.certificates = Certificates(self.gateway, self.changeover, State(acme_folder()))
        self.generations = Generations.of_service()
        self.state.rollback = Rollback(self.generations, self.reload, self.compare)
        self.saved_generation = SavedGeneration(self.generations, self.journal)
        self.ledger = Ledger(self.gateway, self.journal, state_folder(), self.gateway.ledger)
        lookups = (DiscoveryService(self.client, telemetry), KeySources(self.client, telemetry, state_folder()))
        self.services = Services((
            maintenance, self.saved_generation,
            CertificateWatch(lambda: self.changeover.expiries, telemetry, self.certificates.left_s),
            self.certificates, self.ledger, StoreReports(self.gateway, telemetry),
            *shared_services(self.gateway, keys_folder(), self.journal),
            IssuedKeys(self.gateway, keys_folder(), self.journal),
            RateReports(self.gateway, self.client, telemetry),
            *((FileWatch(self.path, self.request_reload, self.journal),) if watch else ()),
        ), lookups)  # fmt: skip
        self.timers = Timers(self._loop)
        self.drain = Drain(self.gateway, self.changeover, self.notifier, self.journal)
        self._drain_task: asyncio.Task[None] | None = None
        self._stored: dict[str, list[socket.socket]] = {}
        self._files: tuple[str, ...] = ()
        self._upgrade = Upgrade(self.notifier, self.journal)
        self._reload: asyncio.Task[None] | None = None

    # ---- start

    def start(self, loaded: Loaded, accepted: Loaded | None = None) -> ConfigError | StartError | None:
        """Prepare and commit the first configuration, as a reload does. If it fails, fall back to the last `accepted`
        configuration and return the error. Raises ConfigError or StartError if that fails too."""
        self.signals.install(self._loop)  # before a socket listens; handlers run after the start
        refused: ConfigError | StartError | None = None
        try:
            prepared = self._prepared(loaded)
        except (ConfigError, StartError) as error:
            if accepted is None or accepted.texts == loaded.texts:
                raise
            with contextlib.suppress(ConfigError, StartError):
                prepared, loaded, refused = self._prepared(accepted), accepted, error
            if refused is None:  # the fallback failed too: report the errors of the file
                raise
        self.changeover.commit(prepared, self._serve_admin)
        config = loaded.config
        named = activation.named(listener.address for listener in config.listeners.values())
        for name in activation.close_unnamed(self.inherited, named):
            if name.startswith(STORED):
                self.notifier.unstore(name)
                del self.inherited[name]  # a reload may bind its address again
                continue
            self.journal.warning("socket_closed", "No listener names this socket that systemd passed.", socket=name)
        self._after_commit(loaded)
        if self.notifier.has_keeper:
            self._loop.add_reader(self.notifier.fileno(), self._on_keeper_message)
        self.lag.start()
        self.timers.every("flush", FLUSH_S, self.telemetry.flush)
        self.timers.every("send", self.telemetry.interval_s, self._send)
        self.timers.every("retire", RETIRE_S, self.changeover.retire)
        if self.notifier.watchdog_interval_s:
            self.timers.every("watchdog", self.notifier.watchdog_interval_s, self.notifier.watchdog)
        self.services.start(self.timers)
        gc.collect()
        gc.freeze()  # exclude objects that live as long as the process from collections
        gc.set_threshold(*GC_THRESHOLDS)
        self.state.phase = "serving"
        addresses = ", ".join(f"{name}={listener.address}" for name, listener in config.listeners.items())
        admin = self.changeover.admin.path if self.changeover.admin is not None else ""
        self.journal.info(
            "started", version=__version__, config=self.path, listeners=addresses, admin=f"unix:{admin}",
            descriptors=self.descriptors.now, pid=os.getpid(),
        )
        if admin_socket_path.is_moved(admin, config.admin.address):
            self.journal.warning(
                "admin_moved", "The default socket belongs to another relayd, or this user cannot create it; relayd's "
                "commands find this one by the configuration file.",
                admin=f"unix:{admin}",
            )
        self.notifier.ready(self._status_line())
        return refused

    def _prepared(self, loaded: Loaded) -> Prepared:
        self.ledger.restore()
        try:
            return self.changeover.prepare(loaded, self.generations.number_for(loaded.texts))
        except ConfigError as error:
            raise start_error(error, loaded) from error

    def report_fallback(self, refused: ConfigError | StartError) -> None:
        """Report that the file is unusable and the last accepted configuration is in force."""
        message = "The configuration that was accepted last is in force. Correct the file, then reload."
        self.journal.error("start_refused", message, config=self.path)
        self._refused(reasons(refused))

    def _serve_admin(self, server: AdminServer) -> None:
        server.serve(self.gateway.admin)
        self._socket_note = admin_socket_path.write_note(self.path, server.path)

    def _after_commit(self, loaded: Loaded, changes: tuple[str, ...] = ()) -> None:
        """Update state after a start or an accepted reload has committed a configuration."""
        self._files, plan = loaded.files, self.gateway.plan
        assert plan is not None
        self.state.accept(plan.generation, tuple(str(finding) for finding in loaded.warnings), changes)
        self.services.commit(plan)
        self.saved_generation.save(plan.generation, loaded.texts)
        self.telemetry.metrics.gauge("relayd.config.rejected", 0)
        stored = self.changeover.stored()
        for name, sockets in self._stored.items():
            if sockets != stored.get(name):  # first, because new sockets may use the same name
                self.notifier.unstore(name)
        for name, sockets in stored.items():
            self.notifier.store(name, [sock.fileno() for sock in sockets])
        self._stored = stored
        for warning in self.state.warnings:
            self.journal.warning("config_warned", warning)

    def _status_line(self) -> str:
        plan = self.gateway.plan
        assert plan is not None
        refused = " (a newer configuration was refused)" if self.state.refusal is not None else ""
        return f"generation {plan.generation}, {len(self.gateway.exchanges)} exchanges in flight{refused}"

    # ---- periodic work

    def _send(self) -> None:
        self.telemetry.send()
        if self.notifier.connected and self.state.phase == "serving":
            self.notifier.status(self._status_line())

    def _gauges(self) -> None:
        metrics, exchanges = self.telemetry.metrics, self.gateway.exchanges
        metrics.gauge("relayd.proxy.exchanges", len(exchanges))
        metrics.gauge("relayd.proxy.streams", sum(1 for one in exchanges if one.phase in ("transfer", "tunnel")))
        listeners = self.changeover.listeners.active
        metrics.set_gauges("relayd.listener.connections", {(name,): one.count for name, one in listeners.items()})
        self.services.gauges()

    # ---- reload

    def _on_upgrade_signal(self) -> None:
        """Log that SIGUSR2 must go to the keeper. Handled here, because unhandled it would end the process."""
        self.journal.warning("upgrade_not_possible", "SIGUSR2 starts an upgrade only if it is sent to the keeper.")

    async def reopen(self) -> ReloadResult:
        """Reopen the log files; the configuration is not read."""
        fault = self.telemetry.reopen()
        generation = 0 if self.gateway.plan is None else self.gateway.plan.generation
        return ReloadResult(not fault, generation, findings=(fault,) if fault else ())

    def on_hangup(self) -> None:
        """SIGHUP: reopen the log files, then reload the configuration."""
        self.telemetry.reopen()
        self.request_reload()

    def request_reload(self) -> None:
        """Schedule a reload. Further requests before it has started have no effect."""
        if self._reload_requested or self.ending():
            return
        self._reload_requested = True
        self._reload = self._loop.create_task(self._reload_once())

    async def _reload_once(self) -> None:
        async with self._exclusive_reload():
            self._reload_requested = False  # a request from now on may refer to a newer file
            await self._reload_now()

    async def reload(self, read: Read | None = None) -> ReloadResult:
        """Reload, and return the result. `read` returns the configuration, by default that of the file."""
        async with self._exclusive_reload():
            return await self._reload_now(read)

    @contextlib.asynccontextmanager
    async def _exclusive_reload(self) -> AsyncIterator[None]:
        """Context in which no other reload runs."""
        self._waiting_reloads += 1
        try:
            await self._reloading.acquire()
        finally:
            self._waiting_reloads -= 1
        try:
            yield
        finally:
            self.services.discard()
            self._reloading.release()

    async def _reload_now(self, read: Read | None = None) -> ReloadResult:
        plan = self.gateway.plan
        assert plan is not None
        if self.ending():
            return ReloadResult(False, plan.generation, findings=("relayd is shutting down",))
        self.notifier.reloading()
        loaded: Loaded | None = None
        try:
            loaded = await asyncio.to_thread(read or partial(load, self.path))  # streams continue meanwhile
            await self.services.prepare(loaded.config)
            compiled = await asyncio.to_thread(self.changeover.compile, loaded, plan.generation + 1)
            changes = await asyncio.to_thread(self._changes, plan.config, loaded, compiled.stamps)
            prepared = await in_turns(self.changeover.open_steps(compiled)) if changes else None
        except ConfigError as error:
            # The owner of a port is searched in /proc, which takes long on a machine with many processes.
            explained = error if loaded is None else await asyncio.to_thread(start_error, error, loaded)
            return self._refused(reasons(explained))
        except Exception as error:  # rescue door: a failed reload must never stop the service
            return self._refused((f"internal fault: {type(error).__name__}: {error}",))
        if self.ending():  # a stop was requested while the file was read
            undo_all(() if prepared is None else prepared.undo)
            return ReloadResult(False, plan.generation, findings=("relayd is shutting down",))
        if prepared is None:
            return self._report_unchanged(loaded, plan.generation)
        self.changeover.commit(prepared, self._serve_admin)
        self._after_commit(loaded, changes)
        generation = prepared.plan.generation
        self.timers.every("send", self.telemetry.interval_s, self._send)
        self.telemetry.metrics.add("relayd.config.reloads", result="accepted")
        self.journal.info("reloaded", f"{len(changes)} changes", config=self.path)
        await in_turns(log_changes(self.journal, changes))
        self._notify_ready()
        return ReloadResult(True, generation, changes, warnings=self.state.warnings)

    def _notify_ready(self) -> None:
        """Send READY=1 unless a further reload is due: for the keeper and systemd it ends all changes."""
        if not (self._reload_requested or self._waiting_reloads):
            self.notifier.ready(self._status_line())

    async def compare(self, read: Read | None = None) -> ReloadResult:
        """Return what a reload would change now, without opening or changing anything."""
        plan = self.gateway.plan
        assert plan is not None
        try:
            loaded = await asyncio.to_thread(read or partial(load, self.path))
        except ConfigError as error:
            findings = tuple(str(finding) for finding in error.findings)
            return ReloadResult(False, plan.generation, findings=findings)
        changes = await asyncio.to_thread(lambda: self._changes(plan.config, loaded, pem_stamps(loaded.config)))
        warnings = tuple(str(finding) for finding in loaded.warnings)
        return ReloadResult(True, plan.generation, changes, warnings=warnings)

    def _report_unchanged(self, loaded: Loaded, generation: int) -> ReloadResult:
        """Report a reload whose file equals the configuration in force. The generation stays."""
        self.state.refusal = None
        self.state.warnings = tuple(str(finding) for finding in loaded.warnings)
        self.telemetry.metrics.gauge("relayd.config.rejected", 0)
        self.telemetry.metrics.add("relayd.config.reloads", result="accepted")
        self.journal.info("reloaded", "0 changes", config=self.path)
        self.notifier.ready(self._status_line())
        return ReloadResult(True, generation, warnings=self.state.warnings)

    def _changes(self, config: Config, loaded: Loaded, stamps: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
        """The changes for the operator: files first, because a missing file explains the following lines."""
        files = files_diff(self._files, loaded.files)
        contents = contents_diff(self.changeover.stamps, stamps)
        return tuple(str(change) for change in (*files, *diff(config, loaded.config), *contents))

    def _refused(self, findings: tuple[str, ...]) -> ReloadResult:
        plan = self.gateway.plan
        assert plan is not None
        self.state.refusal = Refusal(clock.wall(), findings)
        self.telemetry.metrics.gauge("relayd.config.rejected", 1)
        self.telemetry.metrics.add("relayd.config.reloads", result="refused")
        message = "The configuration in force stays."
        self.journal.error("reload_refused", message, config=self.path, findings=len(findings))
        for finding in findings:
            self.journal.error("config_refused", finding)
        self._notify_ready()
        return ReloadResult(False, plan.generation, findings=findings)

    # ---- the keeper

    def _on_keeper_message(self) -> None:
        """Handle commands of the keeper."""
        while (message := self.notifier.receive_command()) is not None:
            command, _, argument = message.partition(" ")
            if command == "reload":
                self.on_hangup()
            elif command in ("stop", "end"):
                self.on_stop("keeper", repeated=command == "end")
            elif command == "leave":
                self.leave("keeper")
            elif command == "refused":
                self._upgrade.complete(f"the new process ended with {argument}; its reasons are in the log")
            else:
                self._loop.remove_reader(self.notifier.fileno())
                self._keeper_gone()
                return

    def _keeper_gone(self) -> None:
        """The keeper has died: finish the open exchanges. The next process inherits the sockets or binds new ones."""
        if self.state.phase == "draining":
            self.on_stop("keeper gone", repeated=True)
        elif self._drain_task is None:
            self.journal.error("keeper_lost", "The keeper is gone; this process finishes its exchanges and ends.")
            self.leave("keeper gone")

    async def upgrade(self) -> ReloadResult:
        """Ask the keeper for a new process that takes over, and return the result."""
        plan = self.gateway.plan
        assert plan is not None
        if not self.notifier.has_keeper or self.ending():
            why = "relayd is ending" if self.ending() else "relayd runs without a keeper: `relayd run`"
            return ReloadResult(False, plan.generation, findings=(why,))
        fault = await self._upgrade.request()
        return ReloadResult(not fault, plan.generation, findings=(fault,) if fault else ())

    # ---- stop

    def ending(self) -> bool:
        """True once the process drains or leaves."""
        return self._drain_task is not None

    def on_stop(self, name: str, repeated: bool) -> None:
        """SIGTERM or SIGINT: drain; `repeated`: end immediately. A leaving process is limited to the drain timeout."""
        if repeated:
            self.journal.warning("stop_forced", "A second stop request: open exchanges are ended.", signal=name)
            self.drain.forced.set()
            self.stopped.set()
        elif self.state.phase == "leaving":
            self.drain.shorten(name)
        elif self._drain_task is None:
            self.state.phase = "draining"
            for stored in self._stored:  # no successor: clients must not wait for an accept
                self.notifier.unstore(stored)
            self._stop_after(self.drain.stop(name))

    def leave(self, name: str) -> None:
        """Finish the open exchanges, because another process takes over."""
        if self._drain_task is None:
            self.state.phase = "leaving"
            self._upgrade.complete("")
            self._stop_after(self.drain.leave(name))

    def _stop_after(self, drain: Coroutine[None, None, None]) -> None:
        self._drain_task = self._loop.create_task(drain)
        self._drain_task.add_done_callback(lambda _: self.stopped.set())

    def close(self) -> None:
        """Close every part in the order of their dependencies. Also used after a failed start."""
        self.timers.close()
        self.lag.stop()
        self.signals.remove(self._loop)
        plan = self.gateway.plan
        if plan is not None:
            end_exchanges(self.gateway, plan.generation)
        self.changeover.listeners.abort_all()
        if self.changeover.admin is not None:
            admin_socket_path.remove_note(self._socket_note, self.changeover.admin.path)
        if self.notifier.has_keeper:
            self._loop.remove_reader(self.notifier.fileno())
        self.services.close()
        self.changeover.close()
        self.client.close()
        if plan is not None:
            self.journal.info("stopped", uptime_s=round(clock.monotonic() - self.state.started, 3))
        self.telemetry.close()
        self.notifier.close()
