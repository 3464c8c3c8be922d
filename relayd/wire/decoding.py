"""Incremental, bounded decoding of Content-Encoding: gzip and deflate."""

from __future__ import annotations

import zlib

MAX_BYTES = 64 * 1024 * 1024
CODINGS = frozenset(("identity", "gzip", "x-gzip", "deflate"))
"""The content codings that are decoded."""


class BadEncoding(ValueError):
    """The bytes do not match Content-Encoding, the coding is unknown, or the decoded size exceeds MAX_BYTES."""


class Decoder:
    """Decodes one body; owned by its reader."""

    __slots__ = ("_encoding", "_inflate", "_pending", "_size", "has_more")

    def __init__(self, encoding: str) -> None:
        """Never raises: an unknown coding is reported by the first `feed`."""
        self._encoding = encoding.strip().lower()
        self._inflate: zlib._Decompress | None = None
        self._size = 0
        self._pending = b""  # input that the last call did not decode
        self.has_more = False  # the last call reached its limit: continue with `feed(b"", max_bytes)`

    def feed(self, data: bytes, max_bytes: int = MAX_BYTES) -> bytes:
        """Decode a piece; returns at most `max_bytes` of a compressed body. Raises BadEncoding."""
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
            raise BadEncoding(f"it is not valid {self._encoding}") from error
        self._pending, self.has_more = self._inflate.unconsumed_tail, len(found) >= max_bytes
        self._size += len(found)
        if self._size > MAX_BYTES:
            raise BadEncoding(f"it decodes to more than {MAX_BYTES} bytes")
        return found

    def _open(self, data: bytes) -> zlib._Decompress:
        if self._encoding in ("gzip", "x-gzip"):
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        if self._encoding == "deflate":  # RFC 9110 8.4.1.2: zlib format; some servers send raw deflate
            return zlib.decompressobj(zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS)
        raise BadEncoding(f"content coding {self._encoding[:20]} is not supported")
