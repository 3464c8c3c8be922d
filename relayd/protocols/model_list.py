"""Lists of models: read from endpoints of every dialect, and written for clients of every provider.

Laws:
1. A response that is not a list raises ValueError; invalid entries are skipped.
2. Names are as in requests: without Gemini's `models/`, and only models that support chat.
3. The length of names and their number are bounded.

Paging follows each API: OpenAI and Ollama have none, Anthropic's is by ids
(https://docs.anthropic.com/en/api/models-list), Google's by a token
(https://ai.google.dev/api/models#method:-models.list).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.protocols.dialect import Dialect, Listing, ModelListShape, ModelListSource, Page
from relayd.wire.json_steps import Steps, parse_document_steps, write_steps

MOST_MODELS = 4096
LONGEST_NAME = 256
ENTRIES_IN_A_STEP = 128
_LISTING = lazy_regex(r"(?:.*/)?(?:models(?:/(.+?))?|api/tags)/?")
VERSION = b"anthropic-version: 2023-06-01"

# ---- read from endpoints


def read_page(source: ModelListSource, body: bytes) -> Page:
    """Parse a page from an endpoint's response. Raises ValueError."""
    page = source.read(_json.parse_lenient(body))
    names = dict.fromkeys(name for name in page.names if 0 < len(name) <= LONGEST_NAME and name.isprintable())
    return Page(tuple(names)[:MOST_MODELS], page.next)


def _entries(value: Any, key: str) -> list[dict[str, Any]]:
    found = value if isinstance(value, list) else _json.an_object(value).get(key)  # some endpoints send the bare list
    if not isinstance(found, list):
        raise ValueError("is not a list of models")
    return [entry for entry in found if isinstance(entry, dict)]


def _openai(value: Any) -> Page:
    return Page(tuple(_json.a_text(entry.get("id")) for entry in _entries(value, "data")))


def _anthropic(value: Any) -> Page:
    page, last = _openai(value), _json.an_object(value).get("last_id")
    has_next = _json.an_object(value).get("has_more") is True and isinstance(last, str) and last
    return Page(page.names, urlencode({"limit": 1000, "after_id": last}) if has_next else "")


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


OPENAI_SOURCE = ModelListSource("/models", "", _openai)
ANTHROPIC_SOURCE = ModelListSource("/models", "limit=1000", _anthropic, (VERSION,))
GEMINI_SOURCE = ModelListSource("/models", "pageSize=1000", _gemini)
OLLAMA_SOURCE = ModelListSource("/api/tags", "", _ollama)

def permitted_steps(document: bytes, may_use: Callable[[str], bool]) -> Steps[bytes]:
    """A list in the form of any dialect without the models that `may_use` is false for, in steps. An entry without a
    name is left out. Raises ValueError for a document that is no list."""
    value = yield from parse_document_steps(document)
    if isinstance(value, list):
        return (yield from write_steps((yield from _permitted(value, may_use))))
    if not isinstance(value, dict):
        raise ValueError("is not a list of models")
    keys = [key for key in ("data", "models") if isinstance(value.get(key), list)]
    if not keys:
        raise ValueError("is not a list of models")
    for key in keys:
        value[key] = yield from _permitted(value[key], may_use)
    if "first_id" in value:  # the last id is that of the next page, unless there is none
        shown = [_name(entry) for entry in value.get("data") or ()]
        value["first_id"] = shown[0] if shown else None
        if value.get("has_more") is not True:
            value["last_id"] = shown[-1] if shown else None
    return (yield from write_steps(value))


def _permitted(entries: list[Any], may_use: Callable[[str], bool]) -> Steps[list[Any]]:
    found = []
    for index, entry in enumerate(entries):
        if (name := _name(entry)) and may_use(name):
            found.append(entry)
        if not index % ENTRIES_IN_A_STEP:
            yield
    return found


def _name(entry: Any) -> str:
    """The name of a listed model, as a request has it."""
    if not isinstance(entry, dict):
        return entry if isinstance(entry, str) else ""
    named = (_json.a_text(entry.get(key)) for key in ("id", "model", "name"))
    return next((name for name in named if name), "").removeprefix("models/")


