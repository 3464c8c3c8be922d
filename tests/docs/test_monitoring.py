"""The files of conf/monitoring: every metric and label that they use is declared, and every metric is mapped."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import yaml

from relayd.telemetry.metrics import Metrics
from relayd.telemetry.names import Metric
from relayd.telemetry.sink import declared
from relayd.telemetry.sinks.prometheus import exposed_name
from relayd.telemetry.sinks.statsd import Options as StatsdOptions
from relayd.telemetry.sinks.statsd import Sink as StatsdSink
from tests.docs.board import board
from tests.docs.metrics_page import alerts
from tests.docs.statsd_mapping import page

FOLDER = pathlib.Path(__file__).parents[2] / "conf/monitoring"
RULES: list[dict[str, Any]] = [rule for group in yaml.safe_load((FOLDER / "relayd.rules.yml").read_text())["groups"] for rule in group["rules"]]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
EXPOSED = {exposed_name(metric): metric for metric in declared()}
BUILT_IN = {"job", "instance", "le"}


def names(expression: str) -> set[str]:
    """The metrics of an expression, also those that it records."""
    return set(re.findall(r"(?:[a-z]+:)?relayd_\w+(?::\w+)?", re.sub(r'"[^"]*"', '""', expression)))


def metric_of(name: str) -> Metric | None:
    """The declared metric behind a name of a series."""
    found = EXPOSED.get(name)
    if found is None and (base := re.sub("_(bucket|sum|count)$", "", name)) != name:
        found = EXPOSED.get(base)
        assert found is None or found.kind == "timer"
    return found


def check(expression: str) -> None:
    used = names(expression)
    for name in used:
        assert name in RECORDED or metric_of(name) is not None, f"{name} is not exposed"
    labels = {label for metric in map(metric_of, used) if metric is not None for label in metric.labels}
    for rule in RULES:
        if rule.get("record") in used:
            labels |= set(re.findall(r"by \(([^)]*)\)", rule["expr"])[0].replace(" ", "").split(","))
    wanted = {one.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for one in group.split(",")}
    wanted |= set(re.findall(r"[{,](\w+)(?:=~|=|!=|!~)\"", expression))
    assert wanted <= labels | BUILT_IN, expression


def test_every_metric_and_label_of_the_rules_exists() -> None:
    for rule in RULES:
        check(rule["expr"])


def test_every_metric_and_label_of_the_board_exists() -> None:
    targets = [target for panel in board()["panels"] for target in panel.get("targets", ())]
    assert len(targets) > 30
    for target in targets:
        check(target["expr"])
        labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        metrics = [metric for name in names(target["expr"]) if (metric := metric_of(name))]
        assert labels <= {"instance", *(label for metric in metrics for label in metric.labels)} or not metrics


def test_an_unknown_name_would_be_found() -> None:
    for wrong in ("rate(relayd_proxy_request_total[5m])", "relayd_loop_lag_max_seconds_bucket", "sum by (model) (relayd_proxy_exchanges)"):
        try:
            check(wrong)
        except AssertionError:
            continue
        raise AssertionError(f"{wrong} was not found")


def test_panels_do_not_overlap_and_ids_are_unique() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y) for panel in panels for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_alerts_have_a_severity_a_summary_and_labels_that_their_expression_keeps() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("info", "warning", "critical"), rule["alert"]
        texts = rule["annotations"]["summary"] + rule["annotations"]["description"]
        kept = {"instance", "job"}
        for name in names(rule["expr"]) or {"up"}:
            metric = metric_of(name)
            recorded = [one["expr"] for one in RULES if one.get("record") == name]
            kept |= set(metric.labels) if metric is not None else set(re.findall(r"by \(([^)]*)\)", "".join(recorded) + "by ()")[0].replace(" ", "").split(","))
        assert set(re.findall(r"\$labels\.(\w+)", texts)) <= kept, rule["alert"]


def test_every_metric_is_mapped_from_the_name_that_the_statsd_sink_sends() -> None:
    mapping = yaml.safe_load(page())
    by_name = {one["name"]: one for one in mapping["mappings"]}
    assert set(by_name) == set(EXPOSED)
    for name, metric in EXPOSED.items():
        one = by_name[name]
        values = tuple(f"value_{number}" for number in range(len(metric.labels)))
        sink = StatsdSink(StatsdOptions(address="127.0.0.1:8125"), Metrics())
        sent = f"relayd.{sink._name(metric, values)}"
        found = re.fullmatch(re.escape(one["match"]).replace(r"\*", r"([^.]*)"), sent)
        assert found is not None, sent
        assert {label: found[int(text[1:])] for label, text in one.get("labels", {}).items()} == dict(zip(metric.labels, values, strict=True))


def test_the_files_are_those_that_would_be_generated() -> None:
    assert (FOLDER / "statsd_exporter.yml").read_text() == page()
    assert json.loads((FOLDER / "grafana-board.json").read_text()) == board()
