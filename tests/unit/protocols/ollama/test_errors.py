"""Ollama's error object."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.canon import Failure
from relayd.protocols.ollama import DIALECT
from relayd.protocols.ollama.errors import failure_in


def test_status_and_text_are_preserved_and_known_texts_get_a_code() -> None:
    body = b'{"error":"model \\"x\\" not found, try pulling it first"}'
    assert DIALECT.read_error(404, {}, body) == Failure(
        404, 'model "x" not found, try pulling it first', "model_not_found"
    )
    assert DIALECT.read_error(503, {"retry-after": "3"}, b'{"error":"server busy"}').retry_after_s == 3


def test_a_body_without_a_message_gets_relayds_message() -> None:
    for body in (b"", b"<html>", b"{}", b"null"):
        failure = DIALECT.read_error(500, {}, body)
        assert failure.status == 502 and failure.message


def test_an_error_is_written_as_ollama_writes_it() -> None:
    rendered = DIALECT.render_error(Failure(429, "Busy.", retry_after_s=1.2), "r")
    assert (rendered.status, json.loads(rendered.body)) == (429, {"error": "Busy."})
    assert dict(rendered.headers)["Retry-After"] == "2"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["error", "message", "code"]), inner),
    max_leaves=8,
)


@given(VALUES)
def test_any_value_is_read(value: object) -> None:
    failure = DIALECT.read_error(500, {}, json.dumps(value).encode())
    assert failure.message and 400 <= failure.status <= 599
    inner = failure_in(value)
    assert inner is None or inner.message
