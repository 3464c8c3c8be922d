"""The Date field (RFC 9110 6.6.1), formatted once per second."""

from __future__ import annotations

from email.utils import formatdate

from relayd import clock


class DateField:
    """Returns the field line of the current second. One per process."""

    __slots__ = ("_line", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def __call__(self) -> bytes:
        second = int(clock.wall())
        if second != self._second:
            self._second = second
            self._line = b"Date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")
        return self._line


date_field = DateField()


def has_date(head: bytes) -> bool:
    """True if a head, from the CRLF of its first line, has the field. Common spellings are found without a copy."""
    find = head.find  # twice as fast as `in`
    return find(b"\r\nDate:") >= 0 or find(b"\r\ndate:") >= 0 or head.lower().find(b"\r\ndate:") >= 0
