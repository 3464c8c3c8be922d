"""Settings of a request that its renderer needs; read_request passes them to the renderer in Request.extra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.dataclass import dataclass
from relayd.protocols.canon import Request
from relayd.protocols.openai_responses.tools import ToolNames

KEY = "_openai_responses"


@dataclass(frozen=True, slots=True)
class ResponseSettings:
    """The settings of one response.

    `echo` holds the members of the Response object that repeat the request. `items` is the whole conversation as plain
    items, in order, for the store; empty if nothing is stored. `allowed` holds the endpoint's names of the only tools
    that may be called; None means no limit. `encrypted_reasoning` is true if the client asked for `encrypted_content`.
    `retained_items` are the items that the answer to a compaction repeats unchanged; None for every other request.
    `echo_json` is the JSON of `echo` if it was written in steps, else empty.
    """

    echo: Mapping[str, Any]
    names: ToolNames
    items: tuple[Mapping[str, Any], ...]
    allowed: frozenset[str] | None = None
    previous_response_id: str | None = None
    store: bool = True
    logprobs: bool = False
    encrypted_reasoning: bool = False
    retained_items: tuple[Mapping[str, Any], ...] | None = None
    echo_json: bytes = b""


def settings_of(request: Request) -> ResponseSettings:
    """Return the settings of a request that this dialect read."""
    settings = request.extra[KEY]
    assert isinstance(settings, ResponseSettings)
    return settings
