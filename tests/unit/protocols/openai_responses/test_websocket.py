"""The WebSocket transport: messages as requests, and errors of turns that fail before their response begins."""

from __future__ import annotations

import json

import pytest

from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Refused
from relayd.protocols.openai_responses.websocket import TRANSPORT
from relayd.wire.body import inspect_json


def test_the_connection_limit_has_its_error_code() -> None:
    assert json.loads(TRANSPORT.write_error(TRANSPORT.connection_limit))["error"]["code"] == "websocket_connection_limit_reached"


def test_a_failure_keeps_its_status() -> None:
    assert json.loads(TRANSPORT.write_error(Failure(529, "Busy.")))["status"] == 503


def test_a_message_of_a_socket_becomes_a_streamed_request() -> None:
    text = b'{"type": "response.create", "model": "m", "background": false, "stream_options": {}, "input": "\xc3\xa4"}'
    assert json.loads(TRANSPORT.read_message(inspect_json(text), None)) == {"model": "m", "input": "\u00e4", "stream": True}
    for wrong in (b"no", b"[]", b'{"model": "m"}', b'{"type": "session.update"}'):
        with pytest.raises(Refused):
            TRANSPORT.read_message(inspect_json(wrong), None)
