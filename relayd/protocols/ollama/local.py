"""What Ollama's clients ask the server itself, where the model chooses among several: is it there, how new is it, and
which models does it hold in memory (nobody knows)?
"""

from __future__ import annotations

from relayd.protocols import _json
from relayd.protocols.dialect import EncodedResponse, RequestContext

VERSION = "0.12.6"  # whose API relayd speaks; clients ask for a least one
_RESPONSES = {"/api/version": {"version": VERSION}, "/api/ps": {"models": []}}


def local(context: RequestContext, body: bytes) -> EncodedResponse | None:
    """The answer to what is for relayd itself, else None."""
    if context.method not in ("GET", "HEAD"):
        return None
    path = context.path.rstrip("/")
    if not path:
        return EncodedResponse(200, b"Ollama is running", "text/plain; charset=utf-8")
    return next((EncodedResponse(200, _json.write(value)) for end, value in _RESPONSES.items() if path.endswith(end)), None)
