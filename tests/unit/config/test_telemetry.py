"""`telemetry:`."""

from __future__ import annotations

from pathlib import Path

from relayd.schema.plugins import options_of
from relayd.telemetry.sink import SINKS
from tests.unit.config.section_case import accepted, faults


def test_without_a_word_there_is_an_access_log_and_no_statsd() -> None:
    config, _ = accepted()
    telemetry = config.telemetry
    assert (telemetry.access_log.format, telemetry.log.level) == ("auto", "info")
    assert options_of(telemetry, SINKS, "statsd") is None and options_of(telemetry, SINKS, "prometheus").enabled


def test_the_access_log_can_be_switched_off_by_the_plain_word_off() -> None:
    config, _ = accepted(telemetry="{access_log: {format: off}}")
    assert config.telemetry.access_log.format == "off"


def test_a_log_file_has_an_absolute_path_and_is_not_the_journal() -> None:
    assert list(faults(telemetry="{access_log: {file: a.log}}")) == ["telemetry.access_log.file"]
    assert list(faults(telemetry="{access_log: {file: /a.log, format: journal}}")) == ["telemetry.access_log.file"]


def test_statsd_is_host_and_port_at_a_sane_pace() -> None:
    config, _ = accepted(telemetry="{statsd: {address: '127.0.0.1:8125', tags: yes}}")
    assert options_of(config.telemetry, SINKS, "statsd").tags
    assert list(faults(telemetry="{statsd: {address: here}}")) == ["telemetry.statsd.address"]
    assert list(faults(telemetry="{statsd: {address: 'a:1', interval: 1ms, prefix: 'a b'}}")) == [
        "telemetry.statsd.interval", "telemetry.statsd.prefix"]


def test_an_alias_is_a_new_name_for_a_metric_that_is_there() -> None:
    config, _ = accepted(telemetry="{prometheus: {aliases: {my_total: relayd_proxy_requests_total}}}")
    assert options_of(config.telemetry, SINKS, "prometheus").aliases == {"my_total": "relayd_proxy_requests_total"}
    for aliases, key in (("{a: relayd_proxy_requests}", "a"), ("{relayd_daemon_uptime_seconds: relayd_daemon_memory_bytes}",
                         "relayd_daemon_uptime_seconds"), ("{1a: relayd_daemon_memory_bytes}", "1a")):
        assert list(faults(telemetry=f"{{prometheus: {{aliases: {aliases}}}}}")) == [f"telemetry.prometheus.aliases.{key}"]


def test_a_webhook_has_one_usable_url_and_no_key_on_a_plain_connection(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hook-key")
    (tmp_path / "url").write_text("https://chat.example/services/hook-key")
    config, _ = accepted(telemetry=f"{{budget_webhook: {{secret_url: {{file: {tmp_path}/url}}}}}}")
    hook = config.telemetry.budget_webhook
    assert hook is not None and hook.address == "https://chat.example/services/hook-key" and "hook-key" not in repr(hook)
    assert list(faults(telemetry="{budget_webhook: {}}")) == ["telemetry.budget_webhook"]
    assert list(faults(telemetry="{budget_webhook: {url: ftp://a}}")) == ["telemetry.budget_webhook.url"]
    found = faults(telemetry=f"{{budget_webhook: {{secret_url: {{file: {tmp_path}/key}}}}}}")
    assert list(found) == ["telemetry.budget_webhook.secret_url"] and "hook-key" not in str(found)
    _, warnings = accepted(telemetry=f"{{budget_webhook: {{url: 'http://a/', bearer: {{file: {tmp_path}/key}}}}}}")
    assert "without TLS" in warnings["telemetry.budget_webhook.bearer"]
