"""The exception classes and the error catalogue: fault, HTTP status, retryability and stable code of each error.

    RelaydError
      ConfigError      the configuration was refused; it holds all findings
      ExchangeError    one exchange cannot continue; only proxy/respond.py turns it into an HTTP response

Laws:
1. A code is stable: logs, metrics, clients and the manual use it. Codes are never renamed, only added.
2. `message` is for the client. It never contains an address, a key, a library's text or a byte of the request.
3. `detail` is for the operator's log only.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterable

from relayd.dataclass import dataclass


class Fault(enum.Enum):
    """The party that caused an error; `fault.value` is the label in logs and metrics."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    RELAYD = "relayd"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Kind:
    """One entry of the error catalogue.

    `status` is the HTTP status; 499 is logged but never sent. `retryable` is true if no endpoint has acted on any part
    of the request, so that a request of any method may be retried. `close` is true if the client's framing is in doubt
    or its body unread, so that the connection is closed after the response.
    """

    code: str
    status: int
    fault: Fault
    message: str
    retryable: bool = False
    close: bool = False


_C, _U, _R, _A = Fault.CLIENT, Fault.UPSTREAM, Fault.RELAYD, Fault.ADMIN

KINDS: dict[str, Kind] = {
    kind.code: kind
    for kind in (
        # accept
        Kind("bad_request", 400, _C, "The request is not valid HTTP.", close=True),
        Kind("ambiguous_path", 400, _C, "The path is ambiguous: servers interpret it differently."),
        Kind("request_timeout", 408, _C, "The request did not arrive in time.", close=True),
        Kind("uri_too_long", 414, _C, "The request target is too long.", close=True),
        Kind("expectation_failed", 417, _C, "Only 100-continue can be expected.", close=True),
        Kind("header_too_large", 431, _C, "The request header section is too large.", close=True),
        Kind("not_implemented", 501, _C, "This transfer coding or method is not supported.", close=True),
        Kind("not_in_force", 501, _R, "This route needs a feature that is not in force yet."),
        Kind("version_not_supported", 505, _C, "Only HTTP/1.0 and HTTP/1.1 are supported.", close=True),
        Kind("too_many_connections", 503, _C, "Too many connections from this address.", close=True),
        Kind("method_not_allowed", 405, _C, "This method is not allowed here."),
        # match
        Kind("no_route", 404, _C, "No route matches this request."),
        Kind("loop_detected", 508, _C, "The request has already passed through this proxy."),
        # authorise
        Kind("unauthorized", 401, _C, "A valid key is required."),
        Kind("too_many_failed_keys", 429, _C, "Too many wrong keys from this address; try again later."),
        Kind("keys_unavailable", 503, _R, "The keys that verify this token are not known yet; try again.",
             retryable=True),
        Kind("forbidden", 403, _C, "This key has no access to this route."),
        Kind("model_not_allowed", 403, _C, "This key has no access to this model."),
        # sessions
        Kind("no_session", 404, _C, "The client has no session here."),
        Kind("session_conflict", 409, _C, "The session is changed by too many requests at once; try again."),
        Kind("precondition_failed", 412, _C, "The document has been changed, or does not exist."),
        Kind("unsupported_media_type", 415, _C, "A document is changed by a merge patch only."),
        Kind("session_not_stored", 503, _R, "The session could not be stored; try again later."),
        # limits
        Kind("bad_body", 400, _C, "The request body is invalid, or cannot be translated for this upstream."),
        Kind("ambiguous_body", 400, _C, "The model in this request body is ambiguous."),
        Kind("unknown_model", 404, _C, "No such model."),
        Kind("body_too_large", 413, _C, "The request body is larger than this route allows.", close=True),
        Kind("too_many_requests", 429, _C, "Too many requests; try again later."),
        Kind("rate_limited", 429, _C, "A rate limit is exceeded; try again later."),
        Kind("budget_exceeded", 429, _C, "A budget is used up."),
        Kind("unpriced_model", 403, _C, "A budget applies to this request, and its model has no price."),
        Kind("limits_unavailable", 503, _R, "Rates and budgets cannot be checked now; try again later.",
             retryable=True),
        Kind("overloaded", 503, _R, "The proxy is overloaded; try again later.", retryable=True),
        Kind("request_buffers_full", 503, _R, "Too many request bodies are held in memory; try again later.",
             retryable=True, close=True),
        Kind("store_unavailable", 503, _R, "Stored data that the request needs cannot be read now; try again later.",
             retryable=True),
        Kind("not_cached", 504, _C, "The cache has no answer to this request, and the client accepts no other one."),
        Kind("queue_full", 503, _R, "Too many requests are waiting; try again later.", retryable=True),
        Kind("queue_timeout", 503, _R, "The request waited too long in a queue; try again later.", retryable=True),
        Kind("out_of_resources", 503, _R, "The proxy has no free file descriptors; try again later.", retryable=True),
        Kind("draining", 503, _R, "The proxy is shutting down.", retryable=True, close=True),
        # attempt, transfer
        Kind("no_endpoint", 503, _U, "No endpoint of the upstream is available.", retryable=True),
        Kind("connect_failed", 502, _U, "The upstream cannot be reached.", retryable=True),
        Kind("tls_failed", 502, _U, "No trusted connection to the upstream could be made.", retryable=True),
        Kind("connect_timeout", 504, _U, "The upstream did not accept a connection in time.", retryable=True),
        Kind("upstream_unprocessed", 503, _U, "The upstream refused the request before processing it; send it again.",
             retryable=True),
        Kind("upstream_closed", 502, _U, "The upstream closed the connection without a complete answer."),
        Kind("upstream_malformed", 502, _U, "The upstream's answer is not valid HTTP."),
        Kind("upstream_cut", 502, _U, "The upstream's answer was cut."),
        Kind("upstream_unreadable", 502, _U, "The upstream's answer is not valid for this API."),
        Kind("upstream_refused", 502, _U, "The upstream refused the request."),
        Kind("upstream_failed", 502, _U, "The upstream reported an error inside its answer."),
        Kind("upstream_key_refused", 502, _U, "The upstream refused the gateway's own key."),
        Kind("first_byte_timeout", 504, _U, "The upstream did not answer in time."),
        Kind("idle_timeout", 504, _U, "The upstream stopped sending."),
        Kind("total_timeout", 504, _U, "The exchange took longer than allowed."),
        # client closed, operator, relayd itself
        Kind("client_gone", 499, _C, "The client closed the connection.", close=True),
        Kind("client_stalled", 499, _C, "The client stopped reading.", close=True),
        Kind("stopped", 503, _A, "The operator ended the exchange.", close=True),
        Kind("internal", 500, _R, "An internal error occurred.", close=True),
    )
}


