"""The interface of the proxy to a client connection; implemented by server/connection.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from relayd.access.client_certificate import ClientCertificate, no_certificate
from relayd.protocols.dialect import Memory
from relayd.wire.forwarded import Networks


class Downstream(Protocol):
    """One client connection, carrying one exchange at a time."""

    listener: str
    peer: str
    trusted: bool
    networks: Networks
    tls: bool
    forwarding_cache: tuple[object, bytes, list[bytes]] | None
    socket_memory: Memory | None
    client_certificate: Callable[[], ClientCertificate | None]

    def send(self, data: bytes) -> bool:
        """Write data. Returns False if the client is slow; `Exchange.on_drained` is called later."""

    def buffered(self) -> int:
        """Bytes that are not sent to the client yet."""

    def reusable(self) -> bool:
        """True if the connection may carry another request after this one."""

    def pause_body(self) -> None:
        """Stop reading the request body."""

    def resume_body(self) -> None:
        """Resume reading the request body."""

    def schedule_upload(self) -> None:
        """Call `Exchange.upload` without data in a later turn of the loop; read nothing until then. For a tunnel."""

    def start_tunnel(self) -> None:
        """Pass all further bytes to `Exchange.upload`."""

    def finished(self, keep: bool) -> None:
        """The exchange ended with a complete response. `keep`: the response head announced a persistent connection."""

    def abort(self, reset: bool) -> None:
        """The exchange ended with an incomplete response. `reset`: a normal close would make it look complete."""


class NullDownstream:
    """A client connection without a socket: nothing is read, and all output is accepted. For a dry run, and for an
    exchange that has its body and its own writer."""

    def __init__(self, listener: str, peer: str, networks: Networks, tls: bool) -> None:
        self.listener, self.peer, self.networks, self.tls = listener, peer, networks, tls
        self.trusted = networks.contains(peer)
        self.forwarding_cache: tuple[object, bytes, list[bytes]] | None = None
        self.socket_memory: Memory | None = None
        self.client_certificate: Callable[[], ClientCertificate | None] = no_certificate

    def send(self, data: bytes) -> bool:
        """Never slow."""
        return True

    def buffered(self) -> int:
        """Nothing is buffered."""
        return 0

    def reusable(self) -> bool:
        """There is nothing to close."""
        return True

    def pause_body(self) -> None:
        """Nothing is read."""

    def resume_body(self) -> None:
        """Nothing is read."""

    def schedule_upload(self) -> None:
        """Nothing is read."""

    def start_tunnel(self) -> None:
        """Nothing is read."""

    def finished(self, keep: bool) -> None:
        """Nothing follows."""

    def abort(self, reset: bool) -> None:
        """Nothing follows."""
