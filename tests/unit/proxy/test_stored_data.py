"""Stored data that must be fetched: before a decision, and before a request is written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from relayd.plan.plan import Target
from relayd.protocols import registry
from relayd.protocols.canon import Message, Request, Text, ToolCall
from relayd.protocols.dialect import RequestContext, run_steps
from relayd.protocols.openai_responses.state import item_key, new_id
from relayd.proxy.stored_data import after_stored_keys, must_recall, recall_steps
from relayd.wire.json_steps import Steps
from tests.aids.memories import Kept

RESPONSES = registry.load("openai_responses")
REQUEST = Request(model="m", messages=(Message("user", (Text("go"),)), Message("assistant", (ToolCall("c1", "t", "{}"),))))


class Remote(Kept):
    """A memory that must be asked."""

    must_fetch = True

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def fetch_steps(self, keys: Iterable[str]) -> Steps[None]:
        self.fetched += keys
        yield


class Toward:
    """A target of a dialect."""

    def __init__(self, name: str) -> None:
        self.dialect = registry.load(name) if name else None


def toward(name: str) -> Target:
    return cast(Target, Toward(name))


def test_what_a_decision_looks_at_is_fetched_first() -> None:
    memory, identity, ran = Remote(), new_id("resp"), list[str]()
    context = RequestContext("GET", f"/v1/responses/{identity}", "", {}, "r", memory)

    def steps() -> Steps[None]:
        ran.append("steps")
        yield

    found = after_stored_keys(RESPONSES, None, context, steps())
    assert found is not None
    run_steps(found)
    assert memory.fetched == [item_key(identity)] and ran == ["steps"]
    alone = after_stored_keys(RESPONSES, None, context, None)
    assert alone is not None
    run_steps(alone)


def test_nothing_is_added_where_nothing_has_to_be_fetched() -> None:
    given: Any = iter(())
    context = RequestContext("GET", f"/v1/responses/{new_id('resp')}", "", {}, "r", Kept())
    assert after_stored_keys(RESPONSES, None, context, given) is given
    elsewhere = RequestContext("POST", "/v1/responses", "", {}, "r", Remote())
    assert after_stored_keys(RESPONSES, None, elsewhere, None) is None
    assert not must_recall(toward("gemini"), Kept()) and not must_recall(toward(""), Remote())


def test_what_a_writer_looks_at_is_fetched() -> None:
    memory = Remote()
    run_steps(recall_steps(toward("gemini"), REQUEST, memory))
    assert memory.fetched == ["thought_signature:c1"]
    run_steps(recall_steps(toward(""), REQUEST, memory))
    assert len(memory.fetched) == 1
