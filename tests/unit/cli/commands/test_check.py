"""`relayd check` reports all faults, and summarises an accepted configuration."""

from __future__ import annotations

import argparse
import json
import pathlib

import pytest

from relayd.cli.commands import check
from relayd.cli.main import main
from relayd.config.load import load_text
from relayd.limits import request_buffers
from relayd.proxy import request_body
from relayd.server import connection, stream
from relayd.upstream.transport import slot

GOOD = """\
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {web: {endpoints: ["http://127.0.0.1:9001"], tls: {verify: false}}}
routes:
  - {name: web, match: {prefix: /web, method: GET, header: {X-Key: sk-4711}}, upstream: web}
  - {name: gone, match: {path: /gone}, respond: 410}
"""


def run(path: pathlib.Path, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    check.configure(parser)
    return check.run(parser.parse_args(["-c", str(path), *arguments]))


@pytest.fixture
def good(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "relayd.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "relayd.yaml"
    path.write_text(GOOD.replace("prefix", "prefx").replace("410", "9"))
    return path


def test_an_accepted_file_is_summed_up(good: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(good) == 0
    output = capsys.readouterr()
    assert "listener  public: 127.0.0.1:8282\n" in output.out
    assert "upstream  web: plain, http://127.0.0.1:9001\n" in output.out
    assert "route 1   web: prefix /web, method GET, header X-Key -> upstream web\n" in output.out
    assert "route 2   gone: path /gone -> respond 410\n" in output.out
    assert output.out.endswith(f"{good}: accepted, 1 warning\n")
    assert "CERTIFICATES ARE NOT VERIFIED" in output.err
    assert "4711" not in output.out + output.err


def test_a_refused_file_is_reported_with_all_faults_and_exit_78(bad: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bad) == 78
    output = capsys.readouterr()
    assert output.out == ""
    assert f"{bad}:4:25: error: routes[0].match.prefx: unknown key 'prefx' (did you mean prefix?)" in output.err
    assert output.err.endswith(f"{bad}: refused, 2 faults\n")


def test_quiet_prints_only_faults(
    good: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(good, "-q") == 0
    assert capsys.readouterr() == ("", "")
    good.write_text(GOOD + "zzz: 1\n")
    assert run(good, "--quiet") == 78
    assert "warning" not in capsys.readouterr().err


def test_json_is_one_object_in_both_cases(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "relayd.yaml"
    path.write_text(GOOD)
    assert run(path, "--json") == 0
    output = json.loads(capsys.readouterr().out)
    assert output["accepted"]
    assert output["summary"]["routes"][1] == {"name": "gone", "match": "path /gone", "goes": "respond 410"}
    assert [one["level"] for one in output["findings"]] == ["warning"]
    path.write_text("a: [")
    assert run(path, "--json") == 78
    output = json.loads(capsys.readouterr().out)
    assert not output["accepted"]
    assert output["findings"][0]["line"] > 0


def test_a_missing_file_is_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "none.yaml") == 78
    assert "No such file" in capsys.readouterr().err


def test_the_memory_bound_counts_all_buffers_of_an_exchange() -> None:
    assert check.WAITING_BYTES == request_body.HIGH + slot.TURN + connection.HIGH
    config = load_text(GOOD, "c").config
    assert check.memory_bound(config) == (64 + 8 + 256) * 1024 + check.WAITING_BYTES
    assert request_body.HIGH >= request_buffers.FREE_BYTES + stream.SIZE  # for a gathered body


@pytest.mark.parametrize(("size", "output"), [("", "and 256MiB in all"), ("daemon: {request_buffers: 1GiB}", "and 1GiB in all"),
                                            ("daemon: {request_buffers: 0}", "without a bound")])
def test_the_bound_of_request_buffers_is_shown(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], size: str, output: str
) -> None:
    path = tmp_path / "relayd.yaml"
    path.write_text(f"{GOOD}{size}\n")
    assert run(path) == 0
    assert output in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("memory "))
    assert run(path, "--json") == 0
    assert "memory_bound_request_buffers" in json.loads(capsys.readouterr().out)["summary"]


def test_faults_found_by_compiling_the_plan_are_reported(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "relayd.yaml"
    file.write_text(
        "listeners: {a: {address: '127.0.0.1:8282'}}\n"
        "upstreams: {web: {endpoints: ['http://127.0.0.1:1']}}\n"
        "routes: [{name: r, match: {prefix: /a/}, strip_prefix: /b/, upstream: web}]\n"
    )
    assert main(["check", "-c", str(file)]) == 78
    captured = capsys.readouterr()
    assert str(file) in captured.err and "strip_prefix" in captured.err


def test_groups_are_shown_with_their_members(good: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", "sk-1")
    good.write_text(GOOD + "groups: {paying: {}, free: {}}\nconsumers: {team: {key: {env: K}, group: paying}}\n")
    assert run(good) == 0
    shown = capsys.readouterr().out
    assert "group     paying: team\n" in shown and "group     free: no consumers in the configuration\n" in shown
    assert run(good, "--json") == 0
    assert json.loads(capsys.readouterr().out)["summary"]["groups"] == {"paying": ["team"], "free": []}
