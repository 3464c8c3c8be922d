"""The decision after an attempt: deliver, retry, fall back. No loop, no socket, no clock."""

from __future__ import annotations

import pytest

from relayd.errors import ExchangeError
from relayd.plan.plan import Target
from relayd.proxy.retry_loop import RESENDS, AttemptResult, Deliver, Fallback, Retry, RetryLoop
from relayd.upstream.classify import classify
from relayd.upstream.spec import EndpointSpec, RetrySpec, UpstreamSpec
from relayd.upstream.upstream import Upstream
from relayd.wire.response import ResponseHead


def upstream(name: str, *endpoints: str, attempts: int = 1, on: tuple[str, ...] = (), **options: bool) -> Upstream:
    retries = RetrySpec(attempts=attempts, on=frozenset(on), backoff_s=0.5, **options)
    specs = tuple(EndpointSpec(f"http://{one}", "", one) for one in endpoints or ("one.test:80",))
    return Upstream(UpstreamSpec(name=name, endpoints=specs, retries=retries), chance=lambda: 0.5)


def result(status: int = 0, code: str = "connect_failed", *, sent: bool = True, replayable: bool = True) -> AttemptResult:
    response = ResponseHead(status, b"") if status else None
    fault = ExchangeError("upstream_refused" if status else code)
    classification = classify("" if status else code, status)
    return AttemptResult(fault, classification, response, b"", None, sent, replayable)


def attempt_started(loop: RetryLoop) -> None:
    lease = loop.target.upstream.acquire(None, loop.tried)
    assert lease is not None
    loop.attempt_started(lease.endpoint)
    lease.release(None)


def test_without_retries_the_first_result_is_delivered() -> None:
    loop = RetryLoop((Target(upstream("a")),))
    attempt_started(loop)
    found = result(500)
    assert loop.decide(found, b"GET", None, 0.0) == Deliver(found) and loop.trail == ("one.test:80 500",)


def test_another_endpoint_is_tried_at_once_and_the_same_one_after_a_back_off() -> None:
    loop = RetryLoop((Target(upstream("a", "one.test:80", "two.test:80", attempts=3, on=("5xx",))),))
    attempt_started(loop)
    assert loop.decide(result(500), b"GET", None, 0.0) == Retry(0.0)
    attempt_started(loop)
    assert [one.label for one in loop.tried] == ["one.test:80", "two.test:80"]
    assert loop.decide(result(500), b"GET", None, 0.0) == Retry(0.5), "the second back-off is half of twice 500 ms"
    attempt_started(loop)
    assert isinstance(loop.decide(result(500), b"GET", None, 0.0), Deliver)


@pytest.mark.parametrize(("method", "sent", "again"), [
    (b"GET", True, True), (b"POST", True, False), (b"POST", False, True),
])
def test_what_an_endpoint_may_have_acted_on_is_not_sent_twice(method: bytes, sent: bool, again: bool) -> None:
    loop = RetryLoop((Target(upstream("a", attempts=2, on=("closed",))),))
    attempt_started(loop)
    decision = loop.decide(result(code="upstream_closed", sent=sent), method, None, 0.0)
    assert isinstance(decision, Retry if again else Deliver)


def test_what_was_refused_unprocessed_goes_again_twice_as_if_it_had_not_been_sent() -> None:
    loop = RetryLoop((Target(upstream("a")), Target(upstream("b"), on=frozenset(("unavailable",)))))
    refused = result(code="upstream_unprocessed", sent=False)
    for _ in range(RESENDS):
        attempt_started(loop)
        assert loop.decide(refused, b"POST", None, 0.0) == Retry(0.0)
        assert (loop.attempts, loop.tried) == (0, ())
    attempt_started(loop)
    assert loop.decide(refused, b"POST", None, 0.0) == Fallback()
    assert loop.trail == ("one.test:80 upstream_unprocessed",) * 3


def test_what_was_refused_unprocessed_but_cannot_be_sent_again_is_delivered() -> None:
    loop = RetryLoop((Target(upstream("a", attempts=3, on=("closed",))),))
    attempt_started(loop)
    refused = result(code="upstream_unprocessed", sent=False, replayable=False)
    assert loop.decide(refused, b"POST", None, 0.0) == Deliver(refused)


def test_a_body_that_cannot_be_sent_again_ends_the_loop() -> None:
    loop = RetryLoop((Target(upstream("a", attempts=2, on=("connect",))), Target(upstream("b"), on=frozenset(("any",)))))
    attempt_started(loop)
    assert isinstance(loop.decide(result(replayable=False), b"GET", None, 0.0), Deliver)


def test_a_back_off_that_ends_behind_the_deadline_is_not_begun() -> None:
    loop = RetryLoop((Target(upstream("a", attempts=2, on=("5xx",))),))
    attempt_started(loop)
    assert isinstance(loop.decide(result(500), b"GET", 0.1, 0.0), Deliver)


def test_a_fallback_takes_its_own_classes_only_and_begins_anew() -> None:
    first, second, third = upstream("a"), upstream("b"), upstream("c")
    loop = RetryLoop((
        Target(first), Target(second, on=frozenset(("overloaded",))), Target(third, on=frozenset(("unavailable",)))))
    attempt_started(loop)
    assert loop.decide(result(500), b"POST", None, 0.0) == Fallback()
    assert loop.target.upstream is third and loop.attempts == 0 and loop.tried == ()
    attempt_started(loop)
    found = result(500)
    assert loop.decide(found, b"POST", None, 0.0) == Deliver(found), "what was passed over stays passed over"


def test_no_endpoint_falls_back_or_delivers_what_was_last() -> None:
    loop = RetryLoop((Target(upstream("a")), Target(upstream("b"), on=frozenset(("unavailable",)))))
    assert loop.no_endpoint() == Fallback() and loop.no_endpoint() == Deliver(None)
    assert loop.trail == ("a no_endpoint", "b no_endpoint")


def test_only_a_full_upstream_is_passed_by_a_fallback() -> None:
    targets = (Target(upstream("a")), Target(upstream("b"), on=frozenset(("overloaded",))))
    assert RetryLoop(targets).no_permit("queue_full", at_upstream=False) == Deliver(None)
    assert RetryLoop(targets).no_permit("queue_full", at_upstream=True) == Fallback()


def test_whether_an_attempt_may_be_followed_is_known_before_it_ends() -> None:
    loop = RetryLoop((Target(upstream("a", attempts=2)),))
    attempt_started(loop)
    assert loop.may_retry()
    attempt_started(loop)
    assert not loop.may_retry()
