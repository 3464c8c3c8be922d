"""A memory in which nothing is found or stored."""

from __future__ import annotations

from typing import Any

from relayd.protocols.dialect import Memory
from relayd.protocols.no_memory import NoMemory
from relayd.wire.json_steps import Steps


def result_of(steps: Steps[Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_what_is_stored_is_not_found() -> None:
    memory: Memory = NoMemory()
    memory.put("a", 1)
    result_of(memory.put_steps("b", 2))
    result_of(memory.fetch_steps(["a", "b"]))
    assert [memory.get(key) for key in "ab"] == [None, None] == [result_of(memory.get_steps(key)) for key in "ab"]
    assert not memory.delete("a") and not memory.lost("a") and not memory.must_fetch
