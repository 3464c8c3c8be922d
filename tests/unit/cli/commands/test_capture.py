"""`relayd capture`: the settings of a capture, its events and its end, and what list, show, export and delete print."""

from __future__ import annotations

import argparse
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.cli.commands import capture
from relayd.cli.main import main
from tests.unit.cli.admin_case import Admin
from tests.unit.cli.captured_case import IDENTITY, exchange, summary

STARTED = {"event": "capture_started", "for_s": 300.0}
ENDED = {"event": "capture_ended", "reason": "exchanges", "why": "the number of exchanges is reached", "exchanges": 2}
NOTHING: dict[str, Any] = {"is_on": False, "ends_in_s": None, "exchanges": 0, "bytes": 0, "captures": []}
GONE = (404, {"error": {"message": "No captured exchange has the id x; it may have expired."}})


def ndjson(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def captured(**members: Any) -> dict[str, Any]:
    return {"event": "captured", **summary(**members)}


def test_every_captured_exchange_is_a_line_until_the_capture_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = captured(status=502, outcome="upstream.attempt", code="tls_failed", attempts=3, path="/\x1b[2J", route="")
    with Admin(tmp_path, (200, ndjson(STARTED, captured(), failed, ENDED))) as admin:
        assert main(["capture", *admin.options]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        f"{IDENTITY}  14:00:01.250  chat  200  POST /v1/chat  complete  1 attempt",
        f"{IDENTITY}  14:00:01.250  -  502  POST /?[2J  upstream.attempt tls_failed  3 attempts",
    ]
    assert shown.err.splitlines() == [
        "relayd capture: capturing for 5m00s; Ctrl-C ends it",
        "relayd capture: ended, the number of exchanges is reached; 2 exchanges are kept for 1h00m",
    ]


def test_with_json_every_event_is_printed_as_it_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, ndjson(STARTED, captured(), captured(status=404), ENDED))) as admin:
        assert main(["capture", "--json", *admin.options]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [captured(), captured(status=404)]


def test_the_options_are_the_settings_of_the_capture(tmp_path: Path) -> None:
    with Admin(tmp_path, (200, ndjson(STARTED, ENDED))) as admin:
        assert main(["capture", *admin.options]) == 0
        assert main([
            "capture", "start", "--route", "chat", "--status", "5xx", "--slow", "2s", "--id", "abc", "--errors", "--for", "10s",
            "--max", "3", "--body", "8KiB", "--size", "1MiB", "--keep", "2m", *admin.options]) == 0
        assert main(["capture", "--no-bodies", "--body", "8KiB", *admin.options]) == 0
    assert admin.asked == ["POST /captures/start"] * 3
    plain, chosen, heads = map(json.loads, admin.bodies)
    wanted = {"for_s": 300.0, "exchanges": 100, "body_bytes": 262_144, "bytes": 67_108_864, "keep_s": 3600.0, "errors": False, "id": ""}
    assert {name: plain[name] for name in wanted} == wanted and plain["slow_s"] is None and not plain["route"]
    wanted = {"for_s": 10.0, "exchanges": 3, "body_bytes": 8192, "bytes": 1_048_576, "keep_s": 120.0, "errors": True, "id": "abc"}
    assert {name: chosen[name] for name in wanted} == wanted and chosen["slow_s"] == 2.0
    assert chosen["route"] == ["chat"] and chosen["status"] == ["5xx"] and heads["body_bytes"] == 0


def test_a_refused_capture_has_the_reason_of_relayd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (409, {"error": {"message": "A capture is on already."}})) as admin:
        assert main(["capture", *admin.options]) == 1
    assert capsys.readouterr().err == "relayd: not captured: A capture is on already.\n"


def test_a_relayd_that_leaves_has_lost_what_was_captured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, ndjson(STARTED, captured()))) as admin:
        assert main(["capture", *admin.options]) == 1
    shown = capsys.readouterr()
    assert "relayd has ended the connection; what was captured is lost" in shown.err and IDENTITY in shown.out


def test_ctrl_c_is_an_orderly_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: argparse.Namespace, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield STARTED
        yield captured()
        raise KeyboardInterrupt

    monkeypatch.setattr(capture, "events", interrupted)
    assert main(["capture", "--keep", "10m"]) == 0
    assert capsys.readouterr().err.endswith("relayd capture: ended; 1 exchanges are kept for 10m00s\n")


