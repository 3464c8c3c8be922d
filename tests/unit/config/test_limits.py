"""`limits:` of upstreams, endpoints, routes and consumers."""

from __future__ import annotations

import pathlib

import pytest

from relayd.schema import Duration
from tests.unit.config.section_case import accepted, faults


def upstream(words: str) -> str:
    return f"{{u: {{endpoints: 'http://127.0.0.1:1', {words}}}}}"


def test_without_limits_nothing_is_limited_and_nothing_waits() -> None:
    config, _ = accepted(upstreams=upstream("host: client"))
    limits = config.upstreams["u"].limits
    assert (limits.requests, limits.queue, limits.queue_timeout, limits.ageing) == (0, 0, Duration(30), Duration(10))


def test_one_number_is_the_number_of_requests() -> None:
    config, _ = accepted(upstreams=upstream("limits: 6"))
    assert config.upstreams["u"].limits.requests == 6


def test_every_place_takes_limits(tmp_path: pathlib.Path) -> None:
    key = tmp_path / "k"
    key.write_text("sk-1")
    key.chmod(0o600)
    config, _ = accepted(
        upstreams="{u: {endpoints: [{url: 'http://127.0.0.1:1', limits: 2}], limits: {queue: 4, queue_timeout: off}}}",
        routes="[{name: r, upstream: u, limits: {requests: 3, queue: 5}}]",
        consumers=f"{{c: {{bearer: {{file: {key}}}, priority: -3, limits: {{requests: 1, queue: 2, ageing: 500ms}}}}}}",
    )
    assert config.upstreams["u"].endpoints[0].limits.requests == 2
    assert (config.upstreams["u"].limits.queue, config.upstreams["u"].limits.queue_timeout) == (4, Duration(0))
    assert (config.routes[0].limits.requests, config.routes[0].limits.queue) == (3, 5)
    assert (config.consumers["c"].priority, config.consumers["c"].limits.ageing) == (-3, 0.5)


@pytest.mark.parametrize(("words", "key"), [
    ("requests: -1", "requests"), ("requests: many", "requests"), ("requests: 1000000000", "requests"), ("queue: -1", "queue"),
    ("queue: 1.5", "queue"), ("queue_timeout: 30", "queue_timeout"), ("queue_timeout: forever", "queue_timeout"),
    ("ageing: 0", "ageing"), ("ageing: 1d", "ageing"), ("slots: 3", "slots"),
])
def test_an_absurd_limit_is_a_fault(words: str, key: str) -> None:
    assert list(faults(upstreams=upstream(f"limits: {{{words}}}"))) == [f"upstreams.u.limits.{key}"]


def test_an_endpoint_has_no_queue_of_its_own() -> None:
    found = faults(upstreams="{u: {endpoints: [{url: 'http://127.0.0.1:1', limits: {requests: 2, queue: 4}}]}}")
    assert list(found) == ["upstreams.u.endpoints[0].limits.queue"]


@pytest.mark.parametrize(("sections", "path"), [
    ({"upstreams": upstream("limits: {queue: 4}")}, "upstreams.u.limits.queue"),
    ({"routes": "[{name: r, respond: 200, limits: {queue: 4}}]"}, "routes[0].limits.queue"),
    ({"upstreams": upstream("limits: {requests: 1, queue: 5000}")}, "upstreams.u.limits.queue"),
])
def test_a_queue_that_is_never_of_use_is_warned_of(sections: dict[str, str], path: str) -> None:
    _, warnings = accepted(**sections)
    assert path in warnings


def test_a_queue_before_limited_endpoints_is_of_use() -> None:
    _, warnings = accepted(upstreams="{u: {endpoints: [{url: 'http://127.0.0.1:1', limits: 2}], limits: {queue: 4}}}")
    assert "nothing waits" not in str(warnings)
