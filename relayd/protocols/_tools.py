"""The tools of a request as JSON for an endpoint, encoded once for tools that come with every turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from relayd.protocols import _json
from relayd.protocols._schema_keywords import strip_unknown_keywords
from relayd.protocols.canon import SharedTools, Tool
from relayd.protocols.dialect import run_steps
from relayd.wire.json_steps import Steps, write_steps


def write_tools(tools: tuple[Tool, ...], dialect: str, write: Callable[[Tool], dict[str, Any]]) -> bytes:
    """The JSON list of the tools, each written by `write`, whose result may depend only on the tool and this dialect.

    Schemas that `write` receives have known keywords only.
    """
    return run_steps(tool_steps(tools, dialect, write, False))


def tool_steps(
    tools: tuple[Tool, ...], dialect: str, write: Callable[[Tool], dict[str, Any]], large: bool
) -> Steps[bytes]:
    """The same, in steps if the request is large."""
    encoded = tools.encoded.get(dialect) if isinstance(tools, SharedTools) else None
    if encoded is None:
        objects = []
        for tool in tools:
            objects.append(write(_with_known_keywords(tool)))
            if large:
                yield
        encoded = (yield from write_steps(objects)) if large else _json.write(objects)
        if isinstance(tools, SharedTools):
            tools.encoded[dialect] = encoded
    return encoded


def _with_known_keywords(tool: Tool) -> Tool:
    if tool.parameters is None:
        return tool
    parameters = strip_unknown_keywords(tool.parameters)
    return tool if parameters is tool.parameters else replace(tool, parameters=parameters)


def with_tools(body: dict[str, Any], tools: bytes | None) -> bytes:
    """The JSON of a request's body, with these tools if it has any."""
    return run_steps(body_steps(body, tools, False))


def body_steps(body: dict[str, Any], tools: bytes | None, large: bool) -> Steps[bytes]:
    """The same, in steps if the request is large."""
    if not large:
        return _json.write(body) if tools is None else _json.write_with(body, "tools", tools)
    objects = yield from write_steps(body)
    return objects if tools is None else b'%b,"tools":%b}' % (objects[:-1], tools)