# Numbers of an OSError with which the kernel says that this process or machine has no descriptor or memory left.
EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class RelaydError(Exception):
    """Root of relayd's own exceptions."""


class ExchangeError(RelaydError):
    """An exchange cannot continue.

    `code` names the entry of KINDS; `detail` is for the log; `headers` are sent with the response
    (for example Allow, Retry-After, WWW-Authenticate). `message` replaces the message of the kind by a more specific
    one for the client. Raises KeyError for a code that is not in the catalogue.
    """

    __slots__ = ("detail", "headers", "kind", "message")

    def __init__(
        self, code: str, detail: str = "", headers: Iterable[tuple[str, str]] = (), message: str = ""
    ) -> None:
        super().__init__(code, detail)
        self.kind = KINDS[code]
        self.detail = detail
        self.message = message or self.kind.message
        self.headers = tuple(headers)


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault or warning of a configuration. `line` and `column` count from 1; 0 means unknown."""

    file: str
    line: int
    column: int
    path: str
    message: str
    suggestion: str = ""
    level: str = "error"  # error | warning

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        at = f" {self.path}:" if self.path else ""
        suggestion = f" ({self.suggestion})" if self.suggestion else ""
        return f"{where}: {self.level}:{at} {self.message}{suggestion}"


class ConfigError(RelaydError):
    """A configuration was refused. `findings` holds all faults and all warnings."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class OptionError(RelaydError):
    """A plug-in cannot use one of its options, which is detected only on its construction. `key` is the YAML key."""

    def __init__(self, key: str, message: str) -> None:
        self.key, self.message = key, message
        super().__init__(f"{key}: {message}")
