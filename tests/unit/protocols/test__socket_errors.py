"""What a WebSocket turn says that never began."""

from __future__ import annotations

import json

from relayd.protocols._socket_errors import CONNECTION_LIMIT, refused_frame, write_error
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Refused


def test_a_refused_request_is_an_error_frame_with_its_place() -> None:
    frame = json.loads(refused_frame(Refused("No.", "input", "invalid_type")))
    assert frame["type"] == "error" and frame["status"] == 400
    assert frame["error"] == {"message": "No.", "type": "invalid_request_error", "param": "input", "code": "invalid_type"}


def test_the_end_of_a_connections_time_has_its_code() -> None:
    assert json.loads(write_error(CONNECTION_LIMIT))["error"]["code"] == "websocket_connection_limit_reached"


def test_a_failure_keeps_its_status() -> None:
    assert json.loads(write_error(Failure(529, "Busy.")))["status"] == 503
