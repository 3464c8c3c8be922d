"""Counts and logs connections that end before a request: peers above their limit, invalid PROXY protocol headers,
failed TLS handshakes.

Scanners and misconfigured clients repeat such connections, so each reason is logged once per interval and listener. A
client that just closes its connection, as checks of load balancers do, is logged at level debug only.
"""

from __future__ import annotations

import logging
import ssl

from relayd.telemetry.telemetry import Telemetry
from relayd.wire.client_hello import ClientHelloError

INTERVAL_S = 10.0
CLOSED, TIMEOUT = "closed", "timeout"
_TLS_REASONS = {
    "HTTP_REQUEST": "the client sent plain HTTP to a TLS listener",
    "WRONG_VERSION_NUMBER": "the client does not speak TLS, or an unsupported version",
    "UNSUPPORTED_PROTOCOL": "the client does not support min_version of the listener",
    "NO_SHARED_CIPHER": "the client supports no cipher of the listener",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not trust the issuer of the certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client rejected the certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client rejected the certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the client rejected the certificate: it has expired",
}


def report_peer_limit(telemetry: Telemetry, listener: str, peer: str) -> None:
    """A peer above `connections_per_peer`."""
    telemetry.metrics.add("relayd.listener.refused", listener=listener, reason="peer_limit")
    _log(
        telemetry, listener, "peer_limit", "info", "peer_limited",
        "The peer has as many connections as connections_per_peer permits; further ones are rejected.", peer=peer,
    )


def report_untrusted(telemetry: Telemetry, listener: str, peer: str) -> None:
    """A peer that may not send a PROXY protocol header, on a listener that requires one."""
    telemetry.metrics.add("relayd.listener.refused", listener=listener, reason="untrusted")
    _log(
        telemetry, listener, "untrusted", "warning", "proxy_header_refused",
        "The listener has proxy_protocol, and its trusted_proxies do not contain the peer.", peer=peer,
    )


def report_proxy_header(telemetry: Telemetry, listener: str, peer: str, rule: str) -> None:
    """A connection of a trusted peer without a valid PROXY protocol header. `rule` is the violated rule, CLOSED if the
    peer closed the connection before the end of the header, or TIMEOUT."""
    telemetry.metrics.add("relayd.listener.refused", listener=listener, reason="proxy_header")
    level = "debug" if rule == CLOSED else "warning"
    message = "The connection has no valid PROXY protocol header."
    _log(telemetry, listener, rule, level, "proxy_header_refused", message, peer=peer, rule=rule)


def report_tls_failure(telemetry: Telemetry, listener: str, peer: str, error: BaseException | None) -> None:
    """A connection that ended during its TLS handshake. `error` is that of its stream; None if the client closed it."""
    telemetry.metrics.add("relayd.listener.tls_failed", listener=listener)
    reason, level = _tls_reason(error), "info"
    if reason == CLOSED:
        reason, level = "the client closed the connection", "debug"
    message = "A client's TLS handshake failed."
    _log(telemetry, listener, reason, level, "handshake_failed", message, peer=peer, why=reason)


def _tls_reason(error: BaseException | None) -> str:
    if isinstance(error, TimeoutError):
        return "it took longer than timeouts.handshake"
    if isinstance(error, ClientHelloError):
        return _TLS_REASONS["WRONG_VERSION_NUMBER"]
    if not isinstance(error, ssl.SSLError) or isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return CLOSED
    reason = error.reason or ""
    return _TLS_REASONS.get(reason) or reason.lower().replace("_", " ") or "unknown"


def _log(telemetry: Telemetry, listener: str, key: str, level: str, event: str, message: str, **fields: str) -> None:
    limit_key = f"{event}:{listener}:{key}"
    telemetry.journal.limited(limit_key, INTERVAL_S, level, event, message, listener=listener, **fields)


def _is_not_of_handshake(record: logging.LogRecord) -> bool:
    """False for Tornado's own line about a failed handshake, which names no listener and is not limited."""
    return not str(record.msg).startswith("SSL Error on")


def silence_tornado() -> None:
    """Suppress the lines of Tornado that the functions of this module replace."""
    logging.getLogger("tornado.general").addFilter(_is_not_of_handshake)
