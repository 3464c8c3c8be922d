"""The journal's native protocol: a datagram of fields to systemd-journald.

Fields are `NAME=value` lines; a value that contains a line feed is written in the binary form with its length
(systemd: JOURNAL_NATIVE_PROTOCOL). relayd escapes its values, so they never need the binary form; it prevents that an
unescaped value forges another field.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable

SOCKET = "/run/systemd/journal/socket"
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
WAITING = 1 << 20  # bytes of records that wait for the journal
MAX_DATAGRAM = 64 * 1024  # maximum size of a record after the socket has rejected it as too large


def field(name: str, value: str) -> bytes:
    """One field, ready for the datagram; `name` is upper case letters, digits and underscores."""
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def is_journal(fd: int, environ: dict[str, str] | None = None) -> bool:
    """True if a descriptor is connected to the journal, according to systemd's JOURNAL_STREAM (device:inode)."""
    device, _, inode = (os.environ if environ is None else environ).get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(fd)
        return (found.st_dev, found.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        return False


class Native:
    """Sends records to the journal; owned by a log. Never blocks, never raises; `dropped` counts lost records.

    As with a Descriptor, `on_fault` is called once when records begin to be lost, and `on_recovery` once, with the
    number of lost records, when one is accepted again.
    """

    __slots__ = ("_lost", "_path", "_socket", "dropped", "on_fault", "on_recovery")

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self.dropped = self._lost = 0
        self.on_fault: Callable[[str], None] | None = None
        self.on_recovery: Callable[[int], None] | None = None

    def send(self, datagram: bytes) -> bool:
        """Send one record; if too large, it is truncated at the end of a field. Returns False if it was lost."""
        try:
            self._send(datagram)
        except OSError as error:
            self._drop(1, os.strerror(error.errno or errno.EIO))
            return False
        return True

    def send_all(self, datagrams: list[bytes]) -> list[bytes]:
        """Send records in order. Returns those that the queue of the socket cannot take now, to be sent again with the
        next ones; above WAITING bytes the newest of them are lost."""
        for number, datagram in enumerate(datagrams):
            try:
                self._send(datagram)
            except BlockingIOError:
                return self._bounded(datagrams[number:])
            except OSError as error:
                self._drop(1, os.strerror(error.errno or errno.EIO))
        return []

    def _send(self, datagram: bytes) -> None:
        try:
            # Not connected, because after a restart of journald the path is a new socket.
            self._socket.sendto(datagram, self._path)
        except OSError as error:
            if error.errno != errno.EMSGSIZE or len(datagram) <= MAX_DATAGRAM:
                raise
            self._socket.sendto(cut(datagram, MAX_DATAGRAM), self._path)
        if self._lost:
            lost, self._lost = self._lost, 0
            if self.on_recovery is not None:
                self.on_recovery(lost)

    def _bounded(self, waiting: list[bytes]) -> list[bytes]:
        size = 0
        for number, datagram in enumerate(waiting):
            size += len(datagram)
            if size > WAITING:
                self._drop(len(waiting) - number, "the reader is too slow")
                return waiting[:number]
        return waiting

    def _drop(self, records: int, why: str) -> None:
        first = not self._lost
        self.dropped += records
        self._lost += records
        if first and self.on_fault is not None:
            self.on_fault(why)

    def close(self) -> None:
        self._socket.close()


def cut(datagram: bytes, size: int) -> bytes:
    """The longest prefix of complete lines that fits; a first line that is too long is truncated."""
    end = datagram.rfind(b"\n", 0, size)
    return datagram[: end + 1] if end >= 0 else datagram[: size - 1] + b"\n"
