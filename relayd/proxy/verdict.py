"""What an endpoint's answer means to a course, and the words in which relayd says so; no state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from relayd.errors import ExchangeError
from relayd.limits.ticket import retry_after
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Dialect
from relayd.protocols.retry_after import retry_after_s
from relayd.upstream.classify import Verdict, classify
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
