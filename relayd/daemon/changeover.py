"""The change from one configuration to the next: prepare (may fail, is undone) and commit (cannot fail).

1. A start and a reload use the same steps; at a start no configuration precedes.
2. Before commit nothing in use is changed. Each step of prepare registers its undo action.
3. Commit consists of assignments and of the use of resources that are already open.
4. A reload holds the event loop for a few milliseconds only, however large the configuration: `compile` runs in a
   thread, `open_steps` in many turns.
5. An old plan is retired when the last exchange that began with it has ended, not before.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator

from relayd import clock
from relayd.acme.state import State
from relayd.config.load import Loaded
from relayd.config.model import Config
from relayd.config.store import Store as StoreSection
from relayd.config.telemetry import sinks_of
from relayd.daemon import admin_socket_path
from relayd.daemon.configured_store import open_store
from relayd.daemon.preflight import Expiry, pem_stamps, preflight
from relayd.daemon.state_dir import acme_folder
from relayd.daemon.turns import at_once
from relayd.dataclass import dataclass
from relayd.errors import ConfigError, ExchangeError, Finding
from relayd.plan.carryover import Carryover, carryover
from relayd.plan.compile import compile_plan
from relayd.plan.plan import Plan
from relayd.proxy.gateway import Gateway
from relayd.proxy.ports import Store
from relayd.server.admin import AdminServer
from relayd.server.demo import DemoServer
from relayd.server.demo_upstream import demo_spec
from relayd.server.listener import ListenerSet, PreparedListeners
from relayd.server.sockets import stored_name
from relayd.telemetry.outlet import Outlet
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Prepared as PreparedTelemetry
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.posts import Posts
from relayd.upstream.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Compiled:
    """A configuration that was checked and compiled; nothing is open yet. `stamps` are those of `pem_stamps`."""

    loaded: Loaded
    plan: Plan
    expiries: tuple[Expiry, ...]
    stamps: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """All resources opened for a new configuration and not yet in use."""

    plan: Plan
    carried: Carryover
    telemetry: PreparedTelemetry
    listeners: PreparedListeners
    admin: AdminServer | None
    store: Store | None
    undo: tuple[Callable[[], None], ...]
    expiries: tuple[Expiry, ...]
    stamps: dict[str, tuple[str, ...]]


@dataclass(slots=True)
class Retiring:
    """A plan that was replaced, and the upstreams that only it uses."""

    generation: int
    upstreams: tuple[Upstream, ...]
    deadline: float


class Changeover:
    """Owns the resources of a configuration besides the plan: listeners, admin socket, demo, retiring plans."""

    def __init__(
        self, gateway: Gateway, telemetry: Telemetry, inherited: dict[str, list[socket.socket]], max_connections: int
    ) -> None:
        """`max_connections`: the number of client connections that the limit of descriptors allows."""
        self._gateway = gateway
        self._telemetry = telemetry
        self._inherited = inherited
        self._max_connections = max_connections
        self._posts = Posts(gateway.client)
        telemetry.outlet = Outlet(self._posts.post, gateway.client.work.put, telemetry.journal)
        self.listeners = ListenerSet(gateway, telemetry, State(acme_folder()))
        self.admin: AdminServer | None = None
        self._admin_section: object = None
        self._store_section: object = StoreSection()  # the default store of a new gateway
        self._demo: DemoServer | None = None
        self._retiring: list[Retiring] = []
        self.expiries: tuple[Expiry, ...] = ()
        self.stamps: dict[str, tuple[str, ...]] = {}

    def prepare(self, loaded: Loaded, generation: int) -> Prepared:
        """Compile a new configuration and open its resources. Raises ConfigError with everything undone."""
        return at_once(self.open_steps(self.compile(loaded, generation)))

    def compile(self, loaded: Loaded, generation: int) -> Compiled:
        """Check and compile a new configuration. It reads files and the present plan, opens and changes nothing, and
        may run in a thread. Raises ConfigError."""
        config, gateway = loaded.config, self._gateway
        stamps = pem_stamps(config)  # before the files are read: a file that changes meanwhile is read again
        checked = preflight(config)
        if checked.faults:
            raise ConfigError(loaded.located(checked.faults))
        builtin = {"demo": demo_spec(self._demo_path())} if uses_demo(config) else {}
        try:
            plan = compile_plan(
                config, generation, gateway.plan, builtin=builtin, gates=gateway.gates, keys=gateway.keys,
                ledger=gateway.ledger,
            )
        except ConfigError as error:
            raise ConfigError(loaded.located(error.findings)) from error
        return Compiled(loaded, plan, tuple(checked.expiries), stamps)

    def open_steps(self, compiled: Compiled) -> Generator[None, None, Prepared]:
        """Open the resources of a compiled configuration in steps of less than a millisecond, except for files and
        sockets. Raises ConfigError with everything undone, as does closing the generator."""
        plan, config, gateway = compiled.plan, compiled.loaded.config, self._gateway
        undo: list[Callable[[], None]] = []
        try:
            telemetry = self._telemetry.prepare(telemetry_settings(config))
            undo.append(lambda: self._telemetry.discard(telemetry))
            self._prepare_demo(config, undo)
            carried = carryover(gateway.plan, plan)
            for upstream in carried.created:
                undo.append(upstream.close)
                if (replaced := carried.replaced.get(upstream.name)) is not None:
                    upstream.inherit_state(replaced)
                upstream.open(gateway.client.connect)
                yield
            store = self._prepare_store(config, undo)
            listeners = self.listeners.prepare(config.listeners, self._inherited)
            undo.append(listeners.undo)
            admin = self._prepare_admin(config)
            if admin is not None:
                undo.append(admin.close)
        except BaseException as error:  # rescue door: after any error nothing stays open; it is raised again
            undo_all(undo)
            if isinstance(error, ConfigError):
                raise ConfigError(compiled.loaded.located(error.findings)) from error
            raise
        return Prepared(
            plan, carried, telemetry, listeners, admin, store, tuple(undo), compiled.expiries, compiled.stamps
        )

    def _prepare_store(self, config: Config, undo: list[Callable[[], None]]) -> Store | None:
        """Open a store if its section has changed. Entries of the old store are not copied."""
        if self._store_section == config.store:
            return None
        store = open_store(config.store, serving=self._gateway.plan is not None)
        undo.append(store.close)
        return store

    def _prepare_demo(self, config: Config, undo: list[Callable[[], None]]) -> None:
        if self._demo is not None or not uses_demo(config):
            return
        try:
            admin_socket_path.make_private_folder(admin_socket_path.private_folder())
            self._demo = DemoServer(self._demo_path())
        except OSError as error:
            raise config_error("routes", f"the demo upstream cannot be started: {error.strerror or error}") from error
        undo.append(self._close_demo)

    @staticmethod
    def _demo_path() -> str:
        return os.path.join(admin_socket_path.private_folder(), f"demo-{os.getpid()}.sock")

    def _close_demo(self) -> None:
        if self._demo is not None:
            self._demo.close()
            self._demo = None

    def _prepare_admin(self, config: Config) -> AdminServer | None:
        """Bind the admin socket if its section has changed."""
        if self.admin is not None and self._admin_section == config.admin:
            return None
        path = admin_socket_path.socket_path(config.admin.address)
        if self.admin is not None and self.admin.path == path:
            raise config_error("admin", "mode and owner of the admin socket change only by a restart")
        if stored_name(f"unix:{path}") not in self._inherited:
            path = admin_socket_path.unheld(path, config.admin.address)
        stored = stored_name(f"unix:{path}")
        inherited = self._inherited.get(stored)
        try:
            if path != admin_socket_path.socket_file(config.admin.address):
                admin_socket_path.make_private_folder(os.path.dirname(path))
            server = AdminServer(path, config.admin.mode, config.admin.owner, inherited[0] if inherited else None)
            self._inherited.pop(stored, None)
            return server
        except OSError as error:
            why = error.strerror or str(error)
            suggestion = "set admin: {address: unix:/path}"
            raise config_error("admin.address", f"cannot listen on unix:{path}: {why}", suggestion) from error

    def commit(self, prepared: Prepared, serve_admin: Callable[[AdminServer], None]) -> None:
        """Put a prepared configuration into force. Cannot fail."""
        gateway, old = self._gateway, self._gateway.plan
        self._telemetry.commit(prepared.telemetry)
        self._telemetry.set_generation(prepared.plan.generation)
        gateway.plan = prepared.plan
        gateway.gates.apply(prepared.plan.gate_limits)
        gateway.ledger.apply(prepared.plan.counters)
        for upstream in prepared.carried.created:
            replaced = prepared.carried.replaced.get(upstream.name)
            if replaced is not None and replaced.operator_changes != upstream.operator_changes:
                upstream.inherit_state(replaced)
        for name, endpoints in prepared.plan.endpoints.items():
            prepared.plan.upstreams[name].set_endpoints(endpoints)
        max_connections, configured = self._max_connections, prepared.plan.config.daemon.connections
        self.listeners.limit = min(max_connections, configured) if configured else max_connections
        self.listeners.commit(prepared.listeners)
        if prepared.admin is not None:
            if self.admin is not None:
                self.admin.close()
            self.admin = prepared.admin
            serve_admin(prepared.admin)
        self._admin_section = prepared.plan.config.admin
        self.expiries, self.stamps = prepared.expiries, prepared.stamps
        if prepared.store is not None:
            gateway.store.close(wait=False)
            gateway.store = prepared.store
        self._store_section = prepared.plan.config.store
        if old is not None:
            timeout_s = float(prepared.plan.config.daemon.retire_timeout)
            deadline = clock.monotonic() + timeout_s if timeout_s else float("inf")
            self._retiring.append(Retiring(old.generation, prepared.carried.retired, deadline))
            self.retire()

    def replace_expiries(self, listener: str, expiries: list[Expiry]) -> None:
        """Note the expiry of the files of a listener, which were changed."""
        paths = {one.path for one in expiries}
        others = (
            one for one in self.expiries if one.path not in paths and (one.kind, one.name) != ("listener", listener)
        )
        self.expiries = (*others, *expiries)

    def retire(self) -> None:
        """Retire old plans without exchanges. End exchanges that exceed `retire_timeout`. Called by a timer."""
        if not self._retiring:
            return
        now = clock.monotonic()
        for retiring in self._retiring:
            if now >= retiring.deadline:
                end_exchanges(self._gateway, retiring.generation)
        oldest = min((exchange.plan.generation for exchange in self._gateway.exchanges), default=None)
        remaining = []
        for retiring in self._retiring:
            if oldest is not None and oldest <= retiring.generation:
                remaining.append(retiring)
                continue
            for upstream in retiring.upstreams:
                upstream.retire()
        self._retiring = remaining

    def leave(self) -> None:
        """Close the listening sockets without removing their paths, because another process serves them."""
        self.listeners.close(unlink=False)
        if self.admin is not None:
            self.admin.close(unlink=False)
            self.admin = None

    def stored(self) -> dict[str, list[socket.socket]]:
        """The listening sockets that the next process can inherit. Those of a socket unit belong to systemd."""
        reusable = {
            stored_name(one.config.address, one.config.reuse_port): one.sockets
            for one in self.listeners.active.values()
            if not one.config.address.startswith("systemd:") and not one.config.address.endswith(":0")
        }
        if self.admin is not None:
            reusable[stored_name(f"unix:{self.admin.path}")] = [self.admin.socket]
        return reusable

    def close(self) -> None:
        """Close all sockets, remove their paths, and close the connections to endpoints."""
        self.listeners.close()
        if self.admin is not None:
            self.admin.close()
            self.admin = None
        self._gateway.store.close()
        plan = self._gateway.plan
        for upstream in (*(plan.upstreams.values() if plan is not None else ()), *self._retiring_upstreams()):
            upstream.close()
        self._posts.close()
        self._close_demo()

    def _retiring_upstreams(self) -> list[Upstream]:
        return [upstream for retiring in self._retiring for upstream in retiring.upstreams]


def end_exchanges(gateway: Gateway, generation: int) -> None:
    """End the exchanges of this generation and older ones with the error `stopped`."""
    for exchange in list(gateway.exchanges):
        if exchange.plan.generation <= generation:
            exchange.fail(ExchangeError("stopped"))


def undo_all(undo: list[Callable[[], None]] | tuple[Callable[[], None], ...]) -> None:
    """Run the undo actions in reverse order."""
    for step in reversed(undo):
        step()


def config_error(path: str, message: str, suggestion: str = "") -> ConfigError:
    return ConfigError([Finding("", 0, 0, path, message, suggestion)])


def uses_demo(config: Config) -> bool:
    """True if a route names the built-in upstream `demo`."""
    return any(route.upstream == "demo" for route in config.routes)


def telemetry_settings(config: Config) -> TelemetrySettings:
    """The section `telemetry:` as TelemetrySettings, with the query parameters that carry configured keys."""
    section = config.telemetry
    auths = [upstream.auth for upstream in config.upstreams.values() if upstream.auth is not None]
    names = {auth.query.name.lower().replace("-", "_") for auth in auths if auth.query is not None}
    return TelemetrySettings(
        access_format=section.access_log.format,
        access_file=section.access_log.file,
        access_query=section.access_log.query,
        log_format=section.log.format,
        log_level=section.log.level,
        secret_query=frozenset(names),
        sinks=sinks_of(section),
    )
