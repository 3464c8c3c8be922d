"""The WebSocket transport of the Responses API, and errors as events of a stream.

A turn consists of `read_request` for the client's text message and the renderer's messages for the endpoint's events.
A connection has at most one turn in progress; its memory is `RequestContext.socket`. After an error, the connection
stays open for the next turn.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols import _json
from relayd.protocols._openai_errors import client_status, error_object
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import EncodedResponse, Refused, WebSocketTransport
from relayd.wire.body import JsonBody

CONNECTION_LIMIT_S = 3600.0
_TRANSPORT_MEMBERS = ("type", "stream_options", "background", "stream")
CONNECTION_LIMIT = Failure(
    400, "The connection has reached its limit of 60 minutes: open a new one.", "websocket_connection_limit_reached"
)


def error_event(failure: Failure) -> dict[str, Any]:
    """Return the error event of a turn that fails before its response begins."""
    return {"type": "error", "status": client_status(failure.status), "error": error_object(failure)}


def write_error(failure: Failure) -> bytes:
    """Serialise the error event for a WebSocket message."""
    return _json.write(error_event(failure))


def read_message(look: JsonBody, model: str | None = None) -> bytes:
    """Convert a client's message to the body of a streamed request; `model` replaces its model. Raises Refused."""
    if look.fault or look.string("type") != "response.create":
        raise Refused("A message must be a JSON object of type response.create.", param="type")
    pieces: list[bytes | memoryview] = []
    view = memoryview(look.body)
    for key in look.spans:
        if key in _TRANSPORT_MEMBERS:
            continue
        span = look.span(key)
        if span is None:
            raise Refused("A message must not contain a key twice.", code="ambiguous_body")
        value = view[slice(*span)] if key != "model" or model is None else _json.write_string(model)
        pieces += [_json.write_string(key), b":", value, b","]
    return b"".join((b"{", *pieces, b'"stream":true}'))


def error_frame(rendered: EncodedResponse) -> bytes:
    """Convert an error body to one frame of an event stream."""
    error = _json.an_object(_json.parse(rendered.body)).get("error")
    members = _json.an_object(error)
    event = {"type": "error", "error": error, **{key: members.get(key) for key in ("code", "message", "param")}}
    return b"event: error\ndata: " + _json.write(event) + b"\n\n"


TRANSPORT = WebSocketTransport(
    read_message=read_message, write_error=write_error, connection_limit_s=CONNECTION_LIMIT_S,
    connection_limit=CONNECTION_LIMIT,
)
