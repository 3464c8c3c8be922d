"""An endpoint's own list of models: where it is asked for in each dialect, and what a page of it says.

Laws:
1. What is no list raises ValueError, whatever it is; single entries that make no sense are left out.
2. Names are as requests have them: without Gemini's `models/`, and only models that can be asked in a chat.
3. Names and their number are bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from relayd.protocols import _json

MOST_MODELS = 4096
LONGEST_NAME = 256
VERSION = b"anthropic-version: 2023-06-01"


@dataclass(frozen=True, slots=True)
class Page:
    """Names, and the query that asks for the next page; "" where this is the last."""

    names: tuple[str, ...]
    next: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a dialect's list is: `path` behind an API's base, the query of the first page, fields to send."""

    path: str
    query: str
    read: Callable[[Any], Page]
    fields: tuple[bytes, ...] = ()


def read_page(protocol: str, body: bytes) -> Page:
    """What an answer says. Raises ValueError."""
    page = SOURCES[protocol].read(_json.parse(body))
    kept = dict.fromkeys(name for name in page.names if 0 < len(name) <= LONGEST_NAME and name.isprintable())
    return Page(tuple(kept)[:MOST_MODELS], page.next)


def _entries(value: Any, key: str) -> list[dict[str, Any]]:
    found = value if isinstance(value, list) else _json.an_object(value).get(key)  # some give the bare list
    if not isinstance(found, list):
        raise ValueError("is no list of models")
    return [entry for entry in found if isinstance(entry, dict)]


def _openai(value: Any) -> Page:
    return Page(tuple(_json.a_text(entry.get("id")) for entry in _entries(value, "data")))


def _anthropic(value: Any) -> Page:
    page, last = _openai(value), _json.an_object(value).get("last_id")
    more = _json.an_object(value).get("has_more") is True and isinstance(last, str) and last
    return Page(page.names, urlencode({"limit": 1000, "after_id": last}) if more else "")


def _gemini(value: Any) -> Page:
    names = []
    for entry in _entries(value, "models"):
        methods = entry.get("supportedGenerationMethods")
        if not isinstance(methods, list) or "generateContent" in methods:
            names.append(_json.a_text(entry.get("name")).removeprefix("models/"))
    token = _json.a_text(_json.an_object(value).get("nextPageToken"))
    return Page(tuple(names), urlencode({"pageSize": 1000, "pageToken": token}) if token else "")


def _ollama(value: Any) -> Page:
    entries = _entries(value, "models")
    return Page(tuple(_json.a_text(one.get("model")) or _json.a_text(one.get("name")) for one in entries))


SOURCES = {
    "openai_chat": Source("/models", "", _openai),
    "openai_responses": Source("/models", "", _openai),
    "anthropic_messages": Source("/models", "limit=1000", _anthropic, (VERSION,)),
    "gemini": Source("/models", "pageSize=1000", _gemini),
    "ollama": Source("/api/tags", "", _ollama),
}
