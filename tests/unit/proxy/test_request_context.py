"""The circumstances of a request, as dialects read them."""

from __future__ import annotations

from relayd.proxy.request_context import Fields, context_of
from relayd.stores.memory import Store
from tests.unit.proxy.fakes import head_for


def test_fields_are_found_by_their_lower_case_name_and_the_first_counts() -> None:
    fields = Fields(head_for("X-A: 1", "x-a: 2", "Anthropic-Version:  v "))
    assert fields["x-a"] == "1" and fields.get("anthropic-version") == "v" and fields.get("X-A") is None
    assert "host" in fields and len(fields) == 3 and list(fields) == ["host", "x-a", "anthropic-version"]


def test_a_context_has_the_path_and_the_query_as_text() -> None:
    memory = Store(10, 100_000, 60.0).space("a")
    context = context_of(head_for("X-A: 1", start="GET /v1/x?a=b HTTP/1.1"), b"id-1", memory, b"key")
    assert (context.method, context.path, context.query, context.request_id) == ("GET", "/v1/x", "a=b", "id-1")
    assert context.memory is memory and context.socket is None and context.headers["x-a"] == "1"
