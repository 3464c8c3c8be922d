"""Generator of the Grafana board. `python3 -m tests.docs.board > conf/monitoring/grafana-board.json` writes the file."""

from __future__ import annotations

import json
import sys
from typing import Any

ONE = 'job=~"$job",instance=~"$instance"'
WIDTH, HEIGHT, COLUMNS = 8, 8, 3

# Title, unit of Grafana, and pairs of an expression and the text of its legend. A text alone begins a row.
Panel = tuple[str, str, tuple[tuple[str, str], ...]]
PANELS: tuple[str | Panel, ...] = (
    "Requests",
    ("Requests per second", "reqps", ((f"sum by (route) (rate(relayd_proxy_requests_total{{{ONE}}}[$__rate_interval]))", "{{route}}"),)),
    ("Failures", "percentunit", ((f"route:relayd_proxy_failures:ratio5m{{{ONE}}}", "{{route}} {{instance}}"),)),
    ("Errors by code", "reqps", ((f"sum by (code) (rate(relayd_proxy_errors_total{{{ONE}}}[$__rate_interval]))", "{{code}}"),)),
    ("Time to the response head", "s", tuple(
        (f"histogram_quantile({share}, sum by (route, le) (rate(relayd_proxy_first_byte_seconds_bucket{{{ONE}}}[$__rate_interval])))", f"{{{{route}}}} p{name}")
        for share, name in ((0.5, 50), (0.95, 95), (0.99, 99))
    )),
    ("Duration", "s", tuple(
        (f"histogram_quantile({share}, sum by (route, le) (rate(relayd_proxy_total_seconds_bucket{{{ONE}}}[$__rate_interval])))", f"{{{{route}}}} p{name}")
        for share, name in ((0.5, 50), (0.95, 95), (0.99, 99))
    )),
    ("Active", "short", (
        (f"sum(relayd_proxy_exchanges{{{ONE}}})", "exchanges"), (f"sum(relayd_proxy_streams{{{ONE}}})", "streams"),
        (f"sum(relayd_listener_connections{{{ONE}}})", "connections"),
    )),
    "AI",
    ("Tokens per second", "short", ((f"sum by (upstream, direction) (rate(relayd_proxy_tokens_total{{{ONE}}}[$__rate_interval]))", "{{upstream}} {{direction}}"),)),
    ("Cost per hour", "short", ((f"sum by (consumer) (consumer:relayd_proxy_cost:rate1h{{{ONE}}})", "{{consumer}}"),)),
    ("Rates and budgets used", "percentunit", ((f"relayd_limits_used{{{ONE}}}", "{{limit}}"),)),
    "Upstreams",
    ("Available endpoints", "short", ((f"sum by (upstream) (relayd_upstream_available{{{ONE}}})", "{{upstream}}"),)),
    ("Attempts per second", "reqps", ((f"sum by (upstream) (rate(relayd_upstream_attempts_total{{{ONE}}}[$__rate_interval]))", "{{upstream}}"),)),
    ("Changes of endpoints and keys", "short", ((f"sum by (upstream, event) (increase(relayd_upstream_changes_total{{{ONE}}}[$__rate_interval]))", "{{upstream}} {{event}}"),)),
    ("Connect time p95", "s", ((f"histogram_quantile(0.95, sum by (upstream, le) (rate(relayd_upstream_connect_seconds_bucket{{{ONE}}}[$__rate_interval])))", "{{upstream}}"),)),
    "Admission",
    ("Queues", "short", ((f"sum by (gate) (relayd_queue_depth{{{ONE}}})", "{{gate}}"),)),
    ("Oldest in the queue", "s", ((f"max by (gate) (relayd_queue_oldest_seconds{{{ONE}}})", "{{gate}}"),)),
    ("Refused by rates and budgets", "reqps", ((f"sum by (limit) (rate(relayd_limits_exceeded_total{{{ONE}}}[$__rate_interval]))", "{{limit}}"),)),
    ("Rejected by overload", "percentunit", ((f"relayd_overload_share{{{ONE}}}", "{{instance}}"),)),
    ("Refused connections", "cps", ((f"sum by (listener, reason) (rate(relayd_listener_refused_total{{{ONE}}}[$__rate_interval]))", "{{listener}} {{reason}}"),)),
    ("Buffered request bodies", "bytes", ((f"relayd_buffers_used_bytes{{{ONE}}}", "{{instance}}"),)),
    "Process",
    ("Memory", "bytes", ((f"relayd_daemon_memory_bytes{{{ONE}}}", "{{instance}}"),)),
    ("Lag of the event loop", "s", ((f"relayd_loop_lag_max_seconds{{{ONE}}}", "{{instance}}"),)),
    ("File descriptors", "short", ((f"relayd_daemon_descriptors{{{ONE}}}", "{{instance}}"),)),
    ("Traffic", "Bps", (
        (f"sum(rate(relayd_proxy_bytes_in_total{{{ONE}}}[$__rate_interval]))", "requests"),
        (f"sum(rate(relayd_proxy_bytes_out_total{{{ONE}}}[$__rate_interval]))", "responses"),
    )),
    ("Certificates", "s", ((f"min by (file) (relayd_listener_certificate_left_seconds{{{ONE}}})", "{{file}}"),)),
    ("Generation of the configuration", "short", (
        (f"relayd_config_generation{{{ONE}}}", "{{instance}}"), (f"relayd_config_rejected{{{ONE}}}", "{{instance}} rejected"),
    )),
)  # fmt: skip
SOURCE = {"type": "prometheus", "uid": "${source}"}


def target(number: int, expression: str, legend: str) -> dict[str, Any]:
    return {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expression, "legendFormat": legend, "exemplar": "_bucket" in expression}


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "current": {"text": "All", "value": "$__all"},
    }


def board() -> dict[str, Any]:
    """The model of the board."""
    panels: list[dict[str, Any]] = []
    column = row = 0
    for number, one in enumerate(PANELS, 1):
        if isinstance(one, str):
            row += HEIGHT if column else 0
            panels.append({"id": number, "type": "row", "title": one, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": row, "w": 24, "h": 1}})
            column, row = 0, row + 1
            continue
        title, unit, queries = one
        panels.append({
            "id": number, "type": "timeseries", "title": title, "datasource": SOURCE,
            "gridPos": {"x": column * WIDTH, "y": row, "w": WIDTH, "h": HEIGHT},
            "fieldConfig": {"defaults": {"unit": unit, "min": None if title == "Certificates" else 0}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
            "targets": [target(index, *query) for index, query in enumerate(queries)],
        })  # fmt: skip
        column = (column + 1) % COLUMNS
        row += 0 if column else HEIGHT
    return {
        "title": "relayd", "uid": "relayd", "tags": ["relayd"], "schemaVersion": 38, "version": 1, "editable": True,
        "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}},
            variable("job", "Job", "label_values(relayd_daemon_uptime_seconds, job)"),
            variable("instance", "Instance", 'label_values(relayd_daemon_uptime_seconds{job=~"$job"}, instance)'),
        ]},
        "annotations": {"list": [{
            "name": "Reloads", "enable": True, "iconColor": "blue", "datasource": SOURCE,
            "expr": f"changes(relayd_config_generation{{{ONE}}}[1m]) > 0", "titleFormat": "reload",
        }]},
        "panels": panels,
    }  # fmt: skip


if __name__ == "__main__":
    json.dump(board(), sys.stdout, indent=1)
    sys.stdout.write("\n")
