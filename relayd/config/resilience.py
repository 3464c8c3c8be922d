"""Sections about failing endpoints: `breaker:`, `retries:`, `health:`, `fallbacks:`, `mirror:`, `canary:`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from relayd.schema import Duration, section, setting

FAULTS = ("connect", "closed", "malformed", "timeout", "5xx", "429", "503", "key")
STATUS = re.compile(r"([1-5])xx|([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")
FallbackClass = Literal["unavailable", "overloaded", "context_length", "refused_content", "any"]


@section(shorthand="enabled")
class Breaker:
    """When to stop asking a failing endpoint, and when to try it again.

    Counted is only what is the endpoint's fault: it cannot be reached, does not answer in time, answers 5xx, breaks off
    or sends what is not HTTP; never a consumer's 4xx. Where this section is not written, failing endpoints are passed
    over as well, but the last one of an upstream is never refused. `breaker: off` counts nothing.
    """

    enabled: bool = setting(default=True, doc="`off` counts nothing and passes over nobody.")
    failures: int = setting(default=5, doc="Faults in a row that open the breaker of an endpoint.", minimum=1, zero_is_off=True)
    rate: float = setting(default=0.0, doc="Share of failed exchanges within the window that opens it too, from 0 to 1.", maximum=1, zero_is_off=True, example=0.5)
    window: Duration = setting(default=Duration(30), doc="The window in which the share is counted.", minimum=1, maximum=3600)
    minimum: int = setting(default=20, doc="Exchanges within the window, below which the share says nothing.", minimum=1)
    open_for: Duration = setting(default=Duration(30), doc="How long it stays open before a probe; doubles each time it opens again without having been well for as long in between. Chance takes up to a fifth off.")
    max_open_for: Duration = setting(default=Duration(300), doc="Where the doubling ends.")
    probes: int = setting(default=1, doc="Exchanges at one time that may try a half-open endpoint.", minimum=1, maximum=1000)
    successes: int = setting(default=1, doc="Probes that must succeed before it is closed again.", minimum=1, maximum=1000)
    rest: Duration = setting(default=Duration(15), doc="How long an endpoint, or a key where there are several, rests after 429 or 529 without Retry-After.")
    max_rest: Duration = setting(default=Duration(300), doc="The longest rest that a Retry-After is believed.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.enabled and not self.failures and not self.rate:
            yield "failures", "with neither failures nor rate it never opens; write `breaker: off`"


@section(shorthand="share")
class RetryBudget:
    """A bound on all retries of an upstream together, so that its failing does not multiply its load."""

    share: float = setting(default=0.2, doc="Retries as a share of the requests within the window.", minimum=0, maximum=10)
    minimum: int = setting(default=10, doc="Retries within the window that may be made in any case.", minimum=0)
    window: Duration = setting(default=Duration(10), doc="The window.", minimum=1, maximum=3600)


@section(shorthand="attempts")
class Retries:
    """When an attempt is repeated: only before the client has a byte, and another endpoint or key first, at once.

    A method that is not idempotent is repeated only if no byte of it was sent, if the endpoint refused it before any work
    (429, 529, 503 with Retry-After, or relayd's own key) and another endpoint or key is free, or with
    `idempotent: true`; otherwise the client gets the refusal at once. A request whose body could not be kept is not
    repeated either.
    """

    attempts: int = setting(default=1, doc="Attempts in all, the first included.", minimum=1, maximum=20, example=3)
    backoff: Duration = setting(default=Duration(0.5), doc="The longest wait before the same endpoint is asked a second time; doubles with each further attempt. The wait is any time between nothing and this.")
    max_backoff: Duration = setting(default=Duration(10), doc="Where the doubling ends; an endpoint that asks for more patience than this is not asked again.")
    on: tuple[str, ...] = setting(default=("connect", "closed", "timeout", "5xx", "429", "503", "key"), doc="Faults after which it is tried again: connect (not reached), closed (broken off before the answer), malformed, timeout, 5xx, 429, 503 (with Retry-After), key (the endpoint refused relayd's own key), or a status of three digits.", example=["connect", "502", "504"])
    per_attempt: Duration = setting(default=Duration(0), doc="How long one attempt may take to the head of the answer; 0 leaves it to timeouts.first_byte.", zero_is_off=True)
    budget: RetryBudget = setting(factory=RetryBudget, doc="A bound on all retries together.")
    idempotent: bool = setting(default=False, doc="Requests may be sent again whatever their method is: a POST that an endpoint may have worked on is then delivered twice.")

    def check(self) -> Iterable[tuple[str, str]]:
        for index, text in enumerate(self.on):
            if text not in FAULTS and not re.fullmatch(r"[45][0-9]{2}", text):
                yield f"on[{index}]", f"is none of {', '.join(FAULTS)}, and no status of 400 and above"


@section(shorthand="path")
class Health:
    """Active checks of every endpoint, beside what traffic shows. Without this section there are none.

    They go past limits and queues and to no model. A check that only runs out of time while the endpoint is answering
    others says nothing: busy is not sick.
    """

    kind: Literal["http", "tcp"] = setting(default="http", doc="http asks for `path`; tcp only connects.")
    path: str = setting(default="/", doc="What is asked for, from the root of the address and not from its base path; choose one that costs nothing.", example="/health", pattern=r"/[!-~]*")
    status: tuple[str, ...] = setting(default=("2xx",), doc="The statuses of a healthy endpoint: 2xx, 204, 200-399.", example=["2xx", "401"])
    body: str | None = setting(default=None, doc="A text that the answer's first 64 KiB must hold.", example="ok")
    interval: Duration = setting(default=Duration(10), doc="From one check to the next; chance makes it up to a fifth shorter or longer.", minimum=0.1, maximum=86400)
    timeout: Duration = setting(default=Duration(2), doc="How long a check may take.", minimum=0.01, maximum=300)
    healthy: int = setting(default=2, doc="Good checks in a row that bring an endpoint back.", minimum=1, maximum=1000)
    unhealthy: int = setting(default=3, doc="Failed checks in a row that take it out.", minimum=1, maximum=1000)
    auth: bool = setting(default=False, doc="Send the upstream's key with the check.")

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.status:
            yield "status", "needs at least one status"
        for index, text in enumerate(self.status):
            if status_range(text) is None:
                yield f"status[{index}]", "is not a status; write 204, 2xx or 200-399"

    def caution(self) -> Iterable[tuple[str, str]]:
        if any(text in self.path for text in ("/chat/completions", "/responses", "/messages", "generateContent")):
            yield "path", "asks a model, which costs money and fails while it is busy"
        if self.timeout > self.interval:
            yield "timeout", "is longer than interval; a check begins only when the one before is over"


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
    """Another upstream that is asked when the one before could not do it, before the client has seen any content."""

    upstream: str = setting(doc="Name of an upstream.")
    model: str | None = setting(default=None, doc="The model's name there; without it the one that was asked for.")
    on: tuple[FallbackClass, ...] = setting(default=("unavailable", "overloaded"), doc="What must have gone wrong: unavailable (no endpoint, not reached, 5xx, broken off, key refused), overloaded (429, 503, 529, no room), context_length (the prompt does not fit), refused_content (the provider's filter), any.", example=["any"])

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.on:
            yield "on", "needs at least one class"


@section(shorthand="upstream")
class Mirror:
    """A copy of requests to another upstream, whose answers are thrown away. The client never waits for it.

    A copy is not retried, and not sent at all while that upstream has no room.
    """

    upstream: str = setting(doc="Name of an upstream.")
    share: float = setting(default=1.0, doc="Share of the requests that is copied, from 0 to 1.", minimum=0, maximum=1, example=0.05)


@section()
class Canary:
    """Another upstream that takes a part of a route's requests: by chance, or with `balance: consistent_hash` of the
    route's upstream by what belongs together, so that who has met the canary meets it again."""

    upstream: str = setting(doc="Name of an upstream.")
    weight: float = setting(doc="Of 100 requests, how many it takes.", minimum=0, maximum=100, example=5)


def fallback_faults(upstream: str, model: str | None, fallbacks: Iterable[Fallback]) -> Iterable[tuple[str, str]]:
    """Faults of a list of fallbacks of a route or model that begins at `upstream`: going round in a circle."""
    seen = {(upstream, model): "where the request was first"}
    for index, one in enumerate(fallbacks):
        target = (one.upstream, one.model or model)
        if target in seen:
            yield f"fallbacks[{index}]", f"leads back to {seen[target]}"
        seen.setdefault(target, f"fallbacks[{index}]")


def share_faults(upstream: str, mirror: Mirror | None, canary: Canary | None) -> Iterable[tuple[str, str]]:
    """Faults of a route's mirror and canary: pointing at the route's own upstream, or at each other's."""
    if mirror is not None and mirror.upstream == upstream:
        yield "mirror.upstream", "is where the request goes already"
    elif mirror is not None and canary is not None and mirror.upstream == canary.upstream:
        yield "mirror.upstream", "is where the canary's requests go already"
    if canary is not None and canary.upstream == upstream:
        yield "canary.upstream", "is the route's own upstream"
