"""One record, one line, in every format; nothing from outside unescaped, nothing ever raised."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import re
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.telemetry.access_log import MAX_CACHED, AccessLog
from relayd.telemetry.native import Native
from tests.unit.telemetry.record import record


def written(path: pathlib.Path, *records: Any, format: str = "json", **options: Any) -> list[str]:
    log = AccessLog(format, str(path), **options)
    for one in records:
        log.write(one)
    log.close()
    return path.read_text().splitlines()


def test_a_json_record_says_everything_about_an_exchange(tmp_path: pathlib.Path) -> None:
    (line,) = written(tmp_path / "log", record())
    assert json.loads(line) == {
        "event": "request_completed", "time": "2023-11-14T22:13:20.750Z", "id": "0190-abc", "listener": "public",
        "peer": "127.0.0.1:5000", "client": "10.0.0.9", "method": "POST", "host": "example.org", "path": "/v1/chat",
        "protocol": "HTTP/1.1", "route": "llm", "upstream": "chutes", "endpoint": "a:443", "consumer": "team",
        "status": 200, "bytes_in": 10, "bytes_out": 2000, "queue_ms": 0, "connect_ms": 1.5, "first_byte_ms": 20.0,
        "total_ms": 500.0, "outcome": "complete", "code": "", "detail": "", "attempts": 1, "generation": 3,
    }


def test_a_point_that_was_never_reached_is_null(tmp_path: pathlib.Path) -> None:
    entry = json.loads(written(tmp_path / "log", record(connect_s=-1.0, first_byte_s=-1.0, total_s=-1.0))[0])
    assert (entry["connect_ms"], entry["first_byte_ms"], entry["total_ms"]) == (None, None, None)


def test_a_broken_exchange_tells_its_code_and_who_ended_it(tmp_path: pathlib.Path) -> None:
    lost = record(code="client_gone", ended_by="client", phase="transfer", status=499, detail="after 3 bytes")
    entry = json.loads(written(tmp_path / "log", record(), lost)[1])
    assert (entry["outcome"], entry["code"], entry["status"], entry["detail"]) == (
        "client.transfer", "client_gone", 499, "after 3 bytes",
    )


def test_records_that_share_a_route_but_not_the_rest_are_not_mixed_up(tmp_path: pathlib.Path) -> None:
    many = [record(method=m, endpoint=e, status=s, generation=g) for m in ("GET", "PUT") for e in "ab" for s in (200, 404)
            for g in (1, 2)]
    entry = [json.loads(line) for line in written(tmp_path / "log", *many, *many)]
    assert [(t["method"], t["endpoint"], t["status"], t["generation"]) for t in entry] == [
        (r.method, r.endpoint, r.status, r.generation) for r in (*many, *many)
    ]


@pytest.mark.parametrize("format", ["json", "text"])
@pytest.mark.parametrize("name", ["path", "host", "id", "client", "peer", "detail", "method", "route", "endpoint"])
def test_control_bytes_and_quotes_from_outside_are_escaped(tmp_path: pathlib.Path, format: str, name: str) -> None:
    lines = written(tmp_path / "log", record(**{name: 'a"b\\c\nd\x1b[31m\x7f\x85\u2028'}), format=format)
    assert len(lines) == 1
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028]", lines[0])
    if format == "json":
        assert json.loads(lines[0])[name] == "a\\x22b\\x5cc\\x0ad\\x1b[31m\\x7f\\x85\\u2028"


@given(st.text(), st.text(), st.text())
def test_whatever_a_client_sends_stays_one_json_line(path: str, host: str, query: str) -> None:
    reader, writer = os.pipe()
    log = AccessLog("json", fd=writer, query=True)
    log.write(record(path=path[:500], host=host[:500], query=query[:500]))
    log.close()
    os.close(writer)
    with open(reader, "rb") as pipe:
        lines = pipe.read().splitlines()
    assert len(lines) == 1
    json.loads(lines[0])


@pytest.mark.parametrize("format", ["json", "text"])
def test_the_query_is_written_only_when_asked_for_and_its_keys_never(tmp_path: pathlib.Path, format: str) -> None:
    asked = record(query="?model=x&key=SECRET1&%6bey=SECRET2&sesame=SECRET3")
    (without,) = written(tmp_path / "a", asked, format=format)
    (with_query,) = written(tmp_path / "b", asked, format=format, query=True, secret_query=frozenset({"sesame"}))
    assert "model=x" not in without
    assert "model=x" in with_query
    assert "SECRET" not in without + with_query


def test_a_percent_sign_stays_one_wherever_it_stands(tmp_path: pathlib.Path) -> None:
    for name in ("route", "endpoint", "method", "path", "host", "detail", "code"):
        (line,) = written(tmp_path / name, record(**{name: "100%s %%d"}))
        assert json.loads(line)[name] == "100%s %%d"


def test_lines_wait_for_the_timer_until_there_are_enough(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    log = AccessLog("json", str(path))
    log.write(record())
    assert path.read_bytes() == b""
    log.flush()
    assert path.read_bytes().count(b"\n") == 1
    log.write(record(path="/" + "x" * 70_000))
    assert path.read_bytes().count(b"\n") == 2
    log.close()


def test_text_on_a_terminal_is_coloured_and_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    leader, follower = pty.openpty()
    log = AccessLog("auto", fd=follower)
    log.write(record(status=502, code="upstream_closed", ended_by="upstream", phase="attempt"))
    line = os.read(leader, 4096).decode()
    assert "\x1b[31m502\x1b[0m" in line
    assert "upstream.attempt upstream_closed" in line
    log.close()
    os.close(leader)
    os.close(follower)


def test_text_in_a_file_has_no_colours(tmp_path: pathlib.Path) -> None:
    (line,) = written(tmp_path / "log", record(), format="text")
    assert line == (
        "2023-11-14T22:13:20.750Z 200 POST example.org/v1/chat 10.0.0.9 (team) -> llm chutes a:443 "
        "500.0ms first 20.0ms in 10 out 2000 complete id=0190-abc generation=3"
    )


def test_journal_records_carry_native_fields(tmp_path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        journald.settimeout(60)
        log = AccessLog("journal", native=Native(str(tmp_path / "socket")))
        log.write(record(path="/a\nPRIORITY=0"))
        log.flush()
        fields = dict(line.split("=", 1) for line in journald.recv(65536).decode().splitlines())
        log.close()
    assert fields["RELAYD_EVENT"] == "request_completed"
    assert (fields["RELAYD_ROUTE"], fields["RELAYD_STATUS"], fields["RELAYD_TOTAL_MS"]) == ("llm", "200", "500.000")
    assert fields["PRIORITY"] == "6"
    assert fields["RELAYD_PATH"] == "/a\\x0aPRIORITY=0"
    assert fields["SYSLOG_IDENTIFIER"] == "relayd"


def test_auto_is_json_for_files_and_pipes(tmp_path: pathlib.Path) -> None:
    log = AccessLog("auto", str(tmp_path / "log"))
    assert log.format == "json"
    log.close()


def test_off_writes_nothing(tmp_path: pathlib.Path) -> None:
    log = AccessLog("off", str(tmp_path / "log"))
    log.write(record())
    log.close()
    assert not (tmp_path / "log").exists()


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="xml"):
        AccessLog("xml")


def test_a_reader_that_is_gone_costs_lines_and_one_warning() -> None:
    reader, writer = os.pipe()
    log = AccessLog("json", fd=writer)
    entry: list[str] = []
    log.listen(entry.append, lambda lost: None)
    os.close(reader)
    for _ in range(3):
        log.write(record())
        log.flush()
    assert log.dropped == 3
    assert len(entry) == 1
    log.close()
    os.close(writer)


def test_methods_made_up_by_clients_do_not_grow_the_memory(tmp_path: pathlib.Path) -> None:
    log = AccessLog("json", str(tmp_path / "log"))
    for number in range(MAX_CACHED + 10):
        log.write(record(method=f"M{number}", status=number))
    assert len(log._fixed) <= MAX_CACHED
    log.close()


def test_after_a_rotation_lines_go_to_the_new_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    log = AccessLog("json", str(path))
    log.write(record(id="first"))
    path.rename(tmp_path / "log.1")
    log.reopen()
    log.write(record(id="second"))
    log.close()
    assert json.loads((tmp_path / "log.1").read_text())["id"] == "first"
    assert json.loads(path.read_text())["id"] == "second"


def in_journal(tmp_path: pathlib.Path, **changes: Any) -> dict[str, str]:
    """The fields of one record as journald receives them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        journald.settimeout(60)
        log = AccessLog("journal", native=Native(str(tmp_path / "socket")))
        log.write(record(**changes))
        log.flush()
        entry = journald.recv(65536).decode()
        log.close()
    return dict(line.split("=", 1) for line in entry.splitlines())


