"""Reads a regular file named in a configuration, up to a bound and without blocking on a pipe."""

from __future__ import annotations

import os
import stat


class FileFault(ValueError):
    """The file cannot be read; the message is the reason, without the path."""


def read_file(path: str, most: int) -> tuple[bytes, os.stat_result]:
    """The bytes of a file and its status. Raises FileFault."""
    try:
        # Without O_NONBLOCK, opening a FIFO would block the check.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as fault:
        raise FileFault(fault.strerror or "unknown reason") from None
    except ValueError:
        raise FileFault("not a path") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileFault("is a directory" if stat.S_ISDIR(status.st_mode) else "is not a regular file")
        return _bytes(descriptor, most), status
    except OSError as fault:
        raise FileFault(fault.strerror or "unknown reason") from None
    finally:
        os.close(descriptor)


def _bytes(descriptor: int, most: int) -> bytes:
    parts, left = [], most + 1
    while left and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    if not left:
        raise FileFault(f"is larger than {most >> 10} KiB")
    return b"".join(parts)
