"""The trace of an exchange: sampling, and what is kept."""

from __future__ import annotations

import pytest

from relayd.telemetry.trace import MAX_CHILDREN, AttemptTimes, Sampler, Trace, new_span_id, new_trace_id
from relayd.wire.trace_context import TraceParent

LOW, HIGH = "f" * 16 + "0" * 15 + "1", "0" * 15 + "1" + "f" * 16


def parent(flags: int) -> TraceParent:
    return TraceParent(LOW, "1" * 16, flags)


@pytest.mark.parametrize(("ratio", "trace_id", "samples"), [
    (0.0, LOW, False), (1.0, HIGH, True), (0.5, LOW, True), (0.5, HIGH, False), (0.5, "0" * 16 + "7" + "f" * 15, True), (0.5, "0" * 16 + "8" + "0" * 15, False),
])  # fmt: skip
def test_the_share_is_that_of_trace_ids(ratio: float, trace_id: str, samples: bool) -> None:
    assert Sampler(ratio).samples(trace_id, None) is samples


def test_the_caller_decides_unless_it_is_not_trusted() -> None:
    assert Sampler(0.0).samples(LOW, parent(1)) and not Sampler(1.0).samples(LOW, parent(0))
    assert not Sampler(0.0, follows_parent=False).samples(LOW, parent(1))
    assert Sampler(1.0, follows_parent=False).samples(LOW, parent(0))


def test_the_flags_say_what_was_decided_and_if_the_id_is_random() -> None:
    assert Trace(LOW, None, "", sampled=True).flags == 3 and Trace(LOW, None, "", sampled=False).flags == 2
    assert Trace(LOW, parent(1), "", sampled=True).flags == 1 and Trace(LOW, parent(2), "", sampled=False).flags == 2


def test_ids_have_their_length_and_differ() -> None:
    assert {len(new_trace_id()), len(new_span_id())} == {32, 16}
    assert len({new_span_id() for _ in range(100)}) == 100


def test_attempts_and_waits_are_bounded_and_an_attempt_ends_once() -> None:
    trace = Trace(LOW, None, "", sampled=True)
    for number in range(MAX_CHILDREN + 9):
        trace.add_attempt(AttemptTimes(str(number), "up", "e:1", "", "", 1.0, -1.0))
        trace.add_wait(1.0, 2.0)
    assert len(trace.attempts) == len(trace.waits) == MAX_CHILDREN
    trace.end_attempt(5.0, 503, "upstream_refused")
    trace.end_attempt(9.0, 200, "")
    last = trace.attempts[-1]
    assert (last.end_s, last.status, last.code) == (5.0, 503, "upstream_refused")


def test_an_unsampled_trace_keeps_nothing() -> None:
    trace = Trace(LOW, None, "", sampled=False)
    trace.add_wait(1.0, 2.0)
    trace.end_attempt(1.0, 200, "")
    assert not trace.waits and not trace.attempts
