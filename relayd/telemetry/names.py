"""The declarations of relayd's metrics, used by every sink and by relayd-metrics(7).

1. A name has the form `relayd.<area>.<metric>`; names are added, never renamed.
2. The values of a label are names of the configuration or members of a closed set; never values from a request.
3. Timers are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "timer", "gauge"]


@dataclass(frozen=True, slots=True)
class Metric:
    """The declaration of one metric. `unit` is empty for plain numbers."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    doc: str


LABELS = {
    "route": "Name of the route; empty if none matched.",
    "upstream": "Name of the upstream; empty if no request was sent to one.",
    "listener": "Name of the listener.",
    "status": "Class of the status: 1xx to 5xx, or none if no response was sent.",
    "outcome": "complete, or the party that ended the exchange and its phase (client.transfer, upstream.attempt ...).",
    "code": "Stable error code, as in error bodies and the access log.",
    "rule": "The violated rule of the request gate.",
    "reason": "limit, peer_limit, descriptors or draining.",
    "result": "accepted or refused.",
    "log": "access or journal.",
    "gate": "The owner of the limits: upstream NAME, route NAME or consumer NAME.",
    "endpoint": "Address of the endpoint.",
    "cause": "locked, full, read_only, damaged, slow, too_large, closed or failed.",
    "file": "Path of the certificate file.",
    "event": "Name of the event, as in the log.",
    "fate": "carried (as text) or left_out (dropped).",
    "direction": "input, output, cached (the part of the input that the endpoint read from its prompt cache) or cache_creation (the part of the input that it wrote to that cache).",
}

EXCHANGE = ("route", "upstream", "status", "outcome")
PAIR = ("route", "upstream")

METRICS: tuple[Metric, ...] = (
    Metric("relayd.proxy.requests", "counter", "", EXCHANGE, "Finished exchanges, each counted once."),
    Metric("relayd.proxy.errors", "counter", "", ("code",), "Exchanges that ended with an error, by its code."),
    Metric("relayd.proxy.bytes_in", "counter", "bytes", PAIR, "Bytes of request bodies received from clients."),
    Metric("relayd.proxy.bytes_out", "counter", "bytes", PAIR, "Bytes of responses sent to clients."),
    Metric(
        "relayd.proxy.total", "timer", "seconds", PAIR,
        "Time from the first byte of the request to the end of the exchange.",
    ),
    Metric(
        "relayd.proxy.first_byte", "timer", "seconds", PAIR,
        "Time from the first byte of the request to the head of the response.",
    ),
    Metric("relayd.proxy.queue", "timer", "seconds", PAIR, "Time spent in a queue, of exchanges that waited."),
    Metric("relayd.proxy.exchanges", "gauge", "", (), "Active exchanges."),
    Metric("relayd.proxy.streams", "gauge", "", (), "Responses that are currently streamed."),
    Metric(
        "relayd.upstream.connect", "timer", "seconds", PAIR,
        "Duration of name resolution, connect and TLS handshake of new connections.",
    ),
    Metric(
        "relayd.upstream.attempts", "counter", "", PAIR,
        "Attempts sent to endpoints, including retries and fallbacks.",
    ),
    Metric(
        "relayd.proxy.tokens", "counter", "", ("route", "upstream", "direction"),
        "Tokens reported by endpoints that speak an AI dialect.",
    ),
    Metric(
        "relayd.proxy.unknown_items", "counter", "", ("route", "upstream", "fate"),
        "Items of AI requests with an unknown type, which are carried as text, or dropped if they contain no text.",
    ),
    Metric("relayd.queue.depth", "gauge", "", ("gate",), "Exchanges that wait for a permit in the queue."),
    Metric("relayd.queue.in_flight", "gauge", "", ("gate",), "Permits in use."),
    Metric("relayd.queue.oldest", "gauge", "seconds", ("gate",), "Waiting time of the exchange that has waited longest."),
    Metric("relayd.overload.share", "gauge", "", (), "Fraction of requests that are rejected because relayd itself is overloaded."),
    Metric(
        "relayd.buffers.used", "gauge", "bytes", (),
        "Memory of buffered request bodies; its bound is daemon.request_buffers.",
    ),
    Metric("relayd.buffers.waiting", "gauge", "", (), "Request bodies that wait for memory and are not read meanwhile."),
    Metric(
        "relayd.buffers.oldest", "gauge", "seconds", (), "Waiting time of the request body that is next to get memory.",
    ),
    Metric("relayd.upstream.available", "gauge", "", ("upstream", "endpoint"), "1 if the endpoint is available for requests, else 0."),
    Metric("relayd.upstream.exchanges", "gauge", "", ("upstream",), "Exchanges that hold a permit of an endpoint of the upstream."),
    Metric(
        "relayd.upstream.unverified", "gauge", "", ("upstream",),
        "1 if the TLS certificates of the upstream are not verified.",
    ),
    Metric("relayd.listener.connections", "gauge", "", ("listener",), "Open client connections."),
    Metric("relayd.listener.opened", "counter", "", ("listener",), "Client connections accepted."),
    Metric("relayd.listener.refused", "counter", "", ("listener", "reason"), "Client connections rejected."),
    Metric(
        "relayd.listener.bad_requests", "counter", "", ("listener", "rule"),
        "Requests rejected by the request gate.",
    ),
    Metric("relayd.listener.tls_failed", "counter", "", ("listener",), "Failed TLS handshakes of clients."),
    Metric("relayd.config.reloads", "counter", "", ("result",), "Reloads, by result."),
    Metric("relayd.config.generation", "gauge", "", (), "Generation of the configuration in force."),
    Metric(
        "relayd.config.rejected", "gauge", "", (),
        "1 while the last reload was refused and the old configuration is in force.",
    ),
    Metric(
        "relayd.upstream.changes", "counter", "", ("upstream", "event"),
        "Changes of an upstream's endpoints and keys: breaker_opened, breaker_closed, endpoint_rested, key_set_aside ...",
    ),
    Metric(
        "relayd.upstream.keys_withheld", "counter", "", ("upstream",),
        "Response fields that contained a key which relayd had sent with the request; the key was removed.",
    ),
    Metric(
        "relayd.store.failed", "counter", "", ("cause",),
        "Failed reads and writes of the store (stored responses, conversations, thought signatures), by cause.",
    ),
    Metric(
        "relayd.listener.certificate_left", "gauge", "seconds", ("listener", "file"),
        "Time until the first certificate of the file expires; negative afterwards.",
    ),
    Metric(
        "relayd.upstream.certificate_left", "gauge", "seconds", ("upstream", "file"),
        "Time until the client certificate expires; negative afterwards.",
    ),
    Metric("relayd.loop.lag", "timer", "seconds", (), "Delay with which the event loop runs a timer."),
    Metric("relayd.loop.lag_max", "gauge", "seconds", (), "Maximum delay of the event loop in the last interval."),
    Metric("relayd.daemon.uptime", "gauge", "seconds", (), "Time since the start."),
    Metric("relayd.daemon.memory", "gauge", "bytes", (), "Resident memory of the process."),
    Metric("relayd.daemon.descriptors", "gauge", "", (), "Open file descriptors."),
    Metric("relayd.telemetry.lines_dropped", "counter", "", ("log",), "Log lines that could not be written."),
    Metric(
        "relayd.telemetry.overflowed", "counter", "", (),
        "Values that were counted under `other` because a metric had too many series.",
    ),
)

BY_NAME = {metric.name: metric for metric in METRICS}

BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)
