"""What systemd is told over $NOTIFY_SOCKET: ready, reloading, stopping, status, watchdog, more time, sockets to keep.

1. Telling never waits and never fails the daemon: without a socket, or when it is full, nothing happens.
2. WATCHDOG=1 is sent from the event loop itself, so that a blocked loop is found (sd_notify(3), WATCHDOG_USEC).
3. Under a keeper (keeper.py) the same words go to it, and its orders come back on the same line.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping, Sequence

from relayd import clock


class Notifier:
    """The line to the service manager. Owned by the lifecycle."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        address = environment.pop("NOTIFY_SOCKET", "")  # popped: no child process may speak for the daemon
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
        """The line itself, for whoever waits for orders."""
        return -1 if self._socket is None else self._socket.fileno()

    def receive_command(self) -> str | None:
        """One order of the keeper; `gone` when there is no keeper any more, None when nothing more has come."""
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
        """Whether a service manager listens."""
        return self._socket is not None

    def send(self, *descriptors: int, **assignments: object) -> None:
        """Send one datagram of assignments, in the order given, with descriptors to keep."""
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
        # Type=notify-reload demands the stamp beside the word (sd_notify(3)).
        self.send(RELOADING=1, MONOTONIC_USEC=int(clock.monotonic() * 1_000_000), STATUS="reloading")

    def stopping(self, status: str, timeout_s: float = 0.0) -> None:
        """The end has begun; a keeper is told how long it may take."""
        if self.has_keeper:
            self.send(RELAYD_DRAIN_S=timeout_s)
        self.send(STOPPING=1, STATUS=status)

    def status(self, status: str) -> None:
        self.send(STATUS=status)

    def extend(self, seconds: float, status: str) -> None:
        """Ask for more time before the manager loses patience."""
        self.send(EXTEND_TIMEOUT_USEC=int(seconds * 1_000_000), STATUS=status)

    def store(self, name: str, descriptors: Sequence[int]) -> None:
        """Have sockets kept for the process that comes next (FileDescriptorStoreMax=)."""
        self.send(*descriptors, FDSTORE=1, FDNAME=name)

    def unstore(self, name: str) -> None:
        """Have them let go again."""
        self.send(FDSTOREREMOVE=1, FDNAME=name)

    def upgrade(self) -> None:
        """Ask the keeper for a new process that takes over."""
        self.send(UPGRADE=1)

    def watchdog(self) -> None:
        self.send(WATCHDOG=1)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def half_watchdog_s(environment: MutableMapping[str, str]) -> float:
    """Seconds between two signs of life; 0 when nobody waits for them. Takes the variables out."""
    usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(usec) / 2_000_000
