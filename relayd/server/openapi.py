"""The OpenAPI 3.1 document of the admin application, and of what the AI fronts of the configuration in force accept.

It is made from what serves the requests: the views and their docstrings, the tables of actions, and the routes of the
plan. The response of a page is described by the members that it has now. The members that a front reads are in
pages/fronts.json, which `make docs` makes by running the readers of the dialects.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from relayd import __version__
from relayd.lazy_regex import lazy_regex
from relayd.plan.plan import Plan, PlannedRoute
from relayd.server import pages
from relayd.server.admin_captures import BODIES, GETS, POSTS
from relayd.server.admin_live import ACTIONS
from relayd.server.admin_views import JSON, AdminViews, View
from relayd.wire.json_steps import Steps, parse_document_steps

_PARAMETER = lazy_regex(r"\{(\w+)\}")
_TYPES = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
STREAMS = {
    "/events": ("text/event-stream", "The status once a second, as server-sent events."),
    "/records": ("application/x-ndjson", "The access records as they are written, one JSON object per line."),
}
ERROR = {
    "type": "object", "required": ["error"],
    "properties": {"error": {
        "type": "object", "required": ["code", "message"],
        "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
    }},
}  # fmt: skip
RELOAD_RESULT = {
    "type": "object", "required": ["accepted", "generation", "changes", "findings", "warnings"],
    "properties": {
        "accepted": {"type": "boolean"}, "generation": {"type": "integer"},
        **{name: {"type": "array", "items": {"type": "string"}} for name in ("changes", "findings", "warnings")},
    },
}  # fmt: skip
DESCRIPTION = (
    "The admin application is served on the admin socket, and below the routes with `upstream: admin`; actions need "
    "`admin_write` there. The AI fronts are the routes with a `protocol` of the configuration in force."
)


def document(
    views: AdminViews, actions: Mapping[str, Callable[..., object]], plan: Plan | None
) -> Steps[dict[str, Any]]:
    """The document. `actions` are the asynchronous actions by path."""
    paths: dict[str, Any] = {}
    for path, view in views.pages.items():
        paths[path] = {"get": (yield from _view(path, view))}
    for path, (media_type, text) in STREAMS.items():
        content = {media_type: {"schema": {"type": "string"}}}
        responses = {"200": _response("The stream.", content), **_errors(403, 503)}
        paths[path] = {"get": _operation(path, "admin", text, responses)}
    schema = {"$ref": "#/components/schemas/ReloadResult"}
    results = {status: _response(text, {JSON: {"schema": schema}}) for status, text in (
        ("200", "Accepted."), ("422", "Refused, with every fault."))}
    for path, action in actions.items():
        paths[path] = {"post": _operation(path, "actions", _summary(action.__doc__), {**results, **_errors(403, 413)})}
    for path, text in ACTIONS.items():
        done = {"200": _response("Done: the state afterwards.", {JSON: {"schema": {"type": "object"}}})}
        if path.startswith("/generations/"):
            done = results
        paths[path] = {"post": _operation(path, "actions", text, {**done, **_errors(403, 404, 409, 413)})}
    for path, text in GETS.items():
        found = {"200": _response("The page.", {JSON: {"schema": {"type": "object"}}})}
        paths[path] = {"get": _operation(path, "admin", text, {**found, **_errors(403, 404, 409)})}
    for path, text in POSTS.items():
        media_type = "application/x-ndjson" if path.endswith("/start") else JSON
        done = {"200": _response("Done.", {media_type: {"schema": {"type": "object"}}})}
        operation = _operation(path, "actions", text, {**done, **_errors(400, 403, 404, 409, 413)})
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": BODIES[path]}}}
        paths[path] = {"post": operation}
    schemas: dict[str, Any] = {"Error": ERROR, "ReloadResult": RELOAD_RESULT}
    for front_path, operation, name in _fronts(plan):
        paths.setdefault(front_path, {"servers": [{"url": "/"}], "post": operation})
        schemas[name] = fronts()[name]["schema"]
        yield
    return {
        "openapi": "3.1.0",
        "info": {"title": "relayd", "version": __version__, "description": DESCRIPTION},
        "servers": [{"url": ".", "description": "The admin application, where this document is."}],
        "tags": [
            {"name": "admin", "description": "Pages of the admin application"},
            {"name": "actions", "description": "Actions of the admin application"},
            {"name": "fronts", "description": "What the AI fronts accept"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The key of a consumer."},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The key of a consumer."},
            },
        },
    }


@functools.cache
def fronts() -> dict[str, Any]:
    """What each AI front accepts: title, paths and schema by the name of its dialect."""
    found: dict[str, Any] = json.loads(pages.data("fronts.json"))
    return found


def _view(path: str, view: View) -> Steps[dict[str, Any]]:
    """A page, described by what it is now."""
    media_type, schema = view.media_type, {"type": "string"}
    if media_type == JSON:
        _, _, body = yield from view.steps()
        yield
        schema = schema_of((yield from parse_document_steps(body)))
    content = {media_type: {"schema": schema}}
    responses = {"200": _response("The page.", content)}
    if view.other_status:
        responses[str(view.other_status)] = _response("The same, not healthy or not ready.", content)
    if view.media_type != JSON:
        responses |= _errors(404)
    return _operation(path, "admin", _summary(view.read.__doc__), responses)


def schema_of(value: object) -> dict[str, Any]:
    """The schema of an object by its members: their types, if they have one now."""
    assert isinstance(value, dict)
    properties = {name: {"type": _TYPES[type(one)]} if one is not None else {} for name, one in value.items()}
    return {"type": "object", "required": list(value), "properties": properties}


def _fronts(plan: Plan | None) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The operations of the AI fronts: path, operation, and the name of the dialect."""
    for route in () if plan is None else plan.routes:
        resilience = route.resilience
        dialect = None if resilience is None else resilience.dialect
        if dialect is None or dialect.name not in fronts():
            continue
        for path in paths_of(route, dialect.paths):
            yield path, _front(route, path, dialect.name, dialect.title), dialect.name


