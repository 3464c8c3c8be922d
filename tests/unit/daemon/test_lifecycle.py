"""The life cycle of a process, on the loop of the test. Signals and exit codes are in the functional tests."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.config.load import load
from relayd.daemon.lifecycle import Lifecycle
from relayd.daemon.start_error import StartError, start_error
from relayd.errors import ConfigError, Finding
from relayd.protocols.dialect import run_steps
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from tests.unit.server.certificates import certificate


class Living:
    """A Lifecycle in a folder, and its log output."""

    def __init__(self, folder: Path, **change: Any) -> None:
        self.folder, self.file, self.written = folder, folder / "relayd.yaml", io.StringIO()
        self.config: dict[str, Any] = {
            "listeners": {"public": {"address": f"unix:{folder}/public.sock"}},
            "admin": {"address": f"unix:{folder}/admin.sock"},
            "routes": [{"name": "all", "respond": {"body": "hello"}}],
            "telemetry": {"access_log": {"format": "off"}},
        }
        self.write(**change)
        self.life = Lifecycle(
            str(self.file), Telemetry.build(TelemetrySettings(access_format="off", log_format="text"), self.written)
        )

    def write(self, **change: Any) -> None:
        self.config.update(change)
        self.file.write_text(json.dumps(self.config))

    def start(self) -> Lifecycle:
        self.life.start(load(str(self.file)))
        return self.life


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path


async def test_the_start_line_names_version_listeners_generation_and_file(folder: Path) -> None:
    living = Living(folder)
    life = living.start()
    line = next(line for line in living.written.getvalue().splitlines() if "started" in line)
    for word in ("version=", f"public=unix:{folder}/public.sock", "generation=1", f"config={living.file}"):
        assert word in line
    assert json.loads(life.views.ready()[2])["status"] == "ready"
    life.close()


async def test_a_reload_returns_its_changes_and_a_refused_one_its_errors(folder: Path) -> None:
    living = Living(folder)
    life = living.start()
    living.write(routes=[{"name": "other", "respond": {"body": "new"}}])
    accepted = await life.reload()
    assert (accepted.accepted, accepted.generation) == (True, 2)
    assert any("other" in change for change in accepted.changes)
    living.write(routes=[{"name": "other"}])
    refused = await life.reload()
    assert (refused.accepted, refused.generation) == (False, 2)
    assert "routes[0]" in refused.findings[0]
    refusal = life.state.refusal
    assert refusal is not None
    assert life.telemetry.metrics.value("relayd.config.rejected") == 1
    living.write(routes=[])
    assert (await life.reload()).generation == 3
    assert life.state.refusal is None
    life.close()


async def test_many_hangups_at_once_are_one_reload(folder: Path) -> None:
    living = Living(folder)
    life = living.start()
    for _ in range(10):
        life.on_hangup()
    await asyncio.sleep(0)  # one turn: the requested reload starts
    await life.reload()  # waits for the requested one
    assert life.telemetry.metrics.value("relayd.config.reloads", result="accepted") == 2
    life.close()


async def test_reloads_asked_for_at_the_same_time_follow_one_another(folder: Path) -> None:
    living = Living(folder)
    life = living.start()
    living.write(routes=[{"name": "other", "respond": {"body": "x"}}])
    results = await asyncio.gather(*(life.reload() for _ in range(5)))
    assert [(result.generation, bool(result.changes)) for result in results] == [(2, True), *[(2, False)] * 4]
    assert life.telemetry.metrics.value("relayd.config.reloads", result="accepted") == 5
    life.close()


async def test_while_draining_there_is_no_reload(folder: Path) -> None:
    life = Living(folder).start()
    life.on_stop("SIGTERM", False)
    await asyncio.wait_for(life.stopped.wait(), 60)
    assert not (await life.reload()).accepted
    life.request_reload()
    assert life.gateway.plan is not None
    assert life.gateway.plan.generation == 1
    life.close()


async def test_the_end_leaves_no_socket_and_no_note_behind(folder: Path) -> None:
    living = Living(folder)
    life = living.start()
    note = life._socket_note
    assert os.path.exists(note)
    life.on_stop("SIGTERM", False)
    await asyncio.wait_for(life.stopped.wait(), 60)
    life.close()
    assert os.listdir(folder) == ["relayd.yaml"]
    assert not os.path.exists(note)


async def test_a_port_in_use_is_no_fault_of_the_file(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        living = Living(folder, listeners={"public": {"address": f"127.0.0.1:{port}"}})
        with pytest.raises(StartError) as failed:
            living.start()
    assert f"127.0.0.1:{port}" in failed.value.lines[0]
    assert f"(pid {os.getpid()})" in failed.value.lines[0]
    living.life.close()
    assert os.listdir(folder) == ["relayd.yaml"]


async def test_other_faults_of_preparing_are_faults_of_the_configuration(folder: Path) -> None:
    loaded = load(str(Living(folder).file))
    error = ConfigError([Finding("", 0, 0, "listeners.public.tls", "no such file")])
    assert start_error(error, loaded) is error


async def test_a_reload_lists_files_that_are_no_longer_included(folder: Path) -> None:
    (folder / "d").mkdir()
    for name in ("a", "b"):
        (folder / "d" / f"{name}.yaml").write_text(f"routes: [{{name: {name}, match: {{path: /{name}}}, respond: 200}}]\n")
    living = Living(folder, include=str(folder / "d" / "*.yaml"))
    life = living.start()
    (folder / "d" / "a.yaml").unlink()
    data = json.loads((await life.compare()).page()[2])
    assert data["changes"][0] == f"- include: {folder}/d/a.yaml"
    result = await life.reload()
    assert result.changes[0] == f"- include: {folder}/d/a.yaml"
    (folder / "d" / "b.yaml").unlink()
    assert f"- include: {folder}/d/b.yaml" in (await life.reload()).changes
    life.close()


async def test_the_end_of_a_certificate_is_in_the_log_the_status_and_the_metrics(folder: Path) -> None:
    one = certificate(folder, "one.example")  # valid for two days
    listener = {"address": "127.0.0.1:0", "tls": {"certificates": [{"cert": one.cert, "key": one.key}]}}
    living = Living(folder, listeners={"public": listener})
    life = living.start()
    assert "THE CERTIFICATE EXPIRES SOON" in living.written.getvalue()
    (data,) = json.loads(run_steps(life.views.status_steps()))["certificates"]
    assert (data["of"], data["name"], data["file"]) == ("listener", "public", one.cert) and 0 < data["left_s"] <= 2 * 86400
    life.telemetry.refresh_gauges()
    left = life.telemetry.metrics.value("relayd.listener.certificate_left", listener="public", file=one.cert)
    assert left is not None and 0 < left <= 2 * 86400
    life.close()


async def test_a_reload_refuses_what_a_check_refuses(folder: Path) -> None:
    living = Living(folder)
    life = living.start()
    (folder / "empty.pem").write_bytes(b"")
    living.write(upstreams={"up": {"endpoints": ["https://127.0.0.1:1"], "tls": {"ca": str(folder / "empty.pem")}}})
    result = await life.reload()
    assert not result.accepted and "holds no certificate" in result.findings[0]
    life.close()


async def test_a_reload_without_changes_does_not_raise_the_generation(folder: Path) -> None:
    one = certificate(folder, "one.example")
    listener = {"address": f"unix:{folder}/public.sock", "tls": {"certificates": [{"cert": one.cert, "key": one.key}]}}
    living = Living(folder, listeners={"public": listener})
    life = living.start()
    result = await life.reload()
    assert result.accepted and result.generation == 1 and result.changes == ()
    living.write(nonsense=1)
    assert not (await life.reload()).accepted
    living.config.pop("nonsense")
    living.write()
    assert (await life.reload()).generation == 1 and life.state.refusal is None
    certificate(folder, "one.example")  # renewed in place
    assert (await life.reload()).generation == 2
    life.close()