# ---- written for clients


def _openai_model(name: str, upstream: str, created_s: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created_s, "owned_by": upstream}


def _openai_page(listing: Listing, created_s: int, query: Mapping[str, str]) -> dict[str, Any]:
    return {"object": "list", "data": [_openai_model(name, upstream, created_s) for name, upstream in listing]}


def _stamp(created_s: int) -> str:
    return datetime.fromtimestamp(created_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _anthropic_model(name: str, upstream: str, created_s: int) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": _stamp(created_s)}


def _anthropic_page(listing: Listing, created_s: int, query: Mapping[str, str]) -> dict[str, Any]:
    """From 1 to 1,000 models, 20 without `limit`. An unknown id is ignored."""
    limit, after, before = _count(query.get("limit"), 20), query.get("after_id"), query.get("before_id")
    names = [name for name, _ in listing]
    if after not in names and before in names:
        names = names[: names.index(before)]
        has_more, names = len(names) > limit, names[-limit:]
    else:
        names = names[names.index(after) + 1 :] if after in names else names
        has_more, names = len(names) > limit, names[:limit]
    return {
        "data": [_anthropic_model(name, "", created_s) for name in names], "has_more": has_more,
        "first_id": names[0] if names else None, "last_id": names[-1] if names else None,
    }


def _gemini_model(name: str, upstream: str, created_s: int) -> dict[str, Any]:
    return {
        "name": f"models/{name}", "displayName": name,
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent"],
    }


def _gemini_page(listing: Listing, created_s: int, query: Mapping[str, str]) -> dict[str, Any]:
    """From 1 to 1,000 models, 50 without `pageSize`; the token is the index of the next model."""
    size, token = _count(query.get("pageSize"), 50), query.get("pageToken", "")
    start = int(token) if token.isdecimal() and len(token) < 8 else 0
    models = [_gemini_model(name, upstream, created_s) for name, upstream in listing[start : start + size]]
    page: dict[str, Any] = {"models": models}
    if start + size < len(listing):
        page["nextPageToken"] = str(start + size)
    return page


def _ollama_model(name: str, upstream: str, created_s: int) -> dict[str, Any]:
    return {"name": name, "model": name, "modified_at": _stamp(created_s), "size": 0, "digest": "", "details": {}}


def _ollama_page(listing: Listing, created_s: int, query: Mapping[str, str]) -> dict[str, Any]:
    return {"models": [_ollama_model(name, upstream, created_s) for name, upstream in listing]}


def _count(text: str | None, default: int) -> int:
    return min(1000, max(1, int(text))) if text and text.isdecimal() and len(text) < 6 else default


OPENAI = ModelListShape(_openai_page, _openai_model)
ANTHROPIC = ModelListShape(_anthropic_page, _anthropic_model, client_headers=("anthropic-version",))
GEMINI = ModelListShape(_gemini_page, _gemini_model, client_headers=("x-goog-api-key", "x-goog-api-client"))
OLLAMA = ModelListShape(_ollama_page, _ollama_model, path="/api/tags")
SHAPES = (ANTHROPIC, GEMINI, OLLAMA)


def requested_listing(path: str) -> str | None:
    """The model in a model list path, "" for the whole list; None for other paths."""
    match = _LISTING.fullmatch(path)
    return None if match is None else match[1] or ""


def shape_for(dialect: Dialect, path: str, headers: Mapping[str, str]) -> ModelListShape:
    """The form that a client reads, chosen by a path that only one provider has, then by the dialect of the route, then
    by header fields that only one provider's clients send. Ollama and Google serve OpenAI's clients on other paths."""
    own = dialect.listing
    for shape in SHAPES if own is None else (own, *SHAPES):
        if shape.path and path.rstrip("/").endswith(shape.path):
            return shape
    if own is not None and not own.path and "/openai/" not in path:
        return own
    for shape in SHAPES:
        if any(name in headers for name in shape.client_headers):
            return shape
    return OPENAI


def page(shape: ModelListShape, listing: Listing, created_s: int, query: str) -> dict[str, Any]:
    """The page of the listing that the query requests."""
    return shape.page(listing, created_s, dict(parse_qsl(query)))
