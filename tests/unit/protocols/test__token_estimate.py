"""The estimate of a request's tokens, which the dialects' own tests ask through their paths."""

from __future__ import annotations

from relayd.protocols._token_estimate import count_steps, input_tokens
from relayd.protocols.canon import Format, Message, Request, Text, Tool


def test_every_part_of_a_request_counts() -> None:
    names = Request("m", (Message("user", (Text("x" * 40),)),))
    assert input_tokens(names) == 14
    more = Request("m", names.messages, tools=(Tool("f", "Finds.", {"a": 1}),), format=Format("json_schema", schema={"b": 2}))
    assert input_tokens(more) == 14 + (4 + 1 + 2 + 2) + 2
    assert input_tokens(Request("m", (Message("user", (Text("日本" * 4),)),))) == 4 + 6


def test_a_large_schema_is_counted_in_steps() -> None:
    large = {"enum": [[], {}, "a"] * 10_000}
    for request in (Request("m", (), tools=(Tool("f", "", large),)), Request("m", (), format=Format("json_schema", schema=large))):
        assert sum(1 for _ in count_steps(request)) > 20
