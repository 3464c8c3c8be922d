"""Requests of Ollama's clients about the server itself, on routes that select by model: liveness, version, and the
models in memory (unknown to relayd, so the list is empty).
"""

from __future__ import annotations

from relayd.protocols import _json
from relayd.protocols.dialect import EncodedResponse, RequestContext

VERSION = "0.12.6"  # of the API that relayd implements; clients require a minimum version
_RESPONSES = {"/api/version": {"version": VERSION}, "/api/ps": {"models": []}}


def local(context: RequestContext, body: bytes) -> EncodedResponse | None:
    """The response to a request for relayd itself, else None."""
    if context.method not in ("GET", "HEAD"):
        return None
    path = context.path.rstrip("/")
    if not path:
        return EncodedResponse(200, b"Ollama is running", "text/plain; charset=utf-8")
    found = (value for end, value in _RESPONSES.items() if path.endswith(end))
    return next((EncodedResponse(200, _json.write(value)) for value in found), None)
