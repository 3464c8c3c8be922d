"""One name space of a store."""

from __future__ import annotations

from typing import Any

from relayd.stores._space import Space


class Notes:
    """A store that writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def get(self, space: str, key: str) -> Any:
        self.asked.append(("get", space, key))
        return {"a": 1}

    def text(self, space: str, key: str) -> str | None:
        self.asked.append(("text", space, key))
        return '{"a":1}'

    def put(self, space: str, key: str, value: Any) -> None:
        self.asked.append(("put", space, key, value))

    def put_text(self, space: str, key: str, text: str) -> None:
        self.asked.append(("put_text", space, key, text))

    def delete(self, space: str, key: str) -> bool:
        self.asked.append(("delete", space, key))
        return True

    def lost(self, space: str, key: str) -> str:
        self.asked.append(("lost", space, key))
        return "why"


def test_a_space_asks_its_store_under_its_own_name() -> None:
    notes = Notes()
    space = Space(notes, "team")
    space.put("k", [1])
    assert space.get("k") == {"a": 1} and space.delete("k") is True
    assert space.lost("k") == "why"
    assert notes.asked == [
        ("put", "team", "k", [1]), ("get", "team", "k"), ("delete", "team", "k"), ("lost", "team", "k"),
    ]
