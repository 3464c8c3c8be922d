"""`breaker:`, `retries:`, `health:`, `hash:`, and the sections for fallbacks, mirrors and canaries."""

from __future__ import annotations

import pytest

from relayd.config.resilience import (
    FAULTS,
    Canary,
    Fallback,
    Mirror,
    Retries,
    fallback_faults,
    share_faults,
    status_range,
)
from relayd.config.upstream import Upstream
from relayd.schema import Duration
from relayd.upstream import classify, fallback, retry
from tests.unit.config.section_case import accepted, faults


def upstream(words: str) -> tuple[Upstream, dict[str, str]]:
    config, warnings = accepted(upstreams=f"{{u: {{endpoints: ['https://a', 'https://b'], {words}}}}}")
    return config.upstreams["u"], warnings


def refused(words: str) -> list[str]:
    return [path.removeprefix("upstreams.u.") for path in faults(upstreams=f"{{u: {{endpoints: 'https://a', {words}}}}}")]


def test_a_breaker_is_as_short_as_one_word() -> None:
    made, warnings = upstream("breaker: off")
    assert made.breaker is not None and not made.breaker.enabled and not warnings
    made, _ = upstream("breaker: {failures: 3, rate: 0.5, open_for: 10m}")
    assert made.breaker is not None and (made.breaker.failures, made.breaker.rate, made.breaker.open_for) == (3, 0.5, Duration(600))
    assert upstream("balance: random")[0].breaker is None


@pytest.mark.parametrize(("words", "path"), [
    ("breaker: {failures: off}", "breaker.failures"),
    ("breaker: {rate: 50}", "breaker.rate"),
    ("breaker: {probes: 0}", "breaker.probes"),
    ("breaker: {open_for: 0}", "breaker.open_for"),
    ("retries: {attempts: 1000000}", "retries.attempts"),
    ("retries: {on: [teapot]}", "retries.on[0]"),
    ("retries: {on: ['200']}", "retries.on[0]"),
    ("retries: {budget: {share: -1}}", "retries.budget.share"),
    ("health: {status: [2xx, 9xx]}", "health.status[1]"),
    ("health: {status: '300-200'}", "health.status[0]"),
    ("health: {status: []}", "health.status"),
    ("health: {path: health}", "health.path"),
    ("health: {kind: icmp}", "health.kind"),
    ("balance: fastest", "balance"),
    ("balance: consistent_hash, hash: {by: [header]}", "hash.by[0]"),
    ("balance: consistent_hash, hash: {by: ['header:a b']}", "hash.by[0]"),
    ("balance: consistent_hash, hash: {bound: 0.5}", "hash.bound"),
])
def test_what_cannot_be_meant_is_a_fault_at_its_place(words: str, path: str) -> None:
    assert refused(words) == [path]


def test_a_hash_without_its_balance_is_warned_of() -> None:
    assert "consistent_hash" in upstream("hash: {by: consumer}")[1]["upstreams.u.hash"]


def test_retries_are_as_short_as_a_number() -> None:
    made, warnings = upstream("retries: 3")
    assert made.retries is not None and made.retries.attempts == 3 and not warnings
    made, _ = upstream("retries: {attempts: 4, backoff: 500ms, on: [connect, 502, 504], budget: 0.5}")
    assert made.retries is not None and made.retries.on == ("connect", "502", "504")
    assert made.retries.budget.share == 0.5


def test_the_words_for_faults_are_the_ones_that_retries_know() -> None:
    assert FAULTS == retry.FAULT_NAMES and set(Retries().on) == set(retry.DEFAULT_FAULTS)
    assert set(classify.ENDPOINT_CODES.values()) <= set(FAULTS)


def test_the_classes_of_fallbacks_are_the_ones_that_are_told_apart() -> None:
    for word in fallback.CLASSES:
        assert Fallback(upstream="b", on=(word,)).on == (word,)  # type: ignore[arg-type]
    assert set(Fallback(upstream="b").on) == fallback.FallbackSpec("b").on


