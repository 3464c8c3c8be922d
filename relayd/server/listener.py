"""Listeners: accept, limit and sweep client connections, and change on a reload.

Laws:
1. `prepare` may fail and is undone; `commit` cannot fail. A listener whose address is unchanged keeps its socket.
2. A listener at its limit or out of descriptors stops accepting, keeps serving, and retries on a timer. New connections
   wait in the kernel's accept queue, and the loop does not spin.
3. A connection keeps the limits of the listener that accepted it. Connections of a removed listener finish their
   requests.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.tcpserver import TCPServer

from relayd import clock
from relayd.config.listener import Listener as ListenerSection
from relayd.errors import ExchangeError
from relayd.proxy.gateway import Gateway
from relayd.server.connection import Connection
from relayd.server.heap_trim import HeapTrim
from relayd.server.proxy_header import ProxyHeaderReader
from relayd.server.read_poller import ReadPoller
from relayd.server.sockets import STORED, apply_socket_options, bind, sockets_match, split, stored_name
from relayd.server.stream import ClientStream, TlsClientStream
from relayd.server.tls import make_context
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.kernel_buffer import bound_kernel_buffer
from relayd.wire.forwarded import TrustedNetworks
from relayd.wire.http1 import HeadLimits
from relayd.work_queue import WorkQueue

PER_TURN = 64
RETRY_S = 0.25
SWEEP_MS = 250


class Listener(TCPServer):
    """One listener: its sockets and the connections it has accepted. Owned by the ListenerSet."""

    def __init__(
        self, name: str, config: ListenerSection, gateway: Gateway, telemetry: Telemetry, sockets: list[socket.socket]
    ) -> None:
        super().__init__()
        self.name, self.gateway, self.telemetry, self.sockets = name, gateway, telemetry, sockets
        self.loop = IOLoop.current()
        self.connections: set[Connection] = set()
        self._header_readers: set[ProxyHeaderReader] = set()
        self._peers: dict[str, int] = {}
        self._accepting = False
        self._resume_timer: object | None = None
        for sock in sockets:
            bound_kernel_buffer(sock)
        self._poller = ReadPoller(self.loop, gateway.client.begin)
        self.configure(config, None)

    def configure(self, config: ListenerSection, context: ssl.SSLContext | None) -> None:
        """Apply settings. Open connections use the new timeouts and limits too."""
        self.config = config
        self.context = context
        limits = config.limits
        self.limits = HeadLimits(int(limits.request_line), int(limits.field_line), int(limits.header), limits.fields)
        self.trailer_bytes = int(limits.trailer)
        self.max_requests = limits.requests
        self.timeouts = config.timeouts
        self.networks = TrustedNetworks(config.trusted_proxies)

    # ---- accepting

    def accept(self) -> None:
        """Start or resume accepting."""
        if not self._accepting:
            self._accepting = True
            for sock in self.sockets:
                self.loop.add_handler(sock, self._on_acceptable, IOLoop.READ)

    def pause(self) -> None:
        """Stop accepting. New connections wait in the kernel."""
        if self._resume_timer is not None:
            self.loop.remove_timeout(self._resume_timer)
            self._resume_timer = None
        if self._accepting:
            self._accepting = False
            for sock in self.sockets:
                self.loop.remove_handler(sock)

    def _resume_accepting(self) -> None:
        self._resume_timer = None
        self.accept()

    def _back_off(self, reason: str) -> None:
        self.pause()
        self._resume_timer = self.loop.call_later(RETRY_S, self._resume_accepting)
        self.telemetry.metrics.add("relayd.listener.refused", listener=self.name, reason=reason)
        self.telemetry.journal.limited(
            f"paused:{self.name}:{reason}", 10, "warning", "listener_paused",
            "accepting is paused; new connections wait in the kernel", listener=self.name, reason=reason,
        )

    def _on_acceptable(self, sock: socket.socket, events: int) -> None:
        max_connections = self.config.limits.connections
        for _ in range(PER_TURN):
            if (max_connections and self.count >= max_connections) or self.gateway.full():
                self._back_off("limit")
                return
            try:
                client, address = sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._back_off("descriptors")
                    return
                raise
            self._on_accepted(client, address)

    def _on_accepted(self, client: socket.socket, address: object) -> None:
        client.setblocking(False)
        if client.family == socket.AF_UNIX:
            peer = "unix"
        else:
            assert isinstance(address, tuple)
            peer = str(address[0]).removeprefix("::ffff:")
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.telemetry.metrics.add("relayd.listener.opened", listener=self.name)
        if self.config.proxy_protocol:
            if not self.networks.contains(peer):
                client.close()
                self.telemetry.metrics.add("relayd.listener.refused", listener=self.name, reason="limit")
                return
            self._header_readers.add(ProxyHeaderReader(self, client, peer))
            return
        self.serve(client, peer, peer)

    def on_proxy_header(self, reader: ProxyHeaderReader, source: str | None) -> None:
        """Called when the PROXY protocol header was read. `source`: the address it names, None if it was rejected."""
        self._header_readers.discard(reader)
        if source is None:
            reader.sock.close()
        else:
            self.serve(reader.sock, source, source)

    def serve(self, client: socket.socket, peer: str, counted: str) -> None:
        """Create the connection of an accepted socket. `counted`: the peer that its limit of connections counts."""
        max_connections = self.config.limits.connections_per_peer
        open_connections, trusted = self._peers.get(counted, 0), self.networks.contains(peer)
        # A trusted proxy brings many clients.
        if max_connections and counted != "unix" and not trusted and open_connections >= max_connections:
            self.telemetry.metrics.add("relayd.listener.refused", listener=self.name, reason="peer_limit")
            if self.context is None:
                self._reject(client, peer)
            client.close()
            return
        if self.context is not None:
            try:
                wrapped = self.context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            except OSError:  # the client is gone already; the ssl module raises several kinds of errors
                client.close()
                return
            stream: ClientStream | TlsClientStream = TlsClientStream(
                wrapped, max_buffer_size=1 << 20, read_chunk_size=8192
            )
        else:
            stream = ClientStream(client, self._poller, max_buffer_size=1 << 24, read_chunk_size=8192)
        self._peers[counted] = open_connections + 1
        self.connections.add(Connection(stream, self, peer, trusted, self.context is not None))

    def _reject(self, client: socket.socket, peer: str) -> None:
        fault = ExchangeError("too_many_connections", headers=(("Retry-After", "1"),))
        answer = self.gateway.refuse(RejectedPeer(self.name, peer), fault, clock.monotonic())
        try:
            client.send(answer)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the client left before the response

    def forget(self, connection: Connection) -> None:
        """Drop a connection that has closed."""
        if connection in self.connections:
            self.connections.discard(connection)
            remaining = self._peers.get(connection.peer, 1) - 1
            if remaining > 0:
                self._peers[connection.peer] = remaining
            else:
                self._peers.pop(connection.peer, None)

    def tls_failed(self) -> None:
        """Count a connection that ended during its TLS handshake."""
        self.telemetry.metrics.add("relayd.listener.tls_failed", listener=self.name)

    @property
    def work(self) -> WorkQueue:
        """The queue for work that exceeds this loop turn."""
        return self.gateway.client.work

    @property
    def count(self) -> int:
        return len(self.connections) + len(self._header_readers)

    def sweep(self, now: float) -> None:
        """Enforce the timeouts of all connections."""
        for connection in list(self.connections):
            connection.enforce_timeouts(now)
        for reader in list(self._header_readers):
            reader.enforce_timeouts(now)

    @property
    def activated(self) -> bool:
        """True if systemd owns the sockets (socket activation)."""
        return self.config.address.startswith("systemd:")

    def withdraw(self) -> None:
        """Stop listening for good, because the address has left the configuration. Connections that already wait are
        accepted first. The sockets stop listening also while another process still holds them."""
        for sock in () if self.activated else self.sockets:
            if self._accepting:
                self._on_acceptable(sock, IOLoop.READ)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
        self.close_sockets()

    def close_sockets(self, unlink: bool = True) -> None:
        """Stop accepting for good. Without `unlink` the path stays, because another process listens on it."""
        self.pause()
        for sock in self.sockets:
            if unlink and sock.family == socket.AF_UNIX and self.config.address.startswith("unix:"):
                _unlink(self.config.address[5:])
            sock.close()
        self.sockets = []

    def end(self) -> None:
        """Release the poller, once the sockets and the last connection are closed."""
        self._poller.close()


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


@dataclass(slots=True)
class RejectedPeer:
    """A peer that is rejected before it gets a connection."""

    listener: str
    peer: str


@dataclass(slots=True)
class PreparedListeners:
    """Sockets and certificates for a new configuration, not yet in use."""

    configs: Mapping[str, ListenerSection]
    inherited: dict[str, list[socket.socket]] = field(default_factory=dict)
    bound: dict[str, list[socket.socket]] = field(default_factory=dict)
    contexts: dict[str, ssl.SSLContext | None] = field(default_factory=dict)
    taken_over: dict[str, str] = field(default_factory=dict)  # listener: the name its sockets were inherited under

    def undo(self) -> None:
        """Close the sockets that were bound. Inherited sockets go back to `inherited`."""
        for name, sockets in self.bound.items():
            kind, path, _ = split(self.configs[name].address)
            if kind == "systemd":
                continue
            if name in self.taken_over:
                self.inherited[self.taken_over[name]] = sockets
                continue
            for sock in sockets:
                sock.close()
            if kind == "unix":
                _unlink(path)


class ListenerSet:
    """All listeners; owned by the daemon."""

    def __init__(self, gateway: Gateway, telemetry: Telemetry) -> None:
        self._gateway, self._telemetry = gateway, telemetry
        self.active: dict[str, Listener] = {}
        self._retiring: list[Listener] = []
        self._heap_trim = HeapTrim()
        self._sweep = PeriodicCallback(self._on_sweep, SWEEP_MS)
        self.limit = 0
        gateway.full = self._full

    @property
    def connections(self) -> int:
        """Open client connections."""
        return sum(one.count for one in (*self.active.values(), *self._retiring))

    def _full(self) -> bool:
        return bool(self.limit) and self.connections >= self.limit

    def prepare(
        self, configs: Mapping[str, ListenerSection], inherited: dict[str, list[socket.socket]] | None = None
    ) -> PreparedListeners:
        """Read certificates and bind new sockets. Raises ConfigError, with nothing left open."""
        inherited = {} if inherited is None else inherited
        prepared = PreparedListeners(configs, inherited)
        addresses = {config.address for config in configs.values()}
        replaced = self._replaced(configs, inherited, addresses)
        try:
            for name, config in configs.items():
                prepared.contexts[name] = make_context(name, config.tls) if config.tls is not None else None
                if self._reusable(config, addresses) is None:
                    stored = stored_name(config.address, config.reuse_port)
                    handed_over = stored in inherited
                    prepared.bound[name] = bind(name, config, inherited, other_addresses=addresses, replaced=replaced)
                    if handed_over and stored not in inherited:
                        prepared.taken_over[name] = stored
        except BaseException:  # rescue door: after any fault no socket stays bound
            prepared.undo()
            raise
        return prepared

    def _reusable(self, config: ListenerSection, addresses: Collection[str]) -> Listener | None:
        """The active listener whose sockets this configuration can reuse."""
        for old in self.active.values():
            if (old.config.address, old.config.reuse_port) == (config.address, config.reuse_port):
                return old if sockets_match(old.sockets, config.address, addresses) else None
        return None

    def _replaced(
        self, configs: Mapping[str, ListenerSection], inherited: Mapping[str, list[socket.socket]],
        addresses: Collection[str],
    ) -> list[socket.socket]:
        """The sockets that are closed once these listeners are in force. A new socket may overlap with them."""
        reusable = [self._reusable(config, addresses) for config in configs.values()]
        wanted = {
            name for config in configs.values() if (name := stored_name(config.address, config.reuse_port))
            and sockets_match(inherited.get(name, []), config.address, addresses)
        }
        retiring = [old.sockets for old in self.active.values() if old not in reusable and not old.activated]
        remaining = [found for name, found in inherited.items() if name.startswith(STORED) and name not in wanted]
        return [sock for sockets in (*retiring, *remaining) for sock in sockets if sock.fileno() >= 0]

    def commit(self, prepared: PreparedListeners) -> None:
        """Put a prepared configuration into force."""
        now: dict[str, Listener] = {}
        addresses = {config.address for config in prepared.configs.values()}
        for name, config in prepared.configs.items():
            one = self._reusable(config, addresses) if name not in prepared.bound else None
            if one is None:
                one = Listener(name, config, self._gateway, self._telemetry, prepared.bound[name])
            else:
                apply_socket_options(one.sockets, one.config, config)
            one.name = name
            one.configure(config, prepared.contexts[name])
            now[name] = one
        for old in self.active.values():
            if old not in now.values():
                old.withdraw()
                self._retiring.append(old)
                for connection in list(old.connections):
                    connection.close_idle()
        self.active = now
        for one in now.values():
            one.accept()
        if not self._sweep.is_running():
            self._sweep.start()

    def _on_sweep(self) -> None:
        now = clock.monotonic()
        for one in (*self.active.values(), *self._retiring):
            one.sweep(now)
        for one in self._retiring:
            if not one.count:
                one.end()
        self._retiring = [one for one in self._retiring if one.count]
        self._gateway.sweep()
        self._heap_trim.update(self.connections, self._gateway.buffers.used)

    def pause(self) -> None:
        """Stop accepting. The sockets stay open."""
        for one in self.active.values():
            one.pause()

    def close(self, unlink: bool = True) -> None:
        """Stop accepting for good. Open connections finish."""
        for one in self.active.values():
            one.close_sockets(unlink)

    def close_idle_connections(self) -> None:
        """Close connections that are between requests."""
        for one in (*self.active.values(), *self._retiring):
            for connection in list(one.connections):
                connection.close_idle()

    def abort_all(self) -> None:
        """End every connection now."""
        self._sweep.stop()
        for one in (*self.active.values(), *self._retiring):
            for connection in list(one.connections):
                connection.end()

