"""The members of requests that each AI front reads, found by running its reader: relayd/server/pages/fronts.json.

`python3 -m tests.docs.fronts > relayd/server/pages/fronts.json` regenerates it. A member is what the reader looks up; its
types are those that the reader does not refuse; it is required if a request without it is refused.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from relayd.protocols.dialect import Dialect, Refused
from tests.docs.pairs import ask_in, fronts
from tests.docs.samples import PLAIN

VALUES: Mapping[str, tuple[Any, ...]] = {
    "string": ("x", "auto", "7", "none", "low", "text"), "integer": (1, 2000), "number": (0.5,), "boolean": (True, False),
    "array": ([],), "object": ({}, {"type": "auto"}, {"type": "text"}, {"type": "disabled"}),
}


class Recorder(dict[str, Any]):
    """Members that note which of them were looked up."""

    def __init__(self, members: Mapping[str, Any], names: dict[str, None]) -> None:
        super().__init__(members)
        self.names = names

    def get(self, key: str, default: Any = None) -> Any:
        self.names[key] = None
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.names[key] = None
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.names[str(key)] = None
        return super().__contains__(key)


def refusal(dialect: Dialect, members: Mapping[str, Any]) -> Refused | None:
    """Why a request is refused, None if it is not."""
    assert dialect.read_request is not None
    try:
        dialect.read_request(json.dumps(members).encode(), ask_in(dialect))
    except Refused as refused:
        return refused
    return None


def looked_up(dialect: Dialect) -> list[str]:
    """The members that the reader looks up in a body."""
    names: dict[str, None] = {}
    members = Recorder(PLAIN[dialect.name], names)
    assert dialect.read_steps is not None
    with contextlib.suppress(Refused):
        for _ in dialect.read_steps(members, ask_in(dialect)):
            pass
    return list(names)


def types_of(dialect: Dialect, name: str) -> list[str]:
    """The JSON types of a member that the reader does not refuse."""
    plain = PLAIN[dialect.name]
    found = [kind for kind, values in VALUES.items() if any(is_readable(dialect, {**plain, name: one}, name) for one in values)]
    if "number" in found and "integer" in found:
        found.remove("integer")
    return found


def is_readable(dialect: Dialect, members: Mapping[str, Any], name: str) -> bool:
    """False if a request is refused because of the type of this member; its value may be refused."""
    refused = refusal(dialect, members)
    return refused is None or refused.param != name or refused.code != "invalid_type"


def schema_of(dialect: Dialect) -> dict[str, Any]:
    """The schema of a request to this front."""
    plain = PLAIN[dialect.name]
    names = sorted(looked_up(dialect) or plain)
    properties: dict[str, Any] = {}
    for name in names:
        types = types_of(dialect, name)
        properties[name] = {"type": types[0] if len(types) == 1 else types} if 0 < len(types) < len(VALUES) - 1 else {}
    required = [
        name for name in names if refusal(dialect, {key: value for key, value in plain.items() if key != name}) is not None
    ]
    return {"type": "object", "required": required, "properties": properties, "example": dict(plain)}


def page() -> str:
    """The file."""
    found = {one.name: {"title": one.title, "paths": list(one.paths), "schema": schema_of(one)} for one in fronts()}
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
