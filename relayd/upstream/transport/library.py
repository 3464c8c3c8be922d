"""The versions of pycurl and libcurl in this process, for the checks at start and for `relayd version`."""

from __future__ import annotations

import pycurl


def pycurl_version() -> str:
    """The version of the Python binding; its `version` string begins with `PycURL/`."""
    return str(pycurl.version).split()[0].partition("/")[2].strip('"')


def libcurl_version() -> str:
    """The version of libcurl loaded at run time."""
    return str(pycurl.version_info()[1])


def tls_library() -> str:
    """The TLS back end of libcurl: GnuTLS on some systems, OpenSSL on others."""
    return str(pycurl.version_info()[5] or "none")


_FEATURES = {"SSL": "VERSION_SSL", "HTTP2": "VERSION_HTTP2", "AsynchDNS": "VERSION_ASYNCHDNS"}


def features() -> frozenset[str]:
    """The features of libcurl that relayd can need: SSL, HTTP2, AsynchDNS."""
    bits = int(pycurl.version_info()[4])
    return frozenset(name for name, constant in _FEATURES.items() if bits & int(getattr(pycurl, constant, 0)))
