"""Listeners: accept, limit and sweep client connections, and change on a reload.

Laws:
1. `prepare` may fail and is undone; `commit` cannot fail. A listener whose address is unchanged keeps its socket.
2. A listener at its limit or out of descriptors stops accepting and keeps serving. It accepts again when a connection
   has ended, or on a timer. New connections wait in the kernel's accept queue, and the loop does not spin.
3. A connection keeps the limits of the listener that accepted it. Connections of a removed listener finish their
   requests.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import field
from pathlib import Path

from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.tcpserver import TCPServer

from relayd import clock
from relayd.acme.state import State
from relayd.config.listener import Listener as ListenerSection
from relayd.dataclass import dataclass
from relayd.errors import ExchangeError
from relayd.proxy.gateway import Gateway
from relayd.server.acceptor import RETRY_S, Acceptor
from relayd.server.client_hello import ClientHelloReader
from relayd.server.connection import Connection
from relayd.server.heap_trim import HeapTrim
from relayd.server.proxy_header import ProxyHeaderReader
from relayd.server.read_poller import ReadPoller
from relayd.server.rejections import (
    report_peer_limit,
    report_proxy_header,
    report_tls_failure,
    report_untrusted,
    silence_tornado,
)
from relayd.server.sockets import STORED, apply_socket_options, bind, sockets_match, split, stored_name
from relayd.server.stream import ClientStream, TlsClientStream
from relayd.server.tls import CHALLENGE_PROTOCOL, make_challenge_context, make_context
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.kernel_buffer import bound_kernel_buffer
from relayd.wire.client_hello import ClientHello
from relayd.wire.forwarded import Networks
from relayd.wire.http1 import HeadLimits
from relayd.work_queue import WorkQueue

SWEEP_MS = 250


class Listener(TCPServer):
    """One listener: its sockets and the connections it has accepted. Owned by the ListenerSet."""

    def __init__(
        self, name: str, config: ListenerSection, gateway: Gateway, telemetry: Telemetry, sockets: list[socket.socket],
        state: State | None = None,
    ) -> None:
        super().__init__()
        self._state = state
        self.name, self.gateway, self.telemetry, self.sockets = name, gateway, telemetry, sockets
        self.loop = IOLoop.current()
        self.connections: set[Connection] = set()
        self._readers: set[ProxyHeaderReader | ClientHelloReader] = set()
        self._peers: dict[str, int] = {}
        self.acceptor = Acceptor(sockets, self._on_accepted, self._on_paused, self._full)
        self._counted_pause = float("-inf")
        self.on_released: Callable[[], None] = self.acceptor.resume_if_limited  # called when a connection has ended
        for sock in sockets:
            bound_kernel_buffer(sock)
        self._poller = ReadPoller(self.loop, gateway.client.begin)
        self.configure(config, None)

    def configure(self, config: ListenerSection, context: ssl.SSLContext | None) -> None:
        """Apply settings. Open connections use the new timeouts and limits too."""
        self.config = config
        self.context = context
        acme = None if config.tls is None else config.tls.acme
        self._domains = frozenset() if acme is None else frozenset(domain.lower() for domain in acme.domains)
        limits = config.limits
        self.limits = HeadLimits(int(limits.request_line), int(limits.field_line), int(limits.header), limits.fields)
        self.trailer_bytes = int(limits.trailer)
        self.max_requests, self.half_close = limits.requests, config.half_close
        self.timeouts = config.timeouts
        self.networks = Networks(config.trusted_proxies)

    # ---- accepting

    def accept(self) -> None:
        """Start or resume accepting."""
        self.acceptor.start()

    def pause(self) -> None:
        """Stop accepting. New connections wait in the kernel."""
        self.acceptor.pause()

    def _full(self) -> bool:
        max_connections = self.config.limits.connections
        return bool(max_connections and self.count >= max_connections) or self.gateway.full()

    def _on_paused(self, reason: str) -> None:
        now = clock.monotonic()
        if now - self._counted_pause < RETRY_S:
            return
        self._counted_pause = now
        self.telemetry.metrics.add("relayd.listener.refused", listener=self.name, reason=reason)
        self.telemetry.journal.limited(
            f"paused:{self.name}:{reason}", 10, "warning", "listener_paused",
            "accepting is paused; new connections wait in the kernel", listener=self.name, reason=reason,
        )

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
                report_untrusted(self.telemetry, self.name, peer)
                return
            self._readers.add(ProxyHeaderReader(self, client, peer))
            return
        self.serve(client, peer, peer)

    def on_proxy_header(self, reader: ProxyHeaderReader, source: str) -> None:
        """Serve a connection whose PROXY protocol header was read. `source`: the address that the header names."""
        self._readers.discard(reader)
        self.serve(reader.sock, source, source)

    def on_proxy_header_fault(self, reader: ProxyHeaderReader, rule: str) -> None:
        """Close a connection without a valid header. `rule` as in `report_proxy_header`."""
        self._readers.discard(reader)
        reader.sock.close()
        report_proxy_header(self.telemetry, self.name, reader.peer, rule)
        self.on_released()

    def serve(self, client: socket.socket, peer: str, counted: str) -> None:
        """Create the connection of an accepted socket. `counted`: the peer that its limit of connections counts."""
        max_connections = self.config.limits.connections_per_peer
        open_connections, trusted = self._peers.get(counted, 0), self.networks.contains(peer)
        # A trusted proxy brings many clients.
        if max_connections and counted != "unix" and not trusted and open_connections >= max_connections:
            report_peer_limit(self.telemetry, self.name, counted)
            if self.context is None:
                self._reject(client, peer)
            client.close()
            return
        if self.context is not None and self._domains and self._state is not None and self._state.tls_challenges():
            self._readers.add(ClientHelloReader(self, client, peer, counted))
            return
        self._begin(client, peer, counted, self.context)

    def on_client_hello(self, reader: ClientHelloReader, hello: ClientHello) -> None:
        """Serve a connection whose ClientHello was read while a challenge is pending."""
        context = self.context
        if context is None:  # a reload has removed TLS
            self.on_client_hello_fault(reader, None)
            return
        self._readers.discard(reader)
        if CHALLENGE_PROTOCOL.encode() in hello.protocols and hello.server_name in self._domains:
            assert self._state is not None
            context = make_challenge_context(self._state.tls_challenge_file(hello.server_name)) or context
        self._begin(reader.sock, reader.peer, reader.counted, context)

    def on_client_hello_fault(self, reader: ClientHelloReader, fault: Exception | None) -> None:
        """Close a connection without a ClientHello."""
        self._readers.discard(reader)
        reader.sock.close()
        self.tls_failed(reader.peer, fault)
        self.on_released()

    def _begin(self, client: socket.socket, peer: str, counted: str, context: ssl.SSLContext | None) -> None:
        if context is not None:
            try:
                wrapped = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            except OSError:  # the client is gone already; the ssl module raises several kinds of errors
                client.close()
                return
            stream: ClientStream | TlsClientStream = TlsClientStream(
                wrapped, self._poller, max_buffer_size=1 << 20, read_chunk_size=8192
            )
        else:
            stream = ClientStream(client, self._poller, max_buffer_size=1 << 24, read_chunk_size=8192)
        self._peers[counted] = self._peers.get(counted, 0) + 1
        self.connections.add(Connection(stream, self, peer, self.networks.contains(peer), context is not None))

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
            self.on_released()

    def tls_failed(self, peer: str, error: BaseException | None) -> None:
        """Report a connection that ended during its TLS handshake."""
        report_tls_failure(self.telemetry, self.name, peer, error)

    @property
    def work(self) -> WorkQueue:
        """The queue for work that exceeds this loop turn."""
        return self.gateway.client.work

    @property
    def count(self) -> int:
        return len(self.connections) + len(self._readers)

    def sweep(self, now: float) -> None:
        """Enforce the timeouts of all connections."""
        for connection in list(self.connections):
            connection.enforce_timeouts(now)
        for reader in list(self._readers):
            reader.enforce_timeouts(now)

    @property
    def activated(self) -> bool:
        """True if systemd owns the sockets (socket activation)."""
        return self.config.address.startswith("systemd:")

    def withdraw(self) -> None:
        """Stop listening for good, because the address has left the configuration. Connections that already wait are
        accepted first. The sockets stop listening also while another process still holds them."""
        for sock in () if self.activated else self.sockets:
            if self.acceptor.active:
                self.acceptor.accept_waiting(sock, IOLoop.READ)
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

    def __init__(self, gateway: Gateway, telemetry: Telemetry, state: State | None = None) -> None:
        """`state`: the certificates of `tls.acme`."""
        self._gateway, self._telemetry, self._state = gateway, telemetry, state
        self.active: dict[str, Listener] = {}
        self._retiring: list[Listener] = []
        self._heap_trim = HeapTrim()
        self._sweep = PeriodicCallback(self._on_sweep, SWEEP_MS)
        self.limit = 0
        gateway.full = self._full
        silence_tornado()

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
                tls = config.tls
                prepared.contexts[name] = None if tls is None else make_context(name, tls, self._state)
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
                one = Listener(name, config, self._gateway, self._telemetry, prepared.bound[name], self._state)
            else:
                apply_socket_options(one.sockets, one.config, config)
            one.name, one.on_released = name, self._on_released
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

    def _on_released(self) -> None:
        """A connection has ended: listeners that wait because of a limit accept again, also because of a common one."""
        for one in self.active.values():
            one.acceptor.resume_if_limited()

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

