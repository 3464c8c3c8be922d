"""`discovery:` of an upstream."""

from __future__ import annotations

from relayd.config.discovery import chosen
from relayd.schema import Duration
from tests.unit.config.section_case import accepted, faults

FILE = "file: {path: /etc/relayd/endpoints/ai.yaml}"


def test_a_discovery_is_one_kind_with_its_options() -> None:
    config, _ = accepted(upstreams=f"{{u: {{discovery: {{{FILE}, max_endpoints: 5}}}}}}")
    section = config.upstreams["u"].discovery
    assert section is not None and section.max_endpoints == 5
    kind, options = chosen(section)
    assert (kind, options.path, options.interval) == ("file", "/etc/relayd/endpoints/ai.yaml", Duration(1))


def test_exactly_one_kind_and_no_endpoints_beside_it() -> None:
    found = faults(
        upstreams=f"{{a: {{discovery: {{}}}}, b: {{discovery: {{max_endpoints: 3}}}}, "
        f"c: {{endpoints: ['http://c'], discovery: {{{FILE}}}}}, d: {{discovery: {{file: {{}}}}}}}}"
    )
    assert list(found) == [
        "upstreams.a.discovery", "upstreams.b.discovery", "upstreams.c.discovery", "upstreams.d.discovery.file.path"]
    assert "exactly one of" in found["upstreams.a.discovery"]


def test_a_queue_has_a_meaning_without_a_limit_of_requests() -> None:
    _, warnings = accepted(upstreams=f"{{u: {{discovery: {{{FILE}}}, limits: {{queue: 9}}}}}}")
    assert warnings == {}
