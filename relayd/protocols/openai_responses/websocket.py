"""The transport of the Responses API over WebSocket, and errors as events of a stream.

A turn is `read_request` on the client's text message, then the renderer's messages for the endpoint's events. One turn
is in flight per connection; the connection's memory is `Ask.socket`. After an error the connection stays open for the
next turn.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols import _json
from relayd.protocols._openai_errors import error_object, shown_status
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Refused, Rendered, WebSocketTransport
from relayd.wire.body import Look

CONNECTION_LIMIT_S = 3600.0
_TRANSPORT_MEMBERS = ("type", "stream_options", "background", "stream")
CONNECTION_LIMIT = Failure(
    400, "The connection has reached its limit of 60 minutes: open a new one.", "websocket_connection_limit_reached"
)


def error_event(failure: Failure) -> dict[str, Any]:
    """The error event of a turn that ends before its response was begun."""
    return {"type": "error", "status": shown_status(failure.status), "error": error_object(failure)}


def write_error(failure: Failure) -> bytes:
    """The error event as the text of a message."""
    return _json.write(error_event(failure))


def read_message(look: Look, model: str | None = None) -> bytes:
    """A client's message as the body of a streamed request, maybe with another model. Raises Refused."""
    if look.fault or look.string("type") != "response.create":
        raise Refused("A message is a JSON object of type response.create.", param="type")
    pieces: list[bytes | memoryview] = []
    view = memoryview(look.body)
    for key in look.spans:
        if key in _TRANSPORT_MEMBERS:
            continue
        span = look.span(key)
        if span is None:
            raise Refused("A message has no key twice.", code="ambiguous_body")
        value = view[slice(*span)] if key != "model" or model is None else _json.write_string(model)
        pieces += [_json.write_string(key), b":", value, b","]
    return b"".join((b"{", *pieces, b'"stream":true}'))


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
