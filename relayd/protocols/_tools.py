"""The tools of a request as JSON for an endpoint: written once, where they come with every turn of a conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relayd.protocols import _json
from relayd.protocols.canon import SharedTools, Tool


def write_tools(tools: tuple[Tool, ...], dialect: str, write: Callable[[Tool], dict[str, Any]]) -> bytes:
    """The JSON list of what `write` makes of each tool; it may depend on nothing but the tool and this dialect."""
    if not isinstance(tools, SharedTools):
        return _json.write([write(tool) for tool in tools])
    known = tools.written.get(dialect)
    if known is None:
        known = tools.written[dialect] = _json.write([write(tool) for tool in tools])
    return known


def with_tools(body: dict[str, Any], tools: bytes | None) -> bytes:
    """The JSON of a request's body, with these tools if there are any."""
    return _json.write(body) if tools is None else _json.write_with(body, "tools", tools)