def test_a_check_that_costs_money_is_warned_of() -> None:
    assert "money" in upstream("health: /v1/chat/completions")[1]["upstreams.u.health.path"]
    assert not upstream("health: /health")[1]
    assert "interval" in upstream("health: {timeout: 20s}")[1]["upstreams.u.health.timeout"]


@pytest.mark.parametrize(("text", "expected"), [
    ("2xx", (200, 299)), ("204", (204, 204)), ("200-399", (200, 399)), ("399-200", None), ("6xx", None), ("2xx-3xx", None),
    ("20", None), ("", None),
])
def test_a_status_is_one_a_class_or_a_range(text: str, expected: tuple[int, int] | None) -> None:
    assert status_range(text) == expected


def test_fallbacks_that_lead_back_are_faults() -> None:
    chain = [Fallback(upstream="b"), Fallback(upstream="a", model="small"), Fallback(upstream="b"), Fallback(upstream="a")]
    assert [path for path, _ in fallback_faults("a", None, chain)] == ["fallbacks[2]", "fallbacks[3]"]
    assert list(fallback_faults("a", "m", [Fallback(upstream="a", model="m")])) == [
        ("fallbacks[0]", "leads back to the first target of the request")]
    assert not list(fallback_faults("a", "m", [Fallback(upstream="a", model="n"), Fallback(upstream="b")]))


def test_a_fallback_takes_some_class() -> None:
    assert list(Fallback(upstream="b", on=()).check()) and not list(Fallback(upstream="b").check())


def test_a_mirror_and_a_canary_point_elsewhere() -> None:
    assert [path for path, _ in share_faults("a", Mirror(upstream="a"), Canary(upstream="a", weight=5.0))] == [
        "mirror.upstream", "canary.upstream"]
    assert not list(share_faults("a", Mirror(upstream="b"), None)) and not list(share_faults("a", None, None))


def test_several_keys_are_a_list_and_each_is_there_once(tmp_path: pytest.TempPathFactory) -> None:
    for name in "ab":
        (tmp_path / name).write_text(f"sk-{name}")  # type: ignore[operator]
        (tmp_path / name).chmod(0o600)  # type: ignore[operator]
    made, warnings = upstream(f"auth: {{bearer: [{{file: {tmp_path}/a}}, {{file: {tmp_path}/b}}]}}")
    assert made.auth is not None and [key.reveal() for key in made.auth.bearer] == ["sk-a", "sk-b"] and not warnings
    assert refused(f"auth: {{bearer: [{{file: {tmp_path}/a}}, {{file: {tmp_path}/a}}]}}") == ["auth.bearer[1]"]
    assert refused(f"auth: {{header: {{name: x-api-key, value: [{{file: {tmp_path}/a}}, {{file: {tmp_path}/a}}]}}}}") == [
        "auth.header.value[1]"]
    assert refused("auth: {bearer: []}") == ["auth.bearer"]


def test_weight_and_priority_are_of_an_address() -> None:
    config, _ = accepted(upstreams="{u: {endpoints: [{url: 'https://a', weight: 3, priority: 1}, 'https://b']}}")
    first, second = config.upstreams["u"].endpoints
    assert (first.weight, first.priority, second.weight, second.priority) == (3, 1, 1, None)
    assert list(faults(upstreams="{u: {endpoints: [{url: 'https://a', weight: 0}]}}")) == ["upstreams.u.endpoints[0].weight"]


def test_a_mirror_onto_the_canary_is_a_fault() -> None:
    assert [path for path, _ in share_faults("a", Mirror(upstream="b"), Canary(upstream="b", weight=5.0))] == ["mirror.upstream"]
    assert not list(share_faults("a", Mirror(upstream="c"), Canary(upstream="b", weight=5.0)))
