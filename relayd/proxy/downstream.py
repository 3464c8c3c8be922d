"""The client's side as the path of a request sees it; server/connection.py is one."""

from __future__ import annotations

from typing import Protocol

from relayd.protocols.dialect import Memory
from relayd.wire.forwarded import TrustedNetworks


class Downstream(Protocol):
    """One client connection, carrying one exchange at a time."""

    listener: str
    peer: str
    trusted: bool
    networks: TrustedNetworks
    tls: bool
    forwarding_cache: tuple[object, bytes, list[bytes]] | None
    socket_memory: Memory | None

    def send(self, data: bytes) -> bool:
        """Write now; False when the client is behind, and `Exchange.on_drained` will follow."""

    def buffered(self) -> int:
        """Bytes that wait for the client."""

    def body_complete(self) -> bool:
        """Whether the whole request body was read."""

    def reusable(self) -> bool:
        """Whether the connection may carry another request after this one."""

    def pause_body(self) -> None:
        """Stop reading the request body."""

    def resume_body(self) -> None:
        """Read it again."""

    def schedule_upload(self) -> None:
        """In a later turn of the loop call `Exchange.upload` with nothing; until then read nothing. For a tunnel."""

    def start_tunnel(self) -> None:
        """From now on hand every byte to `Exchange.upload`."""

    def finished(self, keep: bool) -> None:
        """The exchange is over and its answer complete; `keep` says that the head promised to keep the connection."""

    def abort(self, reset: bool) -> None:
        """The exchange is over and its answer is not complete; `reset` where a clean end would look complete."""


class NullDownstream:
    """A client connection that nothing is read from and that takes everything: of a dry run, and of what has its body
    already and a writer of its own."""

    def __init__(self, listener: str, peer: str, networks: TrustedNetworks, tls: bool) -> None:
        self.listener, self.peer, self.networks, self.tls = listener, peer, networks, tls
        self.trusted = networks.contains(peer)
        self.forwarding_cache: tuple[object, bytes, list[bytes]] | None = None
        self.socket_memory: Memory | None = None

    def send(self, data: bytes) -> bool:
        """Never behind."""
        return True

    def buffered(self) -> int:
        """Nothing waits."""
        return 0

    def body_complete(self) -> bool:
        """The body came with the head."""
        return True

    def reusable(self) -> bool:
        """Whatever becomes of the exchange, nothing is closed."""
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
