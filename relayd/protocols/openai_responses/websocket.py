"""The transport of the Responses API over WebSocket, and errors as events of a stream.

A turn is `read_request` on the client's text message, then the renderer's messages for the endpoint's events. One turn
is in flight per connection; the connection's memory is `Ask.socket`. After an error the connection stays open for the
next turn.
"""

from __future__ import annotations

import json
from typing import Any

from relayd.protocols import _json
from relayd.protocols._openai_errors import error_object, shown_status
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Refused, Rendered, WebSocketTransport

CONNECTION_LIMIT_S = 3600.0
CONNECTION_LIMIT = Failure(
    400, "The connection has reached its limit of 60 minutes: open a new one.", "websocket_connection_limit_reached"
)


def error_event(failure: Failure) -> dict[str, Any]:
    """The error event of a turn that ends before its response was begun."""
    return {"type": "error", "status": shown_status(failure.status), "error": error_object(failure)}


def write_error(failure: Failure) -> bytes:
    """The error event as the text of a message."""
    return _json.write(error_event(failure))


def read_message(text: bytes) -> bytes:
    """A client's message as the body of a streamed request. Raises Refused."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or message.pop("type", None) != "response.create":
        raise Refused("A message is a JSON object of type response.create.", param="type")
    for name in ("stream_options", "background"):
        message.pop(name, None)
    message["stream"] = True
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")


def error_frame(rendered: Rendered) -> bytes:
    """An error body as one frame of an event stream."""
    error = _json.an_object(_json.parse(rendered.body)).get("error")
    members = _json.an_object(error)
    event = {"type": "error", "error": error, **{key: members.get(key) for key in ("code", "message", "param")}}
    return b"event: error\ndata: " + _json.write(event) + b"\n\n"


TRANSPORT = WebSocketTransport(
    read_message=read_message, write_error=write_error, connection_limit_s=CONNECTION_LIMIT_S,
    connection_limit=CONNECTION_LIMIT,
)