@pytest.mark.parametrize("words", [[], ["list"], ["show", "x"], ["export"], ["export", "x"], ["delete", "x"]])
def test_without_a_relayd_every_action_fails(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", *words, "--socket", f"{tmp_path}/none"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and f"{tmp_path}/none: No such file or directory" in shown.err


@pytest.mark.parametrize(("words", "fault"), [
    (["list", "x"], "takes no ID"), (["start", "x"], "takes no ID"), (["show"], "needs the ID of one exchange"), (["show", ""], "an ID is empty"), (["export", "x", ""], "an ID is empty"),
    (["show", "x", "y"], "needs the ID of one exchange"), (["delete"], "needs either the ID of one exchange or --all"),
    (["delete", "x", "--all"], "needs either the ID of one exchange or --all"),
    (["delete", "x", "y"], "needs either the ID of one exchange or --all"),
])
def test_wrong_usage(words: list[str], fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", *words]) == 2
    assert capsys.readouterr().err == f"relayd: capture {words[0]}: {fault}\n"


def test_a_size_that_is_none_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["capture", "--body", "much"])
    assert raised.value.code == 2 and "'much' is not a size; write for example 256KiB" in capsys.readouterr().err


def test_captured_exchanges_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = {**summary(status=404), "id": "fedcba", "expires_in_s": 90.0}
    page = {"is_on": True, "ends_in_s": 61.0, "exchanges": 2, "bytes": 4096, "captures": [summary(), second]}
    with Admin(tmp_path, (200, page)) as admin:
        assert main(["capture", "list", *admin.options]) == 0
        first, heads, *rows, last = capsys.readouterr().out.splitlines()
        assert main(["capture", "list", "--json", *admin.options]) == 0
        assert json.loads(capsys.readouterr().out) == page
    assert first == "a capture is on and ends in 1m01s at the latest" and heads.split() == list(capture.COLUMNS)
    assert [row.split()[0] for row in rows] == [IDENTITY, "fedcba"] and rows[1].split()[-4:] == ["404", "complete", "1", "2.0K"]
    assert last == "2 exchanges, 4.0K bytes; the first is deleted in 1m30s" and admin.asked == ["GET /captures"] * 2


def test_without_captured_exchanges_a_line_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, NOTHING)) as admin:
        assert main(["capture", "list", *admin.options]) == 0
    assert capsys.readouterr().out == "no captured exchanges\n"


def test_an_exchange_is_shown_as_text_raw_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, exchange())) as admin:
        assert main(["capture", "show", "01/23", *admin.options]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert main(["capture", "show", IDENTITY, "--raw", *admin.options]) == 0
        raw = capsys.readouterr().out.splitlines()
        assert main(["capture", "show", IDENTITY, "--json", *admin.options]) == 0
        assert json.loads(capsys.readouterr().out) == exchange()
    assert shown[0] == f"exchange  {IDENTITY}" and "> POST /v1/chat?x=1 HTTP/1.1" in shown and '<   "a": 1' in shown
    assert '< {"a":1}' in raw and admin.asked[:2] == ["GET /captures/01%2F23", f"GET /captures/{IDENTITY}"]


def test_an_export_is_an_archive_of_the_named_exchanges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, exchange()), (200, exchange(identity="other"))) as admin:
        assert main(["capture", "export", IDENTITY, "other", *admin.options]) == 0
    entries = json.loads(capsys.readouterr().out)["log"]["entries"]
    assert [(one["_exchange"], one.get("_attempt")) for one in entries] == [(IDENTITY, None), (IDENTITY, 1), ("other", None), ("other", 1)]
    assert entries[1]["request"]["postData"]["text"] == '{"q":1}'  # the client's body, as it arrived


def test_without_an_id_all_exchanges_are_exported_into_a_private_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "all.har"
    target.write_text("old and longer than nothing" * 1000)
    target.chmod(0o644)
    listed = {**NOTHING, "exchanges": 1, "captures": [summary()]}
    with Admin(tmp_path, (200, listed), (200, exchange('"\ud800"'))) as admin:
        assert main(["capture", "export", "-o", str(target), *admin.options]) == 0
    assert capsys.readouterr().out == f"1 exchanges: {target}\n" and admin.asked == ["GET /captures", f"GET /captures/{IDENTITY}"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600 and len(json.loads(target.read_text())["log"]["entries"]) == 2


def test_the_mode_of_a_device_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(descriptor: int, mode: int) -> None:
        raise AssertionError("the mode of a device is changed")

    monkeypatch.setattr("os.fchmod", refused)
    with Admin(tmp_path, (200, exchange())) as admin:
        assert main(["capture", "export", IDENTITY, "-o", "/dev/null", *admin.options]) == 0


def test_an_export_that_cannot_be_written_or_lacks_an_exchange_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, exchange()), GONE) as admin:
        assert main(["capture", "export", IDENTITY, "-o", f"{tmp_path}/none/x.har", *admin.options]) == 1
        assert capsys.readouterr().err == f"relayd: not exported: {tmp_path}/none/x.har: No such file or directory\n"
        assert main(["capture", "export", "x", "-o", f"{tmp_path}/x.har", *admin.options]) == 1
    assert "No captured exchange has the id x" in capsys.readouterr().err and not (tmp_path / "x.har").exists()


def test_one_or_all_are_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, {"deleted": 1}), (200, {"deleted": 4})) as admin:
        assert main(["capture", "delete", "abc", *admin.options]) == 0
        assert main(["capture", "delete", "--all", "--json", *admin.options]) == 0
    assert capsys.readouterr().out == '1 deleted\n{"deleted": 4}\n' and admin.asked == ["POST /captures/delete"] * 2
    assert list(map(json.loads, admin.bodies)) == [{"id": "abc"}, {"all": True}]
