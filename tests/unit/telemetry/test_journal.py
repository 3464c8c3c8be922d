"""relayd's own log: one event, one line, no secret, in each format."""

from __future__ import annotations

import io
import json
import logging
import os
import pathlib
import pty
import socket
from collections.abc import Iterator

import pytest

from relayd import clock
from relayd.telemetry.journal import MAX_LIMITED_KEYS, Journal, LoggingBridge
from relayd.telemetry.native import Native


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    found = logging.getLogger()
    before, level = found.handlers[:], found.level
    yield found
    found.handlers[:] = before
    found.setLevel(level)


def test_a_json_event_carries_name_level_generation_and_fields() -> None:
    out = io.StringIO()
    journal = Journal("json", "info", out)
    journal.generation = 7
    journal.warning("reload_refused", "Two faults.", faults=2, file="relayd.yaml", lag_s=0.25, done=False, none=None)
    entry = json.loads(out.getvalue())
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "event": "reload_refused", "level": "warning", "message": "Two faults.", "generation": 7, "faults": 2,
        "file": "relayd.yaml", "lag_s": 0.25, "done": False, "none": None,
    }


def test_a_text_event_is_one_line_with_its_fields() -> None:
    out = io.StringIO()
    Journal("text", "info", out).info("listener_bound", "Ready.", address="127.0.0.1:8282", note="two words", empty="")
    line = out.getvalue()
    assert line.endswith(
        ' info    listener_bound Ready. address=127.0.0.1:8282 note="two words" empty="" generation=0\n'
    )


@pytest.mark.parametrize("format", ["text", "json"])
def test_nothing_from_outside_begins_a_line_or_colours_a_terminal(format: str) -> None:
    out = io.StringIO()
    Journal(format, "info", out).info("seen", "a\nb\x1b[31m", peer='x"\r\ny', odd="\ud800")
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()


def test_events_below_the_level_are_not_written() -> None:
    out = io.StringIO()
    journal = Journal("text", "warning", out)
    journal.debug("a_seen")
    journal.info("b_seen")
    journal.error("c_seen")
    assert out.getvalue().count("\n") == 1
    journal.configure("text", "debug")
    journal.debug("a_seen")
    assert out.getvalue().count("\n") == 2


@pytest.mark.parametrize(
    "name", ["authorization", "Proxy_Authorization", "set_cookie", "api_key", "x_api_key", "access_token", "key", "password"]
)
def test_a_field_named_like_a_secret_is_masked(name: str) -> None:
    out = io.StringIO()
    Journal("json", "info", out).info("seen", **{name: "SECRET"})
    assert json.loads(out.getvalue())[name] == "***"


def test_limited_events_are_written_once_and_then_say_how_many_were_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    out = io.StringIO()
    journal = Journal("json", "info", out)
    for _ in range(5):
        journal.limited("peer 1", 60, "warning", "garbage_received")
    journal.limited("peer 2", 60, "warning", "garbage_received")
    assert out.getvalue().count("\n") == 2
    now = 161.0
    journal.limited("peer 1", 60, "warning", "garbage_received")
    assert json.loads(out.getvalue().splitlines()[-1])["suppressed"] == 4


def test_limited_keys_made_by_clients_do_not_grow_the_memory() -> None:
    journal = Journal("json", "error", io.StringIO())
    for number in range(MAX_LIMITED_KEYS * 2 + 5):
        journal.limited(f"peer {number}", 60, "info", "garbage_received")
    assert len(journal._limited) <= MAX_LIMITED_KEYS


def test_a_terminal_gets_colours_unless_it_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for wish, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", wish)
        leader, follower = pty.openpty()
        with open(follower, "w") as stream:
            journal = Journal("auto", "info", stream)
            journal.error("reload_refused")
            assert (b"\x1b[31m" in os.read(leader, 4096)) is coloured
            journal.close()
        os.close(leader)


def test_under_systemd_a_line_begins_with_its_priority(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "stderr", "w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        journal = Journal("auto", "info", stream)
        journal.warning("reload_refused", "x")
        journal.close()
    assert (tmp_path / "stderr").read_text() == "<4>reload_refused x generation=0\n"


def test_the_native_format_sends_fields_and_falls_back_to_lines(tmp_path: pathlib.Path) -> None:
    path, out = str(tmp_path / "socket"), io.StringIO()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(path)
        journald.settimeout(60)
        journal = Journal("journal", "info", out, native=Native(path))
        journal.generation = 2
        journal.error("reload_refused", "Two faults.", file="a b", **{"odd-name": 1})
        fields = dict(line.split("=", 1) for line in journald.recv(65536).decode().splitlines())
    assert fields == {
        "MESSAGE": 'reload_refused Two faults. file="a b" odd-name=1', "PRIORITY": "3", "SYSLOG_IDENTIFIER": "relayd",
        "RELAYD_EVENT": "reload_refused", "RELAYD_GENERATION": "2", "RELAYD_FILE": "a b", "RELAYD_ODD_NAME": "1",
    }
    assert out.getvalue() == ""
    journal.error("reload_refused")
    assert "reload_refused" in out.getvalue()
    journal.close()


def test_a_stream_that_was_closed_is_no_error() -> None:
    out = io.StringIO()
    journal = Journal("text", "info", out)
    out.close()
    journal.error("reload_refused")


def test_what_libraries_log_becomes_an_event(root: logging.Logger) -> None:
    out = io.StringIO()
    LoggingBridge(Journal("json", "info", out)).install()
    logging.getLogger("tornado.access").warning("404 GET %s 1ms", "/x?model=a&key=SECRET")
    logging.getLogger("tornado.general").debug("not this")
    (line,) = out.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["level"], entry["logger"]) == ("library_logged", "warning", "tornado.access")
    assert entry["message"] == "404 GET /x?model=a&key=*** 1ms"


def test_a_traceback_of_a_library_stays_one_line(root: logging.Logger) -> None:
    out = io.StringIO()
    LoggingBridge(Journal("text", "info", out)).install()
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("tornado.application").exception("failed")
    assert out.getvalue().count("\n") == 1
    assert "ValueError: inner" in out.getvalue()


def test_a_library_that_logs_badly_harms_nobody(root: logging.Logger) -> None:
    out = io.StringIO()
    LoggingBridge(Journal("json", "info", out)).install()
    logging.getLogger("some").error("%d", "no number")
    assert json.loads(out.getvalue())["event"] == "library_log_failed"