def test_a_long_query_cuts_no_other_field_of_a_journal_record(tmp_path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        journald.settimeout(60)
        log = AccessLog("journal", query=True, native=Native(str(tmp_path / "socket")))
        log.write(record(query="?q=" + "x" * 1_000_000))
        log.flush()
        fields = dict(line.split("=", 1) for line in journald.recv(1 << 20).decode().splitlines())
        log.close()
    assert "RELAYD_QUERY" not in fields
    assert (fields["RELAYD_STATUS"], fields["RELAYD_OUTCOME"], fields["RELAYD_HOST"]) == ("200", "complete", "example.org")


def test_lost_journal_records_are_reported(tmp_path: pathlib.Path) -> None:
    log = AccessLog("journal", native=Native(str(tmp_path / "nobody")))
    faults: list[str] = []
    log.listen(faults.append, lambda lost: None)
    log.write(record())
    log.flush()
    assert (faults, log.dropped) == (["No such file or directory"], 1)
    log.close()


def test_the_journal_line_of_a_failed_request_names_where_it_went_and_why_it_failed(tmp_path: pathlib.Path) -> None:
    entry = in_journal(
        tmp_path, code="connect_failed", ended_by="upstream", phase="attempt", status=502,
        detail="Couldn't connect to a:443\nPRIORITY=0",
    )
    assert entry["MESSAGE"] == (
        "request_completed 502 POST example.org/v1/chat 500.000 ms upstream.attempt route=llm upstream=chutes "
        'endpoint=a:443 code=connect_failed reason="Couldn\'t connect to a:443\\x0aPRIORITY=0"'
    )
    assert entry["PRIORITY"] == "4"


def test_a_failure_without_a_detail_gives_the_reason_of_its_code(tmp_path: pathlib.Path) -> None:
    entry = in_journal(tmp_path, code="no_route", ended_by="client", phase="match", status=404, route="", upstream="", endpoint="")
    assert entry["MESSAGE"].endswith('client.match code=no_route reason="No route matches this request."')


@pytest.mark.parametrize(
    ("changes", "priority"),
    [
        ({}, "6"),
        ({"status": 404}, "6"),
        ({"status": 500}, "4"),  # the upstream's own answer, passed on
        ({"code": "upstream_cut", "ended_by": "upstream", "phase": "transfer"}, "4"),  # a 200 that broke off
        ({"code": "queue_full", "ended_by": "relayd", "phase": "admit", "status": 503}, "4"),
        ({"code": "too_many_requests", "ended_by": "client", "phase": "admit", "status": 429}, "6"),
        ({"code": "not_implemented", "ended_by": "client", "phase": "accept", "status": 501}, "6"),
        ({"code": "client_gone", "ended_by": "client", "phase": "transfer", "status": 499}, "6"),
        ({"code": "stopped", "ended_by": "admin", "phase": "transfer", "status": 503}, "4"),
        ({"code": "internal", "ended_by": "relayd", "phase": "attempt", "status": 500}, "3"),
    ],
)
def test_the_priority_follows_the_outcome(tmp_path: pathlib.Path, changes: dict[str, Any], priority: str) -> None:
    assert in_journal(tmp_path, **changes)["PRIORITY"] == priority


@pytest.mark.parametrize("format", ["json", "text"])
def test_an_apostrophe_is_written_as_such(tmp_path: pathlib.Path, format: str) -> None:
    (line,) = written(tmp_path / "log", record(detail="it isn't there", route='l"m'), format=format)
    assert "it isn't there" in line and "l\\x22m" in line.replace("\\\\", "\\")


def test_text_that_systemd_captures_carries_its_priority(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    status = os.fstat(writer)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    log = AccessLog("text", fd=writer)
    log.write(record())
    log.write(record(code="connect_failed", ended_by="upstream", phase="attempt", status=502))
    log.close()
    lines = os.read(reader, 65536).decode().splitlines()
    os.close(reader)
    assert [line[:3] for line in lines] == ["<6>", "<4>"]
