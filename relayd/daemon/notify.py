"""Notifications to systemd over $NOTIFY_SOCKET: ready, reloading, stopping, status, watchdog, stored sockets.

1. Sending never waits and never fails the daemon: without a socket, or if it is full, nothing happens.
2. The event loop itself sends WATCHDOG=1, so systemd detects a blocked loop (sd_notify(3), WATCHDOG_USEC).
3. Under a keeper (keeper.py) the same messages go to it, and its commands arrive on the same socket.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping, Sequence

from relayd import clock


class Notifier:
    """The connection to the service manager or keeper. Owned by the lifecycle."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        address = environment.pop("NOTIFY_SOCKET", "")  # removed, so that no child process can send notifications
        keeper = environment.pop("RELAYD_KEEPER", "")
        self.watchdog_interval_s = half_watchdog_s(environment)
        self._socket: socket.socket | None = None
        self.has_keeper = keeper.isdigit()
        if self.has_keeper:
            self._socket = socket.socket(fileno=int(keeper))
            self._socket.setblocking(False)
            os.set_inheritable(int(keeper), False)
        elif address[:1] in ("/", "@"):
            address = "\0" + address[1:] if address[0] == "@" else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            try:
                self._socket.connect(address)
            except OSError:
                self.close()

    def fileno(self) -> int:
        """The descriptor on which commands arrive; -1 without a connection."""
        return -1 if self._socket is None else self._socket.fileno()

    def receive_command(self) -> str | None:
        """One command of the keeper; `gone` if the keeper has ended, None if no command is pending."""
        if self._socket is None:
            return None
        try:
            return self._socket.recv(4096).decode("utf-8", "replace") or "gone"
        except BlockingIOError:
            return None
        except OSError:
            return "gone"

    @property
    def connected(self) -> bool:
        """True if a service manager or keeper is connected."""
        return self._socket is not None

    def send(self, *descriptors: int, **assignments: object) -> None:
        """Send one datagram of assignments, in the given order, with descriptors to store."""
        if self._socket is None:
            return
        text = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in assignments.items())
        try:
            if descriptors:
                socket.send_fds(self._socket, [text.encode("utf-8", "replace")], descriptors)
            else:
                self._socket.send(text.encode("utf-8", "replace"))
        except OSError:
            pass

    def ready(self, status: str) -> None:
        self.send(READY=1, STATUS=status)

    def reloading(self) -> None:
        # Type=notify-reload requires the timestamp (sd_notify(3)).
        self.send(RELOADING=1, MONOTONIC_USEC=int(clock.monotonic() * 1_000_000), STATUS="reloading")

    def stopping(self, status: str, timeout_s: float = 0.0) -> None:
        """Report the beginning of a stop. A keeper also gets the drain timeout."""
        if self.has_keeper:
            self.send(RELAYD_DRAIN_S=timeout_s)
        self.send(STOPPING=1, STATUS=status)

    def status(self, status: str) -> None:
        self.send(STATUS=status)

    def extend(self, seconds: float, status: str) -> None:
        """Extend the timeout of the service manager."""
        self.send(EXTEND_TIMEOUT_USEC=int(seconds * 1_000_000), STATUS=status)

    def store(self, name: str, descriptors: Sequence[int]) -> None:
        """Store sockets for the next process (FileDescriptorStoreMax=)."""
        self.send(*descriptors, FDSTORE=1, FDNAME=name)

    def unstore(self, name: str) -> None:
        """Remove stored sockets."""
        self.send(FDSTOREREMOVE=1, FDNAME=name)

    def upgrade(self) -> None:
        """Request a successor from the keeper."""
        self.send(UPGRADE=1)

    def watchdog(self) -> None:
        self.send(WATCHDOG=1)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def half_watchdog_s(environment: MutableMapping[str, str]) -> float:
    """Half of the watchdog interval in seconds; 0 without a watchdog. Removes the variables from the environment."""
    usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(usec) / 2_000_000
