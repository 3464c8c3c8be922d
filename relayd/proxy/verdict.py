"""What an endpoint's answer means to a course, and the words in which relayd says so; no state."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from relayd.errors import ExchangeError
from relayd.limits.ticket import retry_after
from relayd.protocols._retry_after import retry_after_s
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Dialect
from relayd.upstream.classify import Verdict, classify
from relayd.upstream.endpoint import Endpoint
from relayd.wire.key_filter import KeyFilter
from relayd.wire.response import ResponseHead


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: `code` of KINDS, or the endpoint's `status` (0: none), with what it said beside it."""

    code: str
    status: int
    retry_after: str = ""
    rest_s: float | None = None
    error_code: str = ""
    in_stream: bool = False

    def verdict(self, own_key: bool) -> Verdict:
        """Whom this is about."""
        rest_s = self.rest_s
        if rest_s is None and self.retry_after:
            rest_s = retry_after_s({"retry-after": self.retry_after})
        return classify(
            self.code, self.status, own_key=own_key, in_stream=self.in_stream, rest_s=rest_s, error_code=self.error_code
        )


def field_of(response: ResponseHead, name: bytes) -> str:
    """The first value of a field of the endpoint's head, by its lower-case name; empty without one."""
    return response.get(name)


def error_of(dialect: Dialect | None, response: ResponseHead, body: bytes) -> Failure | None:
    """An error answer as the endpoint's dialect reads it; None where no dialect is spoken."""
    if dialect is None:
        return None
    headers: dict[str, str] = {}
    for line in response.keep:
        name, _, value = line.partition(b":")
        headers.setdefault(name.decode("latin-1").lower(), value.strip().decode("latin-1"))
    return dialect.read_error(response.status, headers, body)


def without_keys(
    endpoint: Endpoint | None, fault: ExchangeError, body: bytes, failure: Failure | None
) -> tuple[ExchangeError, bytes, Failure | None]:
    """What an endpoint said of a failure, for the log and the client, without the keys that relayd sent it."""
    keys = None if endpoint is None else endpoint.key_filter
    if keys is None:
        return fault, body, failure
    fault = ExchangeError(fault.kind.code, keys.text(fault.detail), fault.headers)
    return fault, keys.body(body), failure if failure is None else masked(keys, failure)


def masked(keys: KeyFilter, failure: Failure) -> Failure:
    """A failure whose texts hold no key."""
    param = None if failure.param is None else keys.text(failure.param)
    return replace(
        failure, message=keys.text(failure.message), code=keys.text(failure.code), type=keys.text(failure.type),
        param=param,
    )


def key_refused(status: int) -> Failure:
    """relayd's own key was refused: not the client's fault, whose key is another one."""
    return Failure(
        502, f"The upstream refused the gateway's own key (status {status}); tell its operator.",
        code="upstream_key_refused", type="upstream_error",
    )


def room_refused(
    reason: str, retry_after_s: float, *, at_upstream: bool, fields: Iterable[tuple[str, str]]
) -> ExchangeError:
    """No permit: the consumer's own limit is 429, everybody's is 503 (RFC 6585 4, RFC 9110 15.6.4)."""
    code = "queue_timeout" if reason == "queue_timeout" else "queue_full" if at_upstream else "too_many_requests"
    return ExchangeError(code, reason, (("Retry-After", retry_after(retry_after_s)), *fields))


def last_frame(dialect: Dialect, failure: Failure, request_id: str) -> bytes:
    """An error inside a stream that passes: one frame of the stream's own dialect."""
    body = dialect.render_error(failure, request_id).body.strip()
    if dialect.name == "anthropic_messages":
        return b"event: error\ndata: " + body + b"\n\n"
    if dialect.name == "openai_responses":
        inner = json.loads(body).get("error", {})
        event = {"type": "error", "error": inner, **{key: inner.get(key) for key in ("code", "message", "param")}}
        return b"event: error\ndata: " + json.dumps(event).encode() + b"\n\n"
    if dialect.name == "ollama":
        return body + b"\n"
    return b"data: " + body + b"\n\n"
