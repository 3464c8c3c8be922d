"""Content-Encoding taken off, for whoever must read an answer: gzip and deflate, incrementally and bounded."""

from __future__ import annotations

import zlib

MAX_BYTES = 64 * 1024 * 1024


class BadEncoding(ValueError):
    """The bytes are not what Content-Encoding says, the coding is unknown, or they grow without measure."""


class Decoder:
    """One body; owned by whoever reads it."""

    __slots__ = ("_encoding", "_inflate", "_pending", "_size", "has_more")

    def __init__(self, encoding: str) -> None:
        """Raises nothing: an unknown coding is a fault of the first `feed`."""
        self._encoding = encoding.strip().lower()
        self._inflate: zlib._Decompress | None = None
        self._size = 0
        self._pending = b""  # input that the last call had no room for
        self.has_more = False  # whether the last call stopped at its bound: `feed(b"", most)` goes on

    def feed(self, data: bytes, max_bytes: int = MAX_BYTES) -> bytes:
        """The decoded bytes of this piece, at most so many at a time. Raises BadEncoding."""
        if self._encoding in ("", "identity"):
            return data
        if self._inflate is None:
            if not data:
                return b""
            self._inflate = self._open(data)
        if self._pending:
            data, self._pending = self._pending + data, b""
        try:
            found = self._inflate.decompress(data, min(max_bytes, MAX_BYTES - self._size + 1))
        except zlib.error as error:
            raise BadEncoding(f"it is not {self._encoding}") from error
        self._pending, self.has_more = self._inflate.unconsumed_tail, len(found) >= max_bytes
        self._size += len(found)
        if self._size > MAX_BYTES:
            raise BadEncoding("it grows without measure")
        return found

    def _open(self, data: bytes) -> zlib._Decompress:
        if self._encoding in ("gzip", "x-gzip"):
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        if self._encoding == "deflate":  # RFC 9110 8.4.1.2: zlib format; some send the raw one
            return zlib.decompressobj(zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS)
        raise BadEncoding(f"content coding {self._encoding[:20]} is unknown")
