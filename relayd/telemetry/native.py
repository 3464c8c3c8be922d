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

SOCKET = "/run/systemd/journal/socket"
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
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
    """Sends records to the journal; owned by a log. Never blocks, never raises; `dropped` counts lost records."""

    __slots__ = ("_path", "_socket", "dropped")

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self.dropped = 0

    def send(self, datagram: bytes) -> bool:
        """Send one record; if too large, it is truncated at the end of a field. Returns False if it was lost."""
        try:
            # Not connected, because after a restart of journald the path is a new socket.
            self._socket.sendto(datagram, self._path)
        except OSError as error:
            if error.errno == errno.EMSGSIZE and len(datagram) > MAX_DATAGRAM:
                return self.send(cut(datagram, MAX_DATAGRAM))
            self.dropped += 1
            return False
        return True

    def close(self) -> None:
        self._socket.close()


def cut(datagram: bytes, size: int) -> bytes:
    """The longest prefix of complete lines that fits; a first line that is too long is truncated."""
    end = datagram.rfind(b"\n", 0, size)
    return datagram[: end + 1] if end >= 0 else datagram[: size - 1] + b"\n"
