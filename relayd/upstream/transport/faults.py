"""libcurl's error numbers in relayd's words (GnuTLS and OpenSSL word them differently, so that texts decide only once).

Under TLS 1.3 a server refuses a client's certificate, or its absence, after the client has finished its handshake: it
comes as an error of sending or receiving (55, 56) whose text says that it is a fatal alert.
"""

from __future__ import annotations

import re

_TLS = (35, 53, 54, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91, 98)
_CONNECT = (5, 6, 7)
_MALFORMED = (1, 8, 16, 23, 27, 61, 100)

AFTER_HANDSHAKE = (55, 56)  # something of the request may have gone out
_ALERT = re.compile(r"\balert (?:bad certificate|unsupported certificate|certificate |unknown ca\b|access denied)"
                    r"|GnuTLS recv error \(-12\)")
REWIND = 65  # CURLE_SEND_FAIL_REWIND: the request would have had to be sent twice


def code_of(errno: int, message: str = "") -> str:
    """The catalogue code of a failed transfer; `message` is libcurl's text.

    28 can only be the time to connect: libcurl is given no other limit, the rest is the sweep's.
    """
    if errno in _CONNECT:
        return "connect_failed"
    if errno in _TLS or (errno in AFTER_HANDSHAKE and _ALERT.search(message) is not None):
        return "tls_failed"
    if errno == 28:
        return "connect_timeout"
    if errno == 18:
        return "upstream_cut"
    if errno in _MALFORMED:
        return "upstream_malformed"
    return "upstream_closed"
