"""Maps libcurl's error numbers to relayd's error codes. The error texts of GnuTLS and OpenSSL differ, so that a text
decides in two cases only.

`is_unprocessed` reads a text of libcurl itself, which is the same with every TLS library. Under TLS 1.3 a server
refuses a client's certificate, or its absence, after the client has finished its handshake. libcurl reports this as an
error of sending or receiving (55, 56) whose text contains the fatal alert.
"""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

import pycurl

from relayd.errors import EXHAUSTED
from relayd.lazy_regex import lazy_regex

_TLS = (35, 53, 54, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91, 98)
_CONNECT = (5, 6, 7)
_MALFORMED = (1, 8, 16, 23, 27, 61, 100)

# Of getaddrinfo(3) with EAI_SYSTEM: libnss-mdns reports that it got no socket as EBUSY, which connect(2) never says.
_OF_RESOLVER = frozenset((errno.EBUSY,))
AFTER_HANDSHAKE = (55, 56)  # a part of the request may have been sent
_ALERT = lazy_regex(r"\balert (?:bad certificate|unsupported certificate|certificate |unknown ca\b|access denied)"
                    r"|GnuTLS recv error \(-12\)")
REWIND = 65  # CURLE_SEND_FAIL_REWIND: the request would have had to be sent twice
_HTTP2 = 16
_NOTHING_BROKE = "seek callback returned error"  # libcurl keeps the first error text: no failure preceded this one
_GOAWAY_IS_HTTP2_ERROR = pycurl.version_info()[2] < 0x080500

NO_RESOURCES = -1  # relayd's own number beside libcurl's: a new connection needed a descriptor, and none was free
# Errors before a connection exists, which a missing descriptor can cause: of the initialisation (2), the resolver (6),
# the socket (7), memory (27), and the files of certificates, keys and authorities (58, 77, 82). Not: of the peer.
_BEFORE_CONNECTION = frozenset((2, 6, 7, 27, 58, 77, 82))
_NEEDED_DESCRIPTORS = 8  # of one new connection at most: its socket, files of TLS, and those of the resolver


def is_exhaustion(error: BaseException) -> bool:
    """True if an operation before a connection failed because this process has no descriptor, memory or thread left."""
    if isinstance(error, socket.gaierror) or (isinstance(error, OSError) and error.errno in _OF_RESOLVER):
        return lacks_resources(6, 0)  # the resolver does not report why
    return isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno in EXHAUSTED)


def lacks_resources(errno: int, os_errno: int) -> bool:
    """True if a transfer failed because no descriptor was free, which is no fault of the endpoint.

    `errno` is libcurl's number. `os_errno` (CURLINFO_OS_ERRNO) is that of a failed connect(2), 0 if libcurl failed
    before: it does not report why. So this tries to get the descriptors that a new connection needs.
    """
    if os_errno in EXHAUSTED:
        return True
    if errno not in _BEFORE_CONNECTION or (errno == 7 and os_errno):
        return False
    with ExitStack() as stack:
        try:
            for _ in range(_NEEDED_DESCRIPTORS):
                stack.enter_context(socket.socket(socket.AF_UNIX))
        except OSError as error:
            return is_exhaustion(error)
    return False


def code_of(errno: int, message: str = "") -> str:
    """The catalogue code of a failed transfer; `message` is libcurl's text.

    Error 28 is always a connect timeout: libcurl has no other time limit, and the sweep enforces the others.
    """
    if errno == NO_RESOURCES:
        return "out_of_resources"
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


def is_unprocessed(errno: int, message: str) -> bool:
    """True if a transfer over HTTP/2 that failed without a response head was refused before any work on it: its stream
    was reset with REFUSED_STREAM, or is above the last one that a GOAWAY names (RFC 9113 8.7).

    In both cases libcurl tries to send the request again, which SEEKFUNCTION forbids: error 65. A broken keep-alive
    connection gives the same number, but with the text of the failure. (Over HTTP/1.1 an orderly close has no text, so
    the caller must know that the connection used HTTP/2.) libcurl before 8.5 gives error 16 without a text for a
    GOAWAY. Not distinguished from a refusal: HTTP_1_1_REQUIRED on a keep-alive connection and, before libcurl 8, frames
    that violate the protocol of the whole connection. Not recognised: a GOAWAY with an error code (libcurl 8.23),
    anything with libcurl 8.12.
    """
    if errno == REWIND:
        return message.startswith(_NOTHING_BROKE)
    return errno == _HTTP2 and not message and _GOAWAY_IS_HTTP2_ERROR
