"""The list of models in the shapes in which clients read it: one function per maker, by the name of its dialect.

A listing is (name, upstream) pairs; `made_s` is when the list was made, in seconds since 1970. Pages follow each API:
OpenAI and Ollama have none, Anthropic's are cut by ids (https://docs.anthropic.com/en/api/models-list), Google's by a
token (https://ai.google.dev/api/models#method:-models.list).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

Listing = list[tuple[str, str]]
Value = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """How one maker's clients read models: `page` of a listing as the query asks for it, and `one` model."""

    page: Callable[[Listing, int, Mapping[str, str]], Value]
    one: Callable[[str, str, int], Value]


def _openai_model(name: str, upstream: str, made_s: int) -> Value:
    return {"id": name, "object": "model", "created": made_s, "owned_by": upstream}


def _openai_page(listing: Listing, made_s: int, asked: Mapping[str, str]) -> Value:
    return {"object": "list", "data": [_openai_model(name, upstream, made_s) for name, upstream in listing]}


def _stamp(made_s: int) -> str:
    return datetime.fromtimestamp(made_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _anthropic_model(name: str, upstream: str, made_s: int) -> Value:
    return {"type": "model", "id": name, "display_name": name, "created_at": _stamp(made_s)}


def _anthropic_page(listing: Listing, made_s: int, asked: Mapping[str, str]) -> Value:
    """From 1 to 1,000 models, 20 without `limit`. An id that is unknown cuts nothing."""
    limit, after, before = _count(asked.get("limit"), 20), asked.get("after_id"), asked.get("before_id")
    names = [name for name, _ in listing]
    if after not in names and before in names:
        names = names[: names.index(before)]
        has_more, names = len(names) > limit, names[-limit:]
    else:
        names = names[names.index(after) + 1 :] if after in names else names
        has_more, names = len(names) > limit, names[:limit]
    return {
        "data": [_anthropic_model(name, "", made_s) for name in names], "has_more": has_more,
        "first_id": names[0] if names else None, "last_id": names[-1] if names else None,
    }


def _gemini_model(name: str, upstream: str, made_s: int) -> Value:
    return {
        "name": f"models/{name}", "displayName": name,
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent"],
    }


def _gemini_page(listing: Listing, made_s: int, asked: Mapping[str, str]) -> Value:
    """From 1 to 1,000 models, 50 without `pageSize`; the token is the place of the next one."""
    size, token = _count(asked.get("pageSize"), 50), asked.get("pageToken", "")
    start = int(token) if token.isdecimal() and len(token) < 8 else 0
    page: Value = {"models": [_gemini_model(name, up, made_s) for name, up in listing[start : start + size]]}
    if start + size < len(listing):
        page["nextPageToken"] = str(start + size)
    return page


def _ollama_model(name: str, upstream: str, made_s: int) -> Value:
    return {"name": name, "model": name, "modified_at": _stamp(made_s), "size": 0, "digest": "", "details": {}}


def _ollama_page(listing: Listing, made_s: int, asked: Mapping[str, str]) -> Value:
    return {"models": [_ollama_model(name, upstream, made_s) for name, upstream in listing]}


def _count(text: str | None, usual: int) -> int:
    return min(1000, max(1, int(text))) if text and text.isdecimal() and len(text) < 6 else usual


OPENAI = Shape(_openai_page, _openai_model)
ANTHROPIC = Shape(_anthropic_page, _anthropic_model)
GEMINI = Shape(_gemini_page, _gemini_model)
OLLAMA = Shape(_ollama_page, _ollama_model)
_BY_DIALECT = {"anthropic_messages": ANTHROPIC, "gemini": GEMINI}


def shape_for(dialect: str, path: str, headers: Mapping[str, str]) -> Shape:
    """What this client reads: told by its dialect, else by what only one maker's clients send. Ollama and Google have
    paths for OpenAI's clients too."""
    if path.endswith("/api/tags"):
        return OLLAMA
    if dialect in _BY_DIALECT and "/openai/" not in path:
        return _BY_DIALECT[dialect]
    if "anthropic-version" in headers:
        return ANTHROPIC
    if "x-goog-api-key" in headers or "x-goog-api-client" in headers:
        return GEMINI
    return OPENAI


def page(shape: Shape, listing: Listing, made_s: int, query: str) -> Value:
    """The page of the listing that the query asks for."""
    return shape.page(listing, made_s, dict(parse_qsl(query)))
