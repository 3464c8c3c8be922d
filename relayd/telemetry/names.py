"""The one list of relayd's metrics, which every sink sends or shows and relayd-metrics(7) explains.

1. A name is `relayd.<room>.<what>`; names are added, never renamed.
2. A label takes its values from the configuration's names or from a closed set; never from a request.
3. Timers count in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "timer", "gauge"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One declaration. `unit` is empty for plain numbers."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    doc: str


LABELS = {
    "route": "Name of the route; empty where none matched.",
    "upstream": "Name of the upstream; empty where none was asked.",
    "listener": "Name of the listener.",
    "status": "Class of the status: 1xx to 5xx, or none where nothing was sent.",
    "outcome": "complete, or who ended the exchange and in which room (client.transfer, upstream.attempt ...).",
    "code": "Stable code of the error, as in error bodies and the access log.",
    "rule": "The rule of the request gate that was broken.",
    "reason": "limit, peer_limit, descriptors or draining.",
    "result": "accepted or refused.",
    "log": "access or journal.",
    "gate": "What is limited: upstream NAME, route NAME or consumer NAME.",
    "endpoint": "Address of the endpoint.",
    "cause": "locked, full, read_only, damaged, slow, too_large, closed or failed.",
    "file": "The file of a certificate.",
    "event": "What happened, as in the log.",
    "fate": "carried (as text) or left_out.",
    "direction": "input, output, cached (the part of input that the endpoint had kept) or cache_creation (the part of input that it wrote to its cache).",
}

EXCHANGE = ("route", "upstream", "status", "outcome")
PAIR = ("route", "upstream")

METRICS: tuple[Metric, ...] = (
    Metric("relayd.proxy.requests", "counter", "", EXCHANGE, "Exchanges that came to an end, each counted once."),
    Metric("relayd.proxy.errors", "counter", "", ("code",), "Exchanges that ended with an error, by its code."),
    Metric("relayd.proxy.bytes_in", "counter", "bytes", PAIR, "Bytes of request bodies taken from clients."),
    Metric("relayd.proxy.bytes_out", "counter", "bytes", PAIR, "Bytes of responses sent to clients."),
    Metric(
        "relayd.proxy.total", "timer", "seconds", PAIR,
        "From the first byte of the request to the end of the exchange.",
    ),
    Metric(
        "relayd.proxy.first_byte", "timer", "seconds", PAIR,
        "From the first byte of the request to the head of the response.",
    ),
    Metric("relayd.proxy.queue", "timer", "seconds", PAIR, "Time spent waiting for a permit, of those that waited."),
    Metric("relayd.proxy.exchanges", "gauge", "", (), "Exchanges in flight."),
    Metric("relayd.proxy.streams", "gauge", "", (), "Responses that are being streamed."),
    Metric(
        "relayd.upstream.connect", "timer", "seconds", PAIR,
        "Resolve, connect and TLS handshake, of new connections.",
    ),
    Metric(
        "relayd.upstream.attempts", "counter", "", PAIR,
        "Attempts at endpoints; more than the requests when some were repeated.",
    ),
    Metric(
        "relayd.proxy.tokens", "counter", "", ("route", "upstream", "direction"),
        "Tokens that endpoints reported, where an AI dialect is spoken.",
    ),
    Metric(
        "relayd.proxy.unknown_items", "counter", "", ("route", "upstream", "fate"),
        "Items of AI requests of a type that relayd does not know, carried as text or left out where they have none.",
    ),
    Metric("relayd.queue.depth", "gauge", "", ("gate",), "Exchanges that wait for a permit."),
    Metric("relayd.queue.in_flight", "gauge", "", ("gate",), "Permits that are held."),
    Metric("relayd.queue.oldest", "gauge", "seconds", ("gate",), "How long the one that waits longest has waited."),
    Metric("relayd.overload.share", "gauge", "", (), "Share of the requests that is turned away because relayd itself has too much to do."),
    Metric(
        "relayd.buffers.used", "gauge", "bytes", (),
        "Memory of request bodies that are held whole; its bound is daemon.request_buffers.",
    ),
    Metric("relayd.buffers.waiting", "gauge", "", (), "Request bodies that wait for memory, unread."),
    Metric(
        "relayd.buffers.oldest", "gauge", "seconds", (), "How long the request body that is next has waited for memory.",
    ),
    Metric("relayd.upstream.available", "gauge", "", ("upstream", "endpoint"), "1 for an endpoint that may be asked."),
    Metric("relayd.upstream.exchanges", "gauge", "", ("upstream",), "Exchanges that hold a place at an endpoint."),
    Metric(
        "relayd.upstream.unverified", "gauge", "", ("upstream",),
        "1 for an upstream whose TLS certificate is not verified.",
    ),
    Metric("relayd.listener.connections", "gauge", "", ("listener",), "Open client connections."),
    Metric("relayd.listener.opened", "counter", "", ("listener",), "Client connections accepted."),
    Metric("relayd.listener.refused", "counter", "", ("listener", "reason"), "Client connections refused."),
    Metric(
        "relayd.listener.bad_requests", "counter", "", ("listener", "rule"),
        "Requests refused by the request gate.",
    ),
    Metric("relayd.listener.tls_failed", "counter", "", ("listener",), "TLS handshakes of clients that failed."),
    Metric("relayd.config.reloads", "counter", "", ("result",), "Reloads."),
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
        "Fields of answers that held a key which relayd had sent with the request, and from which it was taken out.",
    ),
    Metric(
        "relayd.store.failed", "counter", "", ("cause",),
        "What the store could not keep or read: stored responses, conversations, thought signatures.",
    ),
    Metric(
        "relayd.listener.certificate_left", "gauge", "seconds", ("listener", "file"),
        "Until the first certificate of the file expires; negative afterwards.",
    ),
    Metric(
        "relayd.upstream.certificate_left", "gauge", "seconds", ("upstream", "file"),
        "Until the client certificate expires; negative afterwards.",
    ),
    Metric("relayd.loop.lag", "timer", "seconds", (), "How late the event loop ran a timer."),
    Metric("relayd.loop.lag_max", "gauge", "seconds", (), "The largest lag of the event loop in the last interval."),
    Metric("relayd.daemon.uptime", "gauge", "seconds", (), "Time since the start."),
    Metric("relayd.daemon.memory", "gauge", "bytes", (), "Resident memory of the process."),
    Metric("relayd.daemon.descriptors", "gauge", "", (), "Open file descriptors."),
    Metric("relayd.telemetry.lines_dropped", "counter", "", ("log",), "Log lines that could not be written."),
    Metric(
        "relayd.telemetry.overflowed", "counter", "", (),
        "Values counted under `other` because a metric had too many series.",
    ),
)

BY_NAME = {metric.name: metric for metric in METRICS}

BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)
