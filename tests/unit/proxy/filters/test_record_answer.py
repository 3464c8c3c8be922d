"""What is recorded of an answer, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from relayd.plan.plan import CachePolicy, Target
from relayd.proxy.cache_use import CacheUse
from relayd.proxy.cached_answer import MOST_PIECES
from relayd.proxy.filters.record_answer import RecordAnswer
from relayd.wire.cache_control import CacheControl
from relayd.wire.response import ResponseHead, parse_response
from tests.unit.config.test_cache import BASE
from tests.unit.proxy.fakes import plan_of

ROUTE = plan_of(BASE + "routes: [{name: llm, upstream: provider, cache: {}}]\n").routes[0]
TARGET = ROUTE.targets[0]
POLICY = CachePolicy(60.0, 1 << 20, 1000, False, "always", (), "")


class Kept:
    """Takes what was recorded."""

    def __init__(self) -> None:
        self.answers: list[tuple[list[int], bytes, str]] = []
        self.dropped: list[str] = []

    def keep(self, sizes: Sequence[int], body: bytes, content_type: str) -> None:
        self.answers.append((list(sizes), body, content_type))


def recorder(kept: Kept | None, *lines: bytes, target: Target = TARGET, status: int = 200) -> tuple[RecordAnswer, ResponseHead]:
    head = parse_response(b"\r\n".join([b"HTTP/1.1 %d OK" % status, b"Content-Type: application/json", *lines, b"", b""]))
    use = CacheUse(POLICY, CacheControl(), "ann", TARGET)
    use.key, use.result = "ab", "miss"
    if kept is not None:
        use.on_complete, use.on_dropped = kept.keep, kept.dropped.append
    return RecordAnswer(use, target, head), head


def test_a_complete_answer_is_kept_in_its_pieces() -> None:
    kept = Kept()
    filter_, head = recorder(kept)
    assert [filter_.process(piece) for piece in (b"ab", b"", b"c")] == [b"ab", b"", b"c"]
    assert filter_.finish() == b"" and not kept.answers, "the end of the filters is not the end of the response"
    assert filter_.head(head).keep[-1] == b'Cache-Status: relayd; fwd=miss; key="ab"\r\n'
    assert filter_.head(head).keep.count(b'Cache-Status: relayd; fwd=miss; key="ab"\r\n') == 1
    assert filter_.trailer() == b"" and kept.answers == [([2, 1], b"abc", "application/json")]


def test_an_answer_that_is_too_large_is_dropped_at_once() -> None:
    kept = Kept()
    filter_, head = recorder(kept)
    filter_.process(b"x" * 600)
    assert filter_.process(b"x" * 600) == b"x" * 600 and kept.dropped == ["too_large"]
    filter_.process(b"x")
    filter_.head(head)
    filter_.trailer()
    assert not kept.answers and kept.dropped == ["too_large"]


def test_the_number_of_pieces_is_bounded() -> None:
    kept = Kept()
    filter_, head = recorder(kept)
    filter_._use.policy = CachePolicy(60.0, 1 << 20, 100_000, False, "always", (), "")
    for _ in range(MOST_PIECES + 5):
        filter_.process(b"x")
    filter_.head(head)
    filter_.trailer()
    sizes, body, _ = kept.answers[0]
    assert len(sizes) == MOST_PIECES and len(body) == MOST_PIECES + 5


@pytest.mark.parametrize(("lines", "change"), [
    ((b"Content-Encoding: gzip",), {}), ((b"Cache-Control: private, no-store",), {}), ((), {"status": 206}),
    ((), {"target": Target(TARGET.upstream, "other")}),
], ids=["coding", "no-store", "status", "target"])  # fmt: skip
def test_what_is_never_recorded(lines: tuple[bytes, ...], change: dict[str, Any]) -> None:
    kept = Kept()
    filter_, head = recorder(kept, *lines, **change)
    assert filter_.process(b"abc") == b"abc"
    assert filter_.head(head).keep[-1].startswith(b"Cache-Status: ")
    assert filter_.trailer() == b"" and not kept.answers


def test_a_bypass_is_told_and_not_recorded() -> None:
    filter_, head = recorder(None)
    filter_._use.result, filter_._use.reason = "bypass", "samples"
    filter_.process(b"x")
    assert filter_.head(head).keep[-1] == b"Cache-Status: relayd; fwd=bypass; detail=samples\r\n" and filter_.trailer() == b""
