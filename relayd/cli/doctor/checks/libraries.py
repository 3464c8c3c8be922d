"""Versions of Python, Tornado, pycurl, libcurl and its TLS library: too old ones, and those with a known fault."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable, Iterator

from relayd.cli.diagnosis import Finding, failure, fine, unknown, warning
from relayd.cli.doctor.examination import Context
from relayd.config.model import Config
from relayd.daemon.checks import numbers, too_old, versions
from relayd.dataclass import dataclass
from relayd.upstream.transport.library import features, tls_library


@dataclass(frozen=True, slots=True)
class KnownFault:
    """A fault of a library from `first` to before `fixed`, which matters if `concerns` is true."""

    library: str
    first: tuple[int, ...]
    fixed: tuple[int, ...]
    concerns: Callable[[Config], bool]
    cause: str
    cure: str


def speaks_http2(config: Config) -> bool:
    return any(one.http == "2" for one in config.upstreams.values())


HTTP1 = "set `http: \"1.1\"` for upstreams, or install a newer libcurl"
# From reference measurements with Debian's and Ubuntu's packages; faults that relayd avoids by itself are not listed.
KNOWN = (
    KnownFault(
        "libcurl", (7, 88), (8, 0), speaks_http2, "over HTTP/2, a stream whose client does not read may use 32 MiB, "
        "and a stream whose client has disconnected ends at the endpoint only with the next traffic", HTTP1,
    ),
    KnownFault(
        "libcurl", (8, 12), (8, 13), speaks_http2, "over HTTP/2, a request that the endpoint refused before any work "
        "on it is not recognised and therefore not sent again", HTTP1,
    ),
    KnownFault(
        "libcurl", (8, 16), (8, 17), speaks_http2, "over HTTP/2, a stream that was paused for a slow client may end "
        "with a write error (curl issue 19334)", HTTP1,
    ),
)


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    found = versions()
    config = None if context.loaded is None else context.loaded.config
    for line in too_old(found):
        yield failure("libraries", line, "install a supported release of the distribution")
    for finding in (*missing_features(features(), config), *known_faults(found, config)):
        yield finding
    listed = ", ".join(f"{name} {version}" for name, version in found.items() if name != "relayd")
    yield fine("libraries", f"{listed}; TLS: {tls_library()} to upstreams, {ssl.OPENSSL_VERSION} to clients")


def missing_features(has: frozenset[str], config: Config | None) -> Iterator[Finding]:
    """Features that this build of libcurl lacks."""
    cure = "install the distribution's python3-pycurl and libcurl"
    if "SSL" not in has:
        yield failure("libcurl", "is built without TLS: no https:// endpoint can be used", cure)
    if "AsynchDNS" not in has:
        yield warning("libcurl", "is built without an asynchronous resolver: a slow lookup delays all requests", cure)
    if "HTTP2" not in has and config is not None and speaks_http2(config):
        yield failure("libcurl", "is built without HTTP/2, which the configuration asks for", cure)


def known_faults(found: dict[str, str], config: Config | None) -> Iterator[Finding]:
    """Known faults of these versions."""
    for fault in KNOWN:
        if not fault.first <= numbers(found[fault.library]) < fault.fixed:
            continue
        subject = f"{fault.library} {found[fault.library]}"
        if config is None:
            yield unknown(subject, f"without the configuration it is not known whether this matters: {fault.cause}")
        elif fault.concerns(config):
            yield warning(subject, fault.cause, fault.cure)
