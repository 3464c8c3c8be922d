"""Memories for what a dialect keeps between requests: one that keeps everything, and one that keeps nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from relayd.wire.json_steps import Steps


class Kept:
    """Keeps everything, as a store does: plain data, and never the object itself."""

    must_fetch = False

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return json.loads(json.dumps(self.values.get(key)))

    def get_steps(self, key: str) -> Steps[Any]:
        yield
        return self.get(key)

    def fetch_steps(self, keys: Iterable[str]) -> Steps[None]:
        yield

    def put(self, key: str, value: Any) -> None:
        self.values[key] = json.loads(json.dumps(value))

    def put_steps(self, key: str, value: Any) -> Steps[None]:
        yield
        self.put(key, value)

    def delete(self, key: str) -> bool:
        return self.values.pop(key, None) is not None

    def lost(self, key: str) -> str:
        return ""


class Forgetful:
    """Keeps nothing: what a first request finds."""

    must_fetch = False

    def get(self, key: str) -> Any:
        return None

    def get_steps(self, key: str) -> Steps[Any]:
        yield
        return self.get(key)

    def fetch_steps(self, keys: Iterable[str]) -> Steps[None]:
        yield

    def put(self, key: str, value: Any) -> None:
        return None

    def put_steps(self, key: str, value: Any) -> Steps[None]:
        yield
        self.put(key, value)

    def delete(self, key: str) -> bool:
        return False

    def lost(self, key: str) -> str:
        return ""
