"""`relayd tail`: lines of text and JSON, sources in order, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relayd.cli.commands import tail
from relayd.cli.main import main

RECORD = {
    "event": "request_completed", "time": "2026-11-29T14:00:01.250Z", "id": "a", "peer": "192.0.2.1", "client": "192.0.2.9",
    "host": "ai.test", "path": "/v1/chat", "method": "POST", "route": "llm", "upstream": "up", "endpoint": "a:1",
    "consumer": "", "status": 200, "attempts": 1, "outcome": "complete", "code": "", "detail": "", "bytes_out": 2048,
    "first_byte_ms": 12.0, "total_ms": 345.6,
}


def test_a_line_has_what_an_operator_reads_first() -> None:
    assert tail.line(RECORD) == (
        "14:00:01.250  200  POST ai.test/v1/chat  192.0.2.9  -> llm up a:1  345.6 ms (first 12.0)  2.0K bytes"
    )
    failed = {**RECORD, "status": 502, "outcome": "upstream.attempt", "code": "tls_failed", "detail": "bad\x1b[1m", "attempts": 3,
              "consumer": "alice", "model": "gpt", "tokens_input": 3, "tokens_output": 4, "first_byte_ms": None}  # fmt: skip
    text = tail.line(failed)
    assert "alice" in text and "gpt  3+4 tokens" in text and text.endswith("3 attempts  upstream.attempt tls_failed bad?[1m")
    assert tail.line({}).startswith("-  0  - ")


def test_a_file_is_printed_filtered_as_text_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "access.log"
    path.write_text("".join(json.dumps({**RECORD, "status": status}) + "\n" for status in (200, 503, 404, 500)))
    assert main(["tail", "--file", str(path), "--no-follow", "--status", "5xx"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["503", "500"]
    assert main(["tail", "--file", str(path), "--no-follow", "--json", "--count", "1", "--status", "404"]) == 0
    assert json.loads(capsys.readouterr().out) == {**RECORD, "status": 404}


def test_no_source(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["tail", "--file", str(tmp_path / "gone")]) == 1
    assert main(["tail", "--socket", str(tmp_path / "gone")]) == 1
    assert main(["tail", "--no-follow"]) == 2
    assert "no records" in capsys.readouterr().err


def test_the_journal_is_the_second_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "journalctl").write_text(f"#!/bin/sh\necho '{json.dumps({'MESSAGE': json.dumps(RECORD)})}'\n")
    (tmp_path / "journalctl").chmod(0o755)
    (tmp_path / "relayd.yaml").write_text(f"admin: {{address: 'unix:{tmp_path}/none.sock'}}")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert main(["tail", "-c", str(tmp_path / "relayd.yaml")]) == 0
    told = capsys.readouterr()
    assert "following the journal of relayd.service" in told.err and "/v1/chat" in told.out
    assert main(["tail", "--journal", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RECORD


def test_a_file_with_other_lines_is_read_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event = {"event": "request_completed"}
    lines = [
        "[" * 100_000, "no json", "[1]",
        json.dumps(event | {"status": "\x1b[31m", "path": "/\x1b]0;x\x07", "bytes_out": [], "total_ms": "x", "tokens_input": "\x1b[1m"}),
        '{"event": "request_completed", "status": NaN, "attempts": {}, "bytes_out": Infinity, "path": null}',
        json.dumps(event | {"status": 200, "path": "/last"}),
    ]
    (tmp_path / "log").write_text("\n".join(lines))
    assert main(["tail", "--file", str(tmp_path / "log"), "--no-follow"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") == 3 and "/last" in shown and "\x1b" not in shown
    assert main(["tail", "--file", str(tmp_path / "log"), "--no-follow", "--slow", "1s"]) == 0
