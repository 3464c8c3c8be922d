"""libcurl's error numbers in relayd's words (numbers, never texts: GnuTLS and OpenSSL word them differently)."""

from __future__ import annotations

_TLS = (35, 53, 54, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91, 98)
_CONNECT = (5, 6, 7)
_MALFORMED = (1, 8, 16, 23, 27, 61, 100)

REWIND = 65  # CURLE_SEND_FAIL_REWIND: the request would have had to be sent twice


def code_of(errno: int) -> str:
    """The catalogue code of a failed transfer.

    28 can only be the time to connect: libcurl is given no other limit, the rest is the sweep's.
    """
    if errno in _CONNECT:
        return "connect_failed"
    if errno in _TLS:
        return "tls_failed"
    if errno == 28:
        return "connect_timeout"
    if errno == 18:
        return "upstream_cut"
    if errno in _MALFORMED:
        return "upstream_malformed"
    return "upstream_closed"
