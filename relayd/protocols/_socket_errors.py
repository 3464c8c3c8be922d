"""What the WebSocket transport says beside the events: an error of a turn that never began.

A turn is `read_request` on the client's text frame, then `Renderer.messages` for the endpoint's events. One turn is in
flight per connection; the connection's memory is `Ask.socket`. After an error the connection stays open for the next.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols import _json
from relayd.protocols._openai_errors import error_object, shown_status
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Refused

CONNECTION_LIMIT_S = 3600.0
CONNECTION_LIMIT = Failure(
    400, "The connection has reached its limit of 60 minutes: open a new one.", "websocket_connection_limit_reached"
)


def error_frame(failure: Failure) -> dict[str, Any]:
    """The error event of a turn that ends before its response was begun."""
    return {"type": "error", "status": shown_status(failure.status), "error": error_object(failure)}


def refused_frame(refused: Refused) -> bytes:
    """The error event of a request that read_request refused."""
    return write_error(Failure(refused.status, refused.message, refused.code, param=refused.param))


def write_error(failure: Failure) -> bytes:
    """The error event as the text of a frame."""
    return _json.write(error_frame(failure))
