"""The error response of an endpoint: its body is buffered, read in the endpoint's dialect, and classified."""

from __future__ import annotations

from relayd.errors import ExchangeError
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Dialect
from relayd.protocols.retry_after import retry_after_s
from relayd.upstream.classify import GOOD, Classification
from relayd.upstream.lease import Lease
from relayd.wire.decoding import BadEncoding, Decoder
from relayd.wire.headers import name_of
from relayd.wire.response import ResponseHead

MAX_ERROR_BODY_BYTES = 64 * 1024


class ErrorBody:
    """The body of an error response, buffered until it is complete. Owned by an attempt."""

    __slots__ = ("pieces", "size_bytes")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size_bytes = 0

    def add(self, pieces: list[bytes]) -> bool:
        """Buffer further pieces. Returns False if the body is too large for an error object."""
        self.pieces += pieces
        self.size_bytes += sum(map(len, pieces))
        return self.size_bytes <= MAX_ERROR_BODY_BYTES


def read_error_response(dialect: Dialect, response: ResponseHead, body: bytes) -> tuple[Failure, bytes | None]:
    """Read an error response in its dialect. Returns the error, and the body without its content coding, which the head
    loses too; None if relayd cannot decode the body within the bound on errors."""
    decoded = _decoded(response, body)
    headers: dict[str, str] = {}
    for line in response.keep:
        name, _, value = line.partition(b":")
        headers.setdefault(name.decode("latin-1").lower(), value.strip().decode("latin-1"))
    return dialect.read_error(response.status, headers, decoded or b""), decoded


def _decoded(response: ResponseHead, body: bytes) -> bytes | None:
    if not response.coding_line:
        return body
    remaining = [line for line in response.keep if name_of(line) != b"content-encoding"]
    if len(remaining) + 1 < len(response.keep):  # several fields are several codings
        return None
    decoder = Decoder(response.coding)
    try:
        decoded = decoder.feed(body, MAX_ERROR_BODY_BYTES)
    except BadEncoding:
        return None
    if decoder.has_more:
        return None
    response.keep, response.coding_line = remaining, b""
    return decoded


def fault_of(failure: Failure) -> ExchangeError:
    """The catalogue error for an error inside a response body."""
    code = failure.code if failure.code in ("upstream_malformed", "upstream_cut") else "upstream_failed"
    return ExchangeError(code, failure.message[:200])


def classify_failure(lease: Lease, failure: Failure, *, client_key: bool, in_stream: bool) -> Classification:
    """Classify an error that was read from a body: of an error response, or `in_stream` of a 2xx response.
    `client_key`: the client's own key was forwarded."""
    return lease.classify(
        "", failure.status, client_key=client_key, in_stream=in_stream, retry_after_s=failure.retry_after_s,
        error_code=failure.code, error_type=failure.type, error_message=failure.message,
    )


def classify_response(lease: Lease, code: str, response: ResponseHead | None, *, client_key: bool) -> Classification:
    """Classify a response by its head, or the catalogue error `code` of a transfer without one."""
    status = 0 if response is None else response.status
    if response is not None and status < 400:
        return GOOD
    cooldown_s = None
    if status in (429, 503) and response is not None:
        cooldown_s = retry_after_s({"retry-after": response.get(b"retry-after")})
    return lease.classify(code, status, client_key=client_key, retry_after_s=cooldown_s)
