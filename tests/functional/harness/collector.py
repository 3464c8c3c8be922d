"""An OpenTelemetry collector that keeps what it is sent. Messages are parsed by OpenTelemetry's own protobuf definitions
if they are installed, which refuses unknown members and values of another type."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
from typing import Any

from tests.functional.harness.message import Message, answer
from tests.functional.harness.upstream import Peer, Script, Upstream

MESSAGES = {
    "/v1/traces": ("trace", "ExportTraceServiceRequest"), "/v1/logs": ("logs", "ExportLogsServiceRequest"),
    "/v1/metrics": ("metrics", "ExportMetricsServiceRequest"),
}


def validate(path: str, body: bytes) -> None:
    """Parse a request as a collector does. Raises ValueError or json_format.ParseError for an invalid one."""
    signal, name = MESSAGES[path]
    with contextlib.suppress(ModuleNotFoundError):
        json_format: Any = importlib.import_module("google.protobuf.json_format")
        module: Any = importlib.import_module(f"opentelemetry.proto.collector.{signal}.v1.{signal}_service_pb2")
        json_format.Parse(body, getattr(module, name)())


class Collector(Upstream):
    """A collector on a loopback port. `answers` are scripts for the next requests; afterwards it accepts everything."""

    def fresh(self) -> None:
        super().fresh()
        self.script = self._take
        self.answers: list[Script] = []
        self.messages: list[Message] = []

    def _take(self, peer: Peer, message: Message) -> None:
        if self.answers:
            self.answers.pop(0)(peer, message)
            return
        self.messages.append(peer.whole(message))
        peer.send(answer(b"{}", b"Content-Type: application/json"))

    def __enter__(self) -> Collector:
        super().__enter__()
        return self

    @property
    def exports(self) -> list[tuple[str, Message, bytes]]:
        """The path, the message and the JSON of every accepted request."""
        return [
            (one.target.decode(), one, gzip.decompress(one.body) if one.get("content-encoding") == b"gzip" else one.body)
            for one in list(self.messages)
        ]

    def validate(self) -> None:
        """Parse every accepted request. Raises for an invalid one."""
        for path, _, body in self.exports:
            validate(path, body)

    def items(self, signal: str) -> list[dict[str, Any]]:
        """All spans, log records or metrics."""
        many, scoped, name = {
            "traces": ("resourceSpans", "scopeSpans", "spans"), "logs": ("resourceLogs", "scopeLogs", "logRecords"),
            "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
        }[signal]
        return [
            item for path, _, body in self.exports if path == f"/v1/{signal}"
            for resource in json.loads(body)[many] for scope in resource[scoped] for item in scope[name]
        ]

    def spans(self, trace_id: str = "") -> list[dict[str, Any]]:
        return [one for one in self.items("traces") if not trace_id or one["traceId"] == trace_id]


def attributes(item: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a span, log record or data point as plain values."""
    return {one["key"]: plain(one["value"]) for one in item["attributes"]}


def plain(value: dict[str, Any]) -> Any:
    kind, inner = next(iter(value.items()))
    if kind == "intValue":
        return int(inner)
    return [plain(one) for one in inner["values"]] if kind == "arrayValue" else inner
