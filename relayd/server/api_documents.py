"""The API documents: /openapi.json, and two pages made from it that are readable without scripts. /api/docs has a form
for each operation, which sends it with a key; /api/redoc has all descriptions open.

1. The pages are made once for each generation. Everything inserted into HTML is escaped.
2. They need no other file, because a route may match these paths only: style and script are inside, and the
   Content-Security-Policy permits them by their hashes and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.proxy.respond import Answer, answer
from relayd.server import pages
from relayd.server.admin_views import JSON, AdminViews, to_json_steps
from relayd.server.openapi import document
from relayd.wire.json_steps import Steps

DOCUMENT, DOCS, REDOC = "/openapi.json", "/api/docs", "/api/redoc"
_CODE = lazy_regex(r"`([^`]+)`")
PATHS = (DOCUMENT, DOCS, REDOC)
LONGEST_EXAMPLE = 4096


class ApiDocuments:
    """One per process. Keeps the documents of the newest generation."""

    def __init__(self, views: AdminViews, actions: Mapping[str, Callable[..., object]]) -> None:
        self._views, self._actions = views, actions
        self._generation = -1
        self._answers: dict[str, Answer] = {}

    def steps(self, path: str) -> Steps[Answer]:
        """The document of one of PATHS, in steps."""
        plan = self._views.gateway.plan
        generation = 0 if plan is None else plan.generation
        if generation != self._generation:
            self._generation, self._answers = generation, {}
        found = self._answers.get(path)
        if found is None:
            data = yield from document(self._views, self._actions, plan)
            found = yield from (_json(data) if path == DOCUMENT else _page(data, with_forms=path == DOCS))
            if generation == self._generation:  # not replaced meanwhile
                self._answers[path] = found
        return found


def _json(data: Mapping[str, Any]) -> Steps[Answer]:
    body = yield from to_json_steps(data)
    return answer(200, JSON, body, (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")))


def _page(data: Mapping[str, Any], *, with_forms: bool) -> Steps[Answer]:
    style = pages.text("page.css") + pages.text("docs.css")
    script = pages.text("docs.js") if with_forms else ""
    sources = f"style-src {_hash(style)}; " + (f"script-src {_hash(script)}; connect-src 'self'; " if script else "")
    policy = f"default-src 'none'; {sources}base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    fields = (
        ("Content-Security-Policy", policy), ("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "same-origin"), ("Cache-Control", "no-store"),
    )
    text = yield from _html(data, style, script)
    return answer(200, pages.media_type("docs.html"), text.encode(), fields)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _html(data: Mapping[str, Any], style: str, script: str) -> Steps[str]:
    operations = [
        (path, method, operation) for path, item in data["paths"].items() for method, operation in item.items()
        if isinstance(operation, dict)
    ]
    parts = []
    for tag in data["tags"]:
        mine = [one for one in operations if tag["name"] in one[2]["tags"]]
        if mine:
            rendered = []
            for one in mine:
                rendered.append(_operation(data, *one, with_form=bool(script)))
                yield
            head = f'<div class="bar"><h2>{escape(tag["description"])}</h2></div>'
            parts.append(f'<section class="panel">{head}{"".join(rendered)}</section>')
    key = (
        '<p class="key"><label for="key">Key of a consumer</label> <input id="key" type="password" autocomplete="off"> '
        '<span class="dim">sent as Authorization: Bearer; kept in this page only</span></p>'
    ) if script else ""
    title = f"relayd {data['info']['version']} · API"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body class=\"api\"><main>"
        f"<h1>{escape(title)}</h1><p>{_prose(data['info']['description'])} "
        f'<a href="../openapi.json">openapi.json</a></p>{key}{"".join(parts)}</main>'
        f"{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def _prose(text: str) -> str:
    """A text as HTML; `code` stands between back quotes."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _operation(
    data: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any], *, with_form: bool
) -> str:
    """One operation as HTML."""
    schema = _request_schema(data, operation)
    responses = "".join(
        f"<dt><code>{escape(status)}</code></dt><dd>{escape(one['description'])} "
        f'<span class="dim">{escape(", ".join(one["content"]))}</span>{_members(_resolved(data, one))}</dd>'
        for status, one in operation["responses"].items()
    )
    request = f"<h3>Request</h3>{_members(schema)}" if schema else ""
    form = _form(data, path, method, operation, schema) if with_form else ""
    return (
        f"<details{'' if with_form else ' open'}><summary><code class=\"method {method}\">{method.upper()}</code> "
        f'<code>{escape(path)}</code> <span class="dim">{_prose(operation["summary"])}</span></summary>'
        f"{request}<h3>Responses</h3><dl class=\"facts\">{responses}</dl>{form}</details>"
    )


def _form(
    data: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any], schema: Mapping[str, Any] | None
) -> str:
    """The form that sends an operation."""
    name = operation["operationId"]
    at_root = "servers" in data["paths"][path]
    inputs = "".join(
        f'<label>{escape(one["name"])} <input name="{escape(one["name"])}" required></label>'
        for one in operation.get("parameters", ())
    )
    if schema is not None:
        example = json.dumps(schema.get("example", {}), indent=1)[:LONGEST_EXAMPLE]
        inputs += f'<label>Body <textarea name="body" rows="6">{escape(example)}</textarea></label>'
    base = "" if at_root else ".."
    return (
        f'<form data-method="{method.upper()}" data-path="{escape(base + path)}" aria-label="Send {escape(name)}">'
        f"{inputs}<button>Send</button><output></output></form>"
    )


def _request_schema(data: Mapping[str, Any], operation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if "requestBody" not in operation:
        return None
    return _resolved(data, operation["requestBody"])


def _resolved(data: Mapping[str, Any], holder: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of the first media type of a request or response."""
    schema: Mapping[str, Any] = next(iter(holder["content"].values()))["schema"]
    if "$ref" in schema:
        found: Mapping[str, Any] = data["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def _members(schema: Mapping[str, Any] | None) -> str:
    """The members of an object as a list."""
    if schema is None or not schema.get("properties"):
        return ""
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<li><code>{escape(name)}</code> <span class=\"dim\">{escape(_type_text(one))}"
        f"{', required' if name in required else ''}</span></li>"
        for name, one in schema["properties"].items()
    )
    return f'<ul class="members">{rows}</ul>'


def _type_text(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "any")
    return kind if isinstance(kind, str) else " or ".join(kind)
