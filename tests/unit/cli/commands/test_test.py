"""`relayd test`: expectations that hold, and each kind of deviation."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.cli.main import main

CONFIG = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  chutes:
    protocol: openai_chat
    endpoints: ["https://llm.chutes.ai/v1"]
    auth: {bearer: {env: RELAYD_TEST_UP}}
    limits: {requests: 8, queue: 64}
  web: {endpoints: ["http://127.0.0.1:9001"]}
consumers:
  team: {bearer: {env: RELAYD_TEST_TEAM}}
  other: {header: {name: X-Team, value: {env: RELAYD_TEST_OTHER}}}
routes:
  - {name: llm, match: {prefix: /v1/}, protocol: openai_chat, upstream: chutes, allow: [team]}
  - {name: gone, match: {path: /gone}, respond: {status: 410}}
  - {name: kept, match: {prefix: /kept/}, protocol: openai_chat, upstream: chutes, cache: {}}
  - {name: site, match: {host: example.org}, upstream: web}
"""
ASK = "request: POST /v1/chat/completions, consumer: team, body: 2KiB"
CACHED = "request: POST /kept/v1/chat/completions, data: '{\"model\": \"m\", \"temperature\": 0, \"messages\": []}'"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("UP", "TEAM", "OTHER"):
        monkeypatch.setenv(f"RELAYD_TEST_{name}", f"sk-{name.lower()}-never-shown")
    (tmp_path / "relayd.yaml").write_text(CONFIG)
    return tmp_path


def run(folder: Path, *tests: str) -> int:
    (folder / "tests.yaml").write_text("tests:\n" + "".join(f"  - {{{one}}}\n" for one in tests))
    return main(["test", "-c", str(folder / "relayd.yaml"), str(folder / "tests.yaml")])


@pytest.mark.parametrize("test", [
    f"{ASK}, expect: {{route: llm, upstream: chutes, status: 0, endpoint: llm.chutes.ai}}",
    f"{ASK}, expect: {{endpoint: 'llm.chutes.ai:443', key: env RELAYD_TEST_UP, target: /v1/chat/completions}}",
    f"{ASK}, expect: {{limits: {{requests: 8, queue: 64}}}}",
    "request: GET /v1/models, expect: {route: llm, status: 401, code: unauthorized}",
    "request: GET /v1/models, consumer: other, expect: {status: 403}",
    "request: GET /gone, expect: {route: gone, status: 410, cache: 'off'}",
    f"{CACHED}, expect: {{route: kept, cache: used}}", f"{CACHED}, headers: {{Cache-Control: no-store}}, expect: {{cache: bypassed}}",
    "request: GET /nowhere, expect: {route: none, status: 404}",
    "request: 'GET http://example.org:8282/x?y=1', expect: {route: site, target: '/x?y=1', key: none}",
    "request: GET /, headers: {Host: example.org, X-A: b}, peer: 10.0.0.9, expect: {upstream: web, sends: {X-A: b}}",
    "request: GET /, headers: {Content-Length: two}, expect: {status: 400, route: none}",
])
def test_expectations_that_are_met_hold(test: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, test) == 0, capsys.readouterr().out
    assert "1 of 1 hold" in capsys.readouterr().out


@pytest.mark.parametrize(("test", "message"), [
    (f"{ASK}, expect: {{route: site}}", "route: llm, expected site"),
    (f"{ASK}, expect: {{upstream: web}}", "upstream: chutes, expected web"),
    (f"{ASK}, expect: {{endpoint: example.org}}", "endpoint: llm.chutes.ai:443, expected example.org"),
    (f"{ASK}, expect: {{target: /other}}", "expected /other"),
    (f"{ASK}, expect: {{key: none}}", "key: env RELAYD_TEST_UP, expected none"),
    (f"{ASK}, expect: {{status: 404}}", "status: none, it is sent upstream, expected 404"),
    (f"{ASK}, expect: {{code: forbidden}}", "code: none, expected forbidden"),
    (f"{ASK}, expect: {{limits: {{requests: 9}}}}", "limits.requests: 8, expected 9"),
    (f"{ASK}, expect: {{sends: {{X-Team: blue}}}}", "sends X-Team: nothing, expected blue"),
    (f"{CACHED}, headers: {{Cookie: a=b}}, expect: {{cache: 'off'}}", "cache: used, expected off"),
    (f"{CACHED}, headers: {{Cache-Control: no-store}}, expect: {{cache: used}}", "cache: bypassed (no_store), expected used"),
    (f"{ASK}, expect: {{cache: used}}", "cache: off, expected used"),
    ("request: GET /v1/x, expect: {status: 0}", "status: 401 (no known key), expected 0"),
    ("request: GET /gone, expect: {upstream: web}", "not sent to any upstream"),
    ("request: GET /, consumer: nobody, expect: {status: 0}", "consumer nobody is not in the configuration"),
])
def test_deviations_are_shown(test: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, test, "request: GET /gone, expect: {status: 410}") == 1
    output = capsys.readouterr().out
    assert message in output and "1 of 2 hold" in output
    assert "never-shown" not in output


@pytest.mark.parametrize(("test", "message"), [
    ("request: GET, expect: {status: 0}", "METHOD URL"),
    ("request: GET /, expect: {}", "could never fail"),
    ("request: GET /, expect: {rout: x}", "rout"),
    ("request: GET /", "expect"),
    ("request: GET /, data: x, body: 1KiB, expect: {status: 0}", "cannot be combined with body"),
])
def test_a_file_of_tests_with_faults_is_refused(
    test: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, test) == 78
    assert message in capsys.readouterr().err


def test_missing_files_are_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "-c", str(folder / "relayd.yaml"), str(folder / "none.yaml")]) == 78
    assert main(["test", "-c", str(folder / "none.yaml"), str(folder / "tests.yaml")]) == 78
    assert "none.yaml" in capsys.readouterr().err


def test_quiet_shows_only_what_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tests.yaml").write_text("tests: [{request: GET /gone, expect: {status: 410}}]\n")
    assert main(["test", "-q", "-c", str(folder / "relayd.yaml"), str(folder / "tests.yaml")]) == 0
    assert capsys.readouterr().out == "1 of 1 hold\n"
