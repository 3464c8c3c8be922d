"""The compiled form of `cache:`."""

from __future__ import annotations

from relayd.plan.plan import CachePolicy
from tests.unit.config.test_cache import BASE
from tests.unit.proxy.fakes import plan_of


def policy_of(more: str) -> CachePolicy | None:
    return plan_of(BASE + f"routes: [{{name: llm, upstream: provider{more}}}]\n").routes[0].cache


def test_a_route_without_a_cache_has_no_policy() -> None:
    assert policy_of("") is None


def test_fields_are_compared_without_case_and_once() -> None:
    found = policy_of(", cache: {vary: [X-B, x-a, X-A], ttl: 5s, when: always, shared: true}")
    assert found is not None and found.vary == (b"x-a", b"x-b")
    assert (found.ttl_s, found.size_bytes, found.largest_bytes, found.shared, found.when) == (5.0, 64 << 20, 1 << 20, True, "always")


def test_edits_of_requests_change_the_version() -> None:
    versions = set()
    for more in ("", ", request_headers: {set: {anthropic-beta: x}}", ", request_headers: {remove: [X]}", ", protocol: openai_responses"):
        found = policy_of(f", cache: {{}}{more}")
        assert found is not None
        versions.add(found.version)
    assert len(versions) == 4
    longer = policy_of(", cache: {ttl: 9h}")
    assert longer is not None and longer.version in versions, "a longer time to live keeps the answers"
