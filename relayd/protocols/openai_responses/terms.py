"""What an answer must repeat or obey of its request; it travels from the reading to the renderer in Request.extra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relayd.protocols.canon import Request
from relayd.protocols.openai_responses.tools import Names

KEY = "_openai_responses"


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one request.

    `echo` is the request's share of the Response object; `items` the whole conversation as plain items, in order, for
    the store, empty where nothing is kept; `allowed` the endpoint's names of the only tools that may be called, None
    where there is no such limit. `kept_items` is for a compaction: the items that its answer repeats word for word;
    None for every other request.
    """

    echo: Mapping[str, Any]
    names: Names
    items: tuple[Mapping[str, Any], ...]
    allowed: frozenset[str] | None = None
    previous_response_id: str | None = None
    store: bool = True
    logprobs: bool = False
    proofs: bool = False
    kept_items: tuple[Mapping[str, Any], ...] | None = None


def terms_of(request: Request) -> Terms:
    """The terms of a request that this dialect has read."""
    terms = request.extra[KEY]
    assert isinstance(terms, Terms)
    return terms
