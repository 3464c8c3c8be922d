"""`relayd streams`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relayd.cli.commands.streams import SHOWN, lines, row
from relayd.cli.main import main
from tests.unit.cli.admin_case import Admin

STREAM: dict[str, Any] = {
    "id": "abc", "age_s": 75.2, "room": "transfer", "method": "POST", "path": "/v1/chat", "consumer": "team", "route": "llm",
    "upstream": "up", "endpoint": "a:1", "attempts": 1, "generation": 3, "buffered_bytes": 4300, "sent_bytes": 17 << 20,
}


def test_every_stream_has_a_line() -> None:
    head, line, count = lines({"in_flight": 1, "streams": [STREAM]})
    assert len(head.split()) == 12
    assert line.split() == ["abc", "1m15s", "transfer", "team", "llm", "up", "a:1", "1", "3", "4.2K", "17M", "POST", "/v1/chat"]
    assert count == "1 exchange in flight, 4.2K bytes buffered"


def test_an_idle_relayd_has_no_table() -> None:
    assert list(lines({"in_flight": 0, "streams": []})) == ["0 exchanges in flight, 0 bytes buffered"]


def test_very_many_are_cut_and_counted() -> None:
    shown = list(lines({"in_flight": 5000, "streams": [STREAM] * 1000}))
    assert sum("POST /v1/chat" in line for line in shown) == SHOWN
    assert shown[-2].startswith("5000 exchanges in flight")
    assert shown[-1].startswith("... the oldest 200")


def test_bytes_of_a_client_cannot_move_the_cursor() -> None:
    assert row({**STREAM, "path": "/\x1b[2J\n", "id": "a\rb"})[-1] == "POST /?[2J?"
    assert row({**STREAM, "consumer": "", "endpoint": "", "upstream": ""})[3] == "-"


def test_the_page_is_fetched_from_the_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, {"in_flight": 1, "streams": [STREAM]})) as admin:
        assert main(["streams", *admin.options]) == 0
    assert admin.asked == ["GET /streams"]
    assert "team" in capsys.readouterr().out
