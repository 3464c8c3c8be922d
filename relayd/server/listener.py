"""Listeners: accepting, bounding and sweeping client connections, and changing all of it on a reload.

Laws:
1. Prepare may fail and is undone; commit cannot fail. A listener whose address is unchanged keeps its socket.
2. Out of descriptors or at its limit a listener stops accepting, keeps serving, and looks again on a timer: the kernel
   keeps newcomers waiting, nobody spins.
3. A connection keeps the limits of the listener it came by; a removed listener's connections finish what they do.
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
from relayd.config.listener import Listener
from relayd.errors import ExchangeError
from relayd.proxy.gateway import Gateway
from relayd.server.connection import Connection
from relayd.server.delivery import bound_kernel_buffer
from relayd.server.greeting import Greeting
from relayd.server.release import Release
from relayd.server.sockets import STORED, bind, rebind, serves, split, stored_name
from relayd.server.stream import ClientStream, TlsClientStream
from relayd.server.tls import make_context
from relayd.server.watch import Watch
from relayd.telemetry.telemetry import Telemetry
from relayd.wire.forwarded import TrustedNetworks
from relayd.wire.http1 import HeadLimits
from relayd.work_queue import WorkQueue

PER_TURN = 64
AGAIN_S = 0.25
SWEEP_MS = 250


class Listening(TCPServer):
    """One listener: its sockets and the connections that came by it. Owned by the ListenerSet."""

    def __init__(
        self, name: str, config: Listener, gateway: Gateway, telemetry: Telemetry, sockets: list[socket.socket]
    ) -> None:
        super().__init__()
        self.name, self.gateway, self.telemetry, self.sockets = name, gateway, telemetry, sockets
        self.loop = IOLoop.current()
        self.connections: set[Connection] = set()
        self._greetings: set[Greeting] = set()
        self._peers: dict[str, int] = {}
        self._accepting = False
        self._later: object | None = None
        for sock in sockets:
            bound_kernel_buffer(sock)
        self._watch = Watch(self.loop, gateway.client.begin)
        self.configure(config, None)

    def configure(self, config: Listener, context: ssl.SSLContext | None) -> None:
        """Take over settings; connections that exist see the new limits of time and count."""
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
        """Begin, or begin again."""
        if not self._accepting:
            self._accepting = True
            for sock in self.sockets:
                self.loop.add_handler(sock, self._on_acceptable, IOLoop.READ)

    def pause(self) -> None:
        """Stop accepting; newcomers wait in the kernel."""
        if self._later is not None:
            self.loop.remove_timeout(self._later)
            self._later = None
        if self._accepting:
            self._accepting = False
            for sock in self.sockets:
                self.loop.remove_handler(sock)

    def _again(self) -> None:
        self._later = None
        self.accept()

    def _rest(self, reason: str) -> None:
        self.pause()
        self._later = self.loop.call_later(AGAIN_S, self._again)
        self.telemetry.metrics.add("relayd.listener.refused", listener=self.name, reason=reason)
        self.telemetry.journal.limited(
            f"rest:{self.name}:{reason}", 10, "warning", "listener_paused",
            "no room for more connections; newcomers wait", listener=self.name, reason=reason,
        )

    def _on_acceptable(self, sock: socket.socket, events: int) -> None:
        most = self.config.limits.connections
        for _ in range(PER_TURN):
            if (most and self.count >= most) or self.gateway.full():
                self._rest("limit")
                return
            try:
                client, address = sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest("descriptors")
                    return
                raise
            self._welcome(client, address)

    def _welcome(self, client: socket.socket, address: object) -> None:
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
            self._greetings.add(Greeting(self, client, peer))
            return
        self.serve(client, peer, peer)

    def greeted(self, greeting: Greeting, source: str | None) -> None:
        """The PROXY protocol header was read; `source` is the address it names, None if it was refused."""
        self._greetings.discard(greeting)
        if source is None:
            greeting.sock.close()
        else:
            self.serve(greeting.sock, source, source)

    def serve(self, client: socket.socket, peer: str, counted: str) -> None:
        """Make a connection of an accepted socket."""
        most = self.config.limits.connections_per_peer
        there, trusted = self._peers.get(counted, 0), self.networks.contains(peer)
        if most and counted != "unix" and not trusted and there >= most:  # a trusted proxy brings many clients
            self.telemetry.metrics.add("relayd.listener.refused", listener=self.name, reason="peer_limit")
            if self.context is None:
                self._turn_away(client, peer)
            client.close()
            return
        if self.context is not None:
            try:
                wrapped = self.context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            except OSError:  # it has left already, which the ssl module tells in several ways
                client.close()
                return
            stream: ClientStream | TlsClientStream = TlsClientStream(
                wrapped, max_buffer_size=1 << 20, read_chunk_size=8192
            )
        else:
            stream = ClientStream(client, self._watch, max_buffer_size=1 << 24, read_chunk_size=8192)
        self._peers[counted] = there + 1
        self.connections.add(Connection(stream, self, peer, trusted, self.context is not None))

    def _turn_away(self, client: socket.socket, peer: str) -> None:
        fault = ExchangeError("too_many_connections", headers=(("Retry-After", "1"),))
        answer = self.gateway.refuse(Stranger(self.name, peer), fault, clock.monotonic())
        try:
            client.send(answer)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it left before the answer

    def forget(self, connection: Connection) -> None:
        """A connection has closed."""
        if connection in self.connections:
            self.connections.discard(connection)
            left = self._peers.get(connection.peer, 1) - 1
            if left > 0:
                self._peers[connection.peer] = left
            else:
                self._peers.pop(connection.peer, None)

    def tls_failed(self) -> None:
        """A connection ended before its handshake did."""
        self.telemetry.metrics.add("relayd.listener.tls_failed", listener=self.name)

    @property
    def work(self) -> WorkQueue:
        """Where work is put that does not fit into this turn."""
        return self.gateway.client.work

    @property
    def count(self) -> int:
        return len(self.connections) + len(self._greetings)

    def sweep(self, now: float) -> None:
        """End what takes too long."""
        for connection in list(self.connections):
            connection.check(now)
        for greeting in list(self._greetings):
            greeting.check(now)

    @property
    def activated(self) -> bool:
        """Whether systemd owns its sockets."""
        return self.config.address.startswith("systemd:")

    def withdraw(self) -> None:
        """Its address is no longer in the configuration: take whoever waits, then stop listening for good, also where
        others still hold the sockets for a moment."""
        for sock in () if self.activated else self.sockets:
            if self._accepting:
                self._on_acceptable(sock, IOLoop.READ)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
        self.close_sockets()

    def close_sockets(self, unlink: bool = True) -> None:
        """Stop accepting for good; without `unlink` another process goes on listening there."""
        self.pause()
        for sock in self.sockets:
            if unlink and sock.family == socket.AF_UNIX and self.config.address.startswith("unix:"):
                _unlink(self.config.address[5:])
            sock.close()
        self.sockets = []


    def end(self) -> None:
        """Its sockets are closed and its last connection has gone."""
        self._watch.close()


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


@dataclass(slots=True)
class Stranger:
    """A peer that is turned away before it has a connection."""

    listener: str
    peer: str


@dataclass(slots=True)
class PreparedListeners:
    """Sockets and certificates for a new configuration, not yet in use."""

    configs: Mapping[str, Listener]
    inherited: dict[str, list[socket.socket]] = field(default_factory=dict)
    made: dict[str, list[socket.socket]] = field(default_factory=dict)
    contexts: dict[str, ssl.SSLContext | None] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)  # from the process before, by the name they were stored under

    def undo(self) -> None:
        """Close what was bound; what was handed over is given back."""
        for name, sockets in self.made.items():
            kind, place, _ = split(self.configs[name].address)
            if kind == "systemd":
                continue
            if name in self.taken:
                self.inherited[self.taken[name]] = sockets
                continue
            for sock in sockets:
                sock.close()
            if kind == "unix":
                _unlink(place)


class ListenerSet:
    """All listeners; owned by the daemon."""

    def __init__(self, gateway: Gateway, telemetry: Telemetry) -> None:
        self._gateway, self._telemetry = gateway, telemetry
        self.listening: dict[str, Listening] = {}
        self._leaving: list[Listening] = []
        self._release = Release()
        self._sweep = PeriodicCallback(self._on_sweep, SWEEP_MS)
        self.limit = 0
        gateway.full = self._full

    @property
    def connections(self) -> int:
        """Open client connections."""
        return sum(one.count for one in (*self.listening.values(), *self._leaving))

    def _full(self) -> bool:
        return bool(self.limit) and self.connections >= self.limit

    def prepare(
        self, configs: Mapping[str, Listener], inherited: dict[str, list[socket.socket]] | None = None
    ) -> PreparedListeners:
        """Read certificates and bind what is new. Raises ConfigError, with nothing left open."""
        inherited = {} if inherited is None else inherited
        prepared = PreparedListeners(configs, inherited)
        addresses = {config.address for config in configs.values()}
        replaced = self._replaced(configs, inherited, addresses)
        try:
            for name, config in configs.items():
                prepared.contexts[name] = make_context(name, config.tls) if config.tls is not None else None
                if self._kept(config, addresses) is None:
                    stored = stored_name(config.address, config.reuse_port)
                    handed_over = stored in inherited
                    prepared.made[name] = bind(name, config, inherited, beside=addresses, replaced=replaced)
                    if handed_over and stored not in inherited:
                        prepared.taken[name] = stored
        except BaseException:  # rescue door: whatever went wrong, nothing stays bound
            prepared.undo()
            raise
        return prepared

    def _kept(self, config: Listener, addresses: Collection[str]) -> Listening | None:
        """The listener that already has the sockets this configuration asks for."""
        for old in self.listening.values():
            if (old.config.address, old.config.reuse_port) == (config.address, config.reuse_port):
                return old if serves(old.sockets, config.address, addresses) else None
        return None

    def _replaced(
        self, configs: Mapping[str, Listener], inherited: Mapping[str, list[socket.socket]], addresses: Collection[str]
    ) -> list[socket.socket]:
        """The sockets that nobody needs once these listeners are in force: a new one may overlap with them."""
        kept = [self._kept(config, addresses) for config in configs.values()]
        wanted = {
            name for config in configs.values() if (name := stored_name(config.address, config.reuse_port))
            and serves(inherited.get(name, []), config.address, addresses)
        }
        leaving = [old.sockets for old in self.listening.values() if old not in kept and not old.activated]
        left = [found for name, found in inherited.items() if name.startswith(STORED) and name not in wanted]
        return [sock for sockets in (*leaving, *left) for sock in sockets if sock.fileno() >= 0]

    def commit(self, prepared: PreparedListeners) -> None:
        """Put a prepared configuration in force."""
        now: dict[str, Listening] = {}
        addresses = {config.address for config in prepared.configs.values()}
        for name, config in prepared.configs.items():
            one = self._kept(config, addresses) if name not in prepared.made else None
            if one is None:
                one = Listening(name, config, self._gateway, self._telemetry, prepared.made[name])
            else:
                rebind(one.sockets, one.config, config)
            one.name = name
            one.configure(config, prepared.contexts[name])
            now[name] = one
        for old in self.listening.values():
            if old not in now.values():
                old.withdraw()
                self._leaving.append(old)
                for connection in list(old.connections):
                    connection.close_idle()
        self.listening = now
        for one in now.values():
            one.accept()
        if not self._sweep.is_running():
            self._sweep.start()

    def _on_sweep(self) -> None:
        now = clock.monotonic()
        for one in (*self.listening.values(), *self._leaving):
            one.sweep(now)
        for one in self._leaving:
            if not one.count:
                one.end()
        self._leaving = [one for one in self._leaving if one.count]
        self._gateway.sweep()
        self._release.look(self.connections, self._gateway.buffers.used)

    def pause(self) -> None:
        """Stop accepting; sockets stay open."""
        for one in self.listening.values():
            one.pause()

    def close(self, unlink: bool = True) -> None:
        """Stop accepting for good; existing connections finish."""
        for one in self.listening.values():
            one.close_sockets(unlink)

    def idle_close(self) -> None:
        """Close connections that are between requests."""
        for one in (*self.listening.values(), *self._leaving):
            for connection in list(one.connections):
                connection.close_idle()

    def abort_all(self) -> None:
        """End every connection now."""
        self._sweep.stop()
        for one in (*self.listening.values(), *self._leaving):
            for connection in list(one.connections):
                connection.end()

