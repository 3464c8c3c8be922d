"""Sections about failing endpoints: `breaker:`, `retries:`, `health:`, `fallbacks:`, `mirror:`, `canary:`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from relayd.lazy_regex import lazy_regex
from relayd.schema import Duration, section, setting

FAULTS = ("connect", "closed", "malformed", "timeout", "5xx", "429", "503", "key")
STATUS = lazy_regex(r"([1-5])xx|([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")
FallbackClass = Literal["unavailable", "overloaded", "context_length", "refused_content", "any"]


@section(shorthand="enabled")
class Breaker:
    """When to stop sending requests to a failing endpoint, and when to try it again.

    Only faults of the endpoint count: it is unreachable, does not respond in time, responds 5xx, closes the connection
    early or sends invalid HTTP. A client's 4xx never counts. Without this section failing endpoints are skipped as
    well, but requests are never refused if all endpoints fail. `breaker: off` counts nothing.
    """

    enabled: bool = setting(default=True, doc="`off` counts nothing and skips no endpoint.")
    failures: int = setting(default=5, doc="Consecutive faults that open the breaker of an endpoint.", minimum=1, zero_is_off=True)
    rate: float = setting(default=0.0, doc="Share of failed exchanges within the window that also opens the breaker, from 0 to 1.", maximum=1, zero_is_off=True, example=0.5)
    window: Duration = setting(default=Duration(30), doc="The window for `rate`.", minimum=1, maximum=3600)
    minimum: int = setting(default=20, doc="Minimum of exchanges within the window; below it `rate` is not evaluated.", minimum=1)
    open_for: Duration = setting(default=Duration(30), doc="How long the breaker stays open before a probe. The time doubles each time the breaker opens again without having been closed for at least as long in between. Jitter shortens it by up to a fifth.")
    max_open_for: Duration = setting(default=Duration(300), doc="The maximum of the doubled time.")
    probes: int = setting(default=1, doc="Concurrent exchanges that may probe a half-open endpoint.", minimum=1, maximum=1000)
    successes: int = setting(default=1, doc="Probes that must succeed before the breaker closes.", minimum=1, maximum=1000)
    rest: Duration = setting(default=Duration(15), doc="Cool-down of an endpoint, or of a key if the upstream has several, after 429 or 529 without Retry-After.")
    max_rest: Duration = setting(default=Duration(300), doc="The longest cool-down that a Retry-After may cause.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.enabled and not self.failures and not self.rate:
            yield "failures", "with neither failures nor rate it never opens; write `breaker: off`"


@section(shorthand="share")
class RetryBudget:
    """The retry budget: a limit on all retries of an upstream, so that failures do not multiply its load."""

    share: float = setting(default=0.2, doc="Retries as a share of the requests within the window.", minimum=0, maximum=10)
    minimum: int = setting(default=10, doc="Retries within the window that are always permitted.", minimum=0)
    window: Duration = setting(default=Duration(10), doc="The window.", minimum=1, maximum=3600)


@section(shorthand="attempts")
class Retries:
    """When an attempt is repeated: only before the client has received a byte. Another endpoint or key is tried first,
    without delay.

    A request with a method that is not idempotent is repeated only if no byte of it was sent, if the endpoint refused it
    before any work (429, 529, 503 with Retry-After, or relayd's own key) and another endpoint or key is free, or with
    `idempotent: true`; otherwise the client gets the refusal at once. A request whose body could not be buffered is not
    repeated.
    """

    attempts: int = setting(default=1, doc="Total number of attempts, including the first.", minimum=1, maximum=20, example=3)
    backoff: Duration = setting(default=Duration(0.5), doc="The longest delay before the same endpoint is tried again; doubles with each further attempt. The delay is random, between 0 and this value.")
    max_backoff: Duration = setting(default=Duration(10), doc="The maximum of the doubled delay. An endpoint that asks for a longer delay is not tried again.")
    on: tuple[str, ...] = setting(default=("connect", "closed", "timeout", "5xx", "429", "503", "key"), doc="Faults that permit a retry: connect (endpoint unreachable), closed (connection closed before the response), malformed, timeout, 5xx, 429, 503 (with Retry-After), key (the endpoint refused relayd's own key), or a status of three digits.", example=["connect", "502", "504"])
    per_attempt: Duration = setting(default=Duration(0), doc="How long one attempt may take until the response head; 0 means timeouts.first_byte.", zero_is_off=True)
    budget: RetryBudget = setting(factory=RetryBudget, doc="The retry budget.")
    idempotent: bool = setting(default=False, doc="Requests may be repeated with any method: a POST that an endpoint may have processed is then delivered twice.")

    def check(self) -> Iterable[tuple[str, str]]:
        for index, text in enumerate(self.on):
            if text not in FAULTS and not re.fullmatch(r"[45][0-9]{2}", text):
                yield f"on[{index}]", f"is none of {', '.join(FAULTS)}, and no status of 400 and above"


@section(shorthand="path")
class Health:
    """Active checks of every endpoint. Without this section no checks are made.

    Checks bypass limits and queues, and use no model. A check that only times out while the endpoint answers other
    requests is ignored: a busy endpoint is not unhealthy.
    """

    kind: Literal["http", "tcp"] = setting(default="http", doc="http requests `path`; tcp only connects.")
    path: str = setting(default="/", doc="The path of the request, relative to the origin and not to the base path. Choose a path without cost.", example="/health", pattern=r"/[!-~]*")
    status: tuple[str, ...] = setting(default=("2xx",), doc="The statuses of a healthy endpoint: 2xx, 204, 200-399.", example=["2xx", "401"])
    body: str | None = setting(default=None, doc="A text that the first 64 KiB of the response must contain.", example="ok")
    interval: Duration = setting(default=Duration(10), doc="Time between two checks, with a jitter of up to a fifth.", minimum=0.1, maximum=86400)
    timeout: Duration = setting(default=Duration(2), doc="How long a check may take.", minimum=0.01, maximum=300)
    healthy: int = setting(default=2, doc="Consecutive good checks that make an endpoint available again.", minimum=1, maximum=1000)
    unhealthy: int = setting(default=3, doc="Consecutive failed checks that make an endpoint unavailable.", minimum=1, maximum=1000)
    auth: bool = setting(default=False, doc="Send the upstream's key with the check.")

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.status:
            yield "status", "needs at least one status"
        for index, text in enumerate(self.status):
            if status_range(text) is None:
                yield f"status[{index}]", "is not a status; write 204, 2xx or 200-399"

    def caution(self) -> Iterable[tuple[str, str]]:
        if any(text in self.path for text in ("/chat/completions", "/responses", "/messages", "generateContent")):
            yield "path", "requests a model, which costs money and fails while the model is busy"
        if self.timeout > self.interval:
            yield "timeout", "is longer than interval; a check begins only after the end of the previous one"


def status_range(text: str) -> tuple[int, int] | None:
    """2xx, 204 or 200-399 as the first and the last status; None for anything else."""
    found = STATUS.fullmatch(text)
    if found is None:
        return None
    if found[1]:
        return int(found[1]) * 100, int(found[1]) * 100 + 99
    first, last = int(found[2]), int(found[3] or found[2])
    return (first, last) if first <= last else None


@section(shorthand="upstream")
class Fallback:
    """Another upstream that is tried after the previous one failed, before the client has received any content."""

    upstream: str = setting(doc="Name of an upstream.")
    model: str | None = setting(default=None, doc="The model's name at that upstream; without it, the requested name.")
    on: tuple[FallbackClass, ...] = setting(default=("unavailable", "overloaded"), doc="Failures that cause the fallback: unavailable (no endpoint, unreachable, 5xx, connection closed early, key refused), overloaded (429, 503, 529, no capacity), context_length (the prompt does not fit), refused_content (the provider's filter), any.", example=["any"])

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.on:
            yield "on", "needs at least one class"


@section(shorthand="upstream")
class Mirror:
    """A copy of requests to another upstream, whose responses are discarded. The client never waits for a copy.

    A copy is not retried, and not sent while that upstream has no capacity.
    """

    upstream: str = setting(doc="Name of an upstream.")
    share: float = setting(default=1.0, doc="Share of the requests that are copied, from 0 to 1.", minimum=0, maximum=1, example=0.05)


@section()
class Canary:
    """Another upstream for a part of a route's requests, chosen at random. If the route's upstream has
    `balance: consistent_hash`, requests with the same affinity key are all sent to the same of both upstreams."""

    upstream: str = setting(doc="Name of an upstream.")
    weight: float = setting(doc="Percentage of the requests that the canary gets.", minimum=0, maximum=100, example=5)


def fallback_faults(upstream: str, model: str | None, fallbacks: Iterable[Fallback]) -> Iterable[tuple[str, str]]:
    """Faults of the fallbacks of a route or model that begins at `upstream`: targets that occur twice."""
    seen = {(upstream, model): "the first target of the request"}
    for index, one in enumerate(fallbacks):
        target = (one.upstream, one.model or model)
        if target in seen:
            yield f"fallbacks[{index}]", f"leads back to {seen[target]}"
        seen.setdefault(target, f"fallbacks[{index}]")


def share_faults(upstream: str, mirror: Mirror | None, canary: Canary | None) -> Iterable[tuple[str, str]]:
    """Faults of a route's mirror and canary: the route's own upstream, or the same upstream for both."""
    if mirror is not None and mirror.upstream == upstream:
        yield "mirror.upstream", "is the upstream of the request already"
    elif mirror is not None and canary is not None and mirror.upstream == canary.upstream:
        yield "mirror.upstream", "is the canary's upstream already"
    if canary is not None and canary.upstream == upstream:
        yield "canary.upstream", "is the route's own upstream"
