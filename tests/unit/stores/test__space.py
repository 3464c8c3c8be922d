"""One name space of a store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relayd.protocols.dialect import run_steps
from relayd.stores._space import Space
from relayd.wire.json_steps import Steps


class Notes:
    """A store that writes down what it is asked."""

    must_fetch = False

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def get(self, space: str, key: str, ttl_s: float) -> Any:
        self.asked.append(("get", space, key, ttl_s))
        return {"a": 1}

    def text_steps(self, space: str, key: str, ttl_s: float) -> Steps[str | None]:
        self.asked.append(("text_steps", space, key, ttl_s))
        yield
        return '{"a":1}'

    def fetch_steps(self, space: str, keys: Iterable[str], ttl_s: float) -> Steps[None]:
        self.asked.append(("fetch_steps", space, *keys, ttl_s))
        yield

    def put(self, space: str, key: str, value: Any, ttl_s: float) -> None:
        self.asked.append(("put", space, key, value, ttl_s))

    def put_text(self, space: str, key: str, text: str, ttl_s: float, most_bytes: int = 0) -> None:
        self.asked.append(("put_text", space, key, text, ttl_s))

    def swap_steps(self, space: str, key: str, expected: str | None, text: str | None, ttl_s: float) -> Steps[bool]:
        self.asked.append(("swap_steps", space, key, expected, text, ttl_s))
        yield
        return True

    def delete(self, space: str, key: str) -> bool:
        self.asked.append(("delete", space, key))
        return True

    def lost(self, space: str, key: str) -> str:
        self.asked.append(("lost", space, key))
        return "why"


def test_a_space_asks_its_store_under_its_own_name() -> None:
    notes = Notes()
    space = Space(notes, "team", 60.0)
    space.put("k", [1])
    assert space.get("k") == {"a": 1} and space.delete("k") is True
    assert space.lost("k") == "why"
    assert run_steps(space.swap_steps("k", None, "1")) is True
    assert not space.must_fetch
    run_steps(space.fetch_steps(["k", "l"]))
    assert notes.asked.pop() == ("fetch_steps", "team", "k", "l", 60.0)
    assert notes.asked == [
        ("put", "team", "k", [1], 60.0), ("get", "team", "k", 60.0), ("delete", "team", "k"), ("lost", "team", "k"),
        ("swap_steps", "team", "k", None, "1", 60.0),
    ]