def paths_of(route: PlannedRoute, ends: Iterable[str]) -> list[str]:
    """The path on which clients reach each of these ends of paths over a route: with the usual `/v1` before it, else
    with the prefix of the route."""
    match = route.config.match
    prefix = (match.prefix or "").rstrip("/")
    found = []
    for end in ends:
        for path in (f"/v1{end}", end, f"{prefix}{end}", match.path or ""):
            if path.endswith(end) and (
                path == match.path if match.path
                else re.fullmatch(match.regex, path) if match.regex else path.startswith(match.prefix or "/")
            ):
                found.append(path)
                break
    return found


def _front(route: PlannedRoute, path: str, name: str, title: str) -> dict[str, Any]:
    content = {JSON: {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}}
    responses = {
        "200": _response("The response, or its events if the request asks for a stream.", content),
        "default": _response("An error in the format of the API.", {JSON: {"schema": {"type": "object"}}}),
    }
    operation = _operation(f"{route.name} {path}", "fronts", f"{title} on the route {route.name}.", responses)
    schema = {"$ref": f"#/components/schemas/{name}"}
    operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    if route.allow is not None:
        operation["security"] = [{"bearer": []}, {"key": []}]
    return operation


def _operation(path: str, tag: str, text: str, responses: Mapping[str, Any]) -> dict[str, Any]:
    name = re.sub(r"\W+", "_", path).strip("_")
    operation: dict[str, Any] = {"operationId": name, "tags": [tag], "summary": text, "responses": dict(responses)}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(path)
    ]
    if parameters:
        operation["parameters"] = parameters
    return operation


def _response(text: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": dict(content)}


def _errors(*statuses: int) -> dict[str, Any]:
    texts = {
        400: "The body cannot be used.", 403: "Not available here.", 404: "There is no such thing.",
        409: "Not possible.", 413: "The body is too large.",
        503: "Too many clients.",
    }  # fmt: skip
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): _response(texts[status], content) for status in statuses}


def _summary(docstring: str | None) -> str:
    return " ".join((docstring or "").split())
