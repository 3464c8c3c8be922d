"""Telemetry as a whole: built from settings, changed by a reload, closed with nothing left unwritten."""

from __future__ import annotations

import gc
import io
import json
import os
import pathlib
import socket

import pytest

from relayd.errors import ConfigError
from relayd.protocols.dialect import run_steps
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.sinks import otlp, prometheus, statsd
from relayd.telemetry.telemetry import Telemetry
from tests.unit.telemetry.record import record


def statsd_at(address: str) -> dict[str, object]:
    return {"statsd": statsd.Options(address=address)}


def page(telemetry: Telemetry) -> bytes:
    found = telemetry.page()
    return b"" if found is None else run_steps(found[1])


def test_an_account_is_counted_and_written_down(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    telemetry = Telemetry.build(TelemetrySettings(access_file=str(path)), io.StringIO())
    telemetry.account(record())
    telemetry.flush()
    assert json.loads(path.read_text())["route"] == "llm"
    assert telemetry.metrics.value("relayd.proxy.requests") == 1
    telemetry.close()


def test_closing_writes_and_sends_what_waits(tmp_path: pathlib.Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(60)
        telemetry = Telemetry.build(
            TelemetrySettings(
                access_file=str(tmp_path / "log"), sinks={"statsd": statsd.Options(address=f"127.0.0.1:{server.getsockname()[1]}")},
            ),
            io.StringIO(),
        )
        telemetry.account(record())
        telemetry.close()
        assert b"relayd.proxy.requests.llm.chutes.2xx.complete:1|c" in server.recv(65536)
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_a_file_that_cannot_be_opened_is_a_fault_of_the_configuration(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"telemetry\.access_log\.file: cannot be opened: No such file"):
        Telemetry.build(TelemetrySettings(access_file=str(tmp_path / "no/log")), io.StringIO())


def test_a_refused_change_leaves_everything_as_it_was_and_nothing_open(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    telemetry = Telemetry.build(TelemetrySettings(access_file=str(path)), io.StringIO())
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ConfigError, match=r"telemetry\.statsd\.address"):
        telemetry.prepare(TelemetrySettings(access_file=str(tmp_path / "new"), sinks=statsd_at("nowhere")))
    prepared = telemetry.prepare(TelemetrySettings(access_file=str(tmp_path / "new"), sinks=statsd_at("127.0.0.1:9")))
    telemetry.discard(prepared)
    assert os.listdir("/proc/self/fd") == before
    telemetry.account(record())
    telemetry.close()
    assert len(path.read_text().splitlines()) == 1


def test_a_change_moves_the_log_and_keeps_the_counters(tmp_path: pathlib.Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    telemetry = Telemetry.build(TelemetrySettings(access_file=str(old)), io.StringIO())
    telemetry.account(record(id="first"))
    prepared = telemetry.prepare(TelemetrySettings(access_file=str(new)))
    telemetry.account(record(id="second"))
    telemetry.commit(prepared)
    telemetry.account(record(id="third"))
    telemetry.close()
    assert [json.loads(line)["id"] for line in old.read_text().splitlines()] == ["first", "second"]
    assert [json.loads(line)["id"] for line in new.read_text().splitlines()] == ["third"]
    assert telemetry.metrics.value("relayd.proxy.requests") == 3


def test_replaced_sinks_with_nothing_left_to_send_are_freed() -> None:
    telemetry = Telemetry.build(TelemetrySettings(), io.StringIO())
    for port in range(4000, 4005):
        sinks = {"otlp": otlp.Options(endpoint=f"http://127.0.0.1:{port}")}
        telemetry.commit(telemetry.prepare(TelemetrySettings(sinks=sinks)))
    gc.collect()
    assert sum(isinstance(one, otlp.Sink) for one in gc.get_objects()) == 1
    telemetry.close()


def test_an_unchanged_output_is_kept_and_the_level_changes(tmp_path: pathlib.Path) -> None:
    out = io.StringIO()
    settings = TelemetrySettings(access_file=str(tmp_path / "log"), sinks=statsd_at("127.0.0.1:9"))
    telemetry = Telemetry.build(settings, out)
    prepared = telemetry.prepare(
        TelemetrySettings(access_file=str(tmp_path / "log"), sinks=statsd_at("127.0.0.1:9"), log_level="debug")
    )
    assert prepared.access_log is None
    assert prepared.sinks == {}
    telemetry.commit(prepared)
    telemetry.journal.debug("level_changed")
    assert "level_changed" in out.getvalue()
    assert telemetry.metrics.keep, "statsd was switched off by a change that kept it"
    telemetry.commit(telemetry.prepare(TelemetrySettings(access_file=str(tmp_path / "log"))))
    assert not telemetry.metrics.keep
    telemetry.close()


def test_lost_lines_are_an_event_and_a_counter(tmp_path: pathlib.Path) -> None:
    out = io.StringIO()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    telemetry = Telemetry.build(TelemetrySettings(access_file=str(fifo), log_format="json"), out)
    os.close(reader)
    for _ in range(4):
        telemetry.account(record())
        telemetry.flush()
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(event["event"], event["why"]) for event in events] == [("access_log_broke", "Broken pipe")]
    telemetry.send()
    assert telemetry.metrics.value("relayd.telemetry.lines_dropped", log="access") == 4
    telemetry.close()


def test_a_rotation_that_fails_is_an_event(tmp_path: pathlib.Path) -> None:
    out, folder = io.StringIO(), tmp_path / "folder"
    folder.mkdir()
    telemetry = Telemetry.build(TelemetrySettings(access_file=str(folder / "log")), out)
    folder.rename(tmp_path / "moved")
    telemetry.reopen()
    telemetry.account(record())
    telemetry.close()
    assert "access_log_reopen_failed" in out.getvalue()
    assert len((tmp_path / "moved/log").read_text().splitlines()) == 1


def test_the_generation_is_in_every_line_and_in_the_gauge() -> None:
    out = io.StringIO()
    telemetry = Telemetry.build(TelemetrySettings(access_format="off", log_format="json"), out)
    telemetry.set_generation(4)
    telemetry.journal.info("reload_accepted")
    assert json.loads(out.getvalue())["generation"] == 4
    assert b"\nrelayd_config_generation 4\n" in (page(telemetry))
    telemetry.close()


def test_the_process_and_its_loop_are_measured() -> None:
    telemetry = Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO())
    telemetry.lag(0.001)
    telemetry.lag(0.3)
    telemetry.page()
    assert telemetry.metrics.value("relayd.daemon.memory") > 1 << 20
    assert telemetry.metrics.value("relayd.daemon.descriptors") >= 3
    assert telemetry.metrics.value("relayd.loop.lag_max") == 0.3
    telemetry.close()


def test_prometheus_can_be_switched_off() -> None:
    telemetry = Telemetry.build(TelemetrySettings(access_format="off", sinks={"prometheus": prometheus.Options(enabled=False)}), io.StringIO())
    assert telemetry.page() is None
    telemetry.close()


def test_gauges_are_read_when_metrics_are_asked_for() -> None:
    made = Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO())
    made.refresh_gauges = lambda: made.metrics.gauge("relayd.config.rejected", 1)
    assert b"relayd_config_rejected 1" in (page(made))
