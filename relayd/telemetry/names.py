"""The declarations of relayd's metrics, used by every sink and by relayd-metrics(7).

1. A name has the form `relayd.<area>.<metric>`; names are added, never renamed.
2. The values of a label are names of the configuration or members of a closed set; never values from a request.
3. Timers are in seconds.
"""

from __future__ import annotations

from typing import Literal

from relayd.dataclass import dataclass

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
    "consumer": "Name of the consumer, for tokens that of their entry in `consumers`; empty if none was identified.",
    "upstream": "Name of the upstream; empty if no request was sent to one.",
    "domain": "DNS name of a certificate, from `domains`.",
    "listener": "Name of the listener.",
    "status": "Class of the status: 1xx to 5xx, or none if no response was sent.",
    "outcome": "complete, or the party that ended the exchange and its phase (client.transfer, upstream.attempt ...).",
    "code": "Stable error code, as in error bodies and the access log.",
    "rule": "The violated rule of the request gate.",
    "reason": "limit, descriptors (accepting is paused), peer_limit, untrusted or proxy_header (PROXY protocol).",
    "result": "accepted or refused; issued or failed for certificates; delivered, failed or dropped for a webhook; for caches as described.",
    "log": "access or journal.",
    "signal": "traces, metrics or logs.",
    "gate": "The owner of the limits: upstream NAME, route NAME, consumer NAME or group NAME.",
    "limit": "An entry of `rates` or `budget`: its owner, and what it counts.",
    "endpoint": "Address of the endpoint.",
    "cause": "locked, full, read_only, damaged, slow, too_large, closed, unreachable or failed.",
    "fault": "connect, lost, timeout, auth, permission, read_only, full, loading, no_master, not_saved, busy, cluster, overloaded, script, protocol or closed.",
    "file": "Path of the certificate file.",
    "setting": "Key of the configuration, such as upstreams.api.tls.ca.",
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
        "relayd.proxy.cost", "counter", "nano", ("upstream", "consumer"),
        "Cost of AI requests by `prices`, in 10^-9 of its currency.",
    ),
    Metric(
        "relayd.proxy.unpriced", "counter", "", PAIR,
        "AI requests whose cost is unknown, because no price matches their model.",
    ),
    Metric(
        "relayd.proxy.estimated_costs", "counter", "", PAIR,
        "AI requests whose cost is an estimate, because their tokens were not reported: relayd-rates(7).",
    ),
    Metric("relayd.spend.failed", "counter", "", ("cause",), "Failed writes of spend to the state directory, by cause."),
    Metric(
        "relayd.proxy.unknown_items", "counter", "", ("route", "upstream", "fate"),
        "Items of AI requests with an unknown type, which are carried as text, or dropped if they contain no text.",
    ),
    Metric("relayd.proxy.cache", "counter", "", ("route", "result"), "Requests on routes with a `cache`: hit (answered from it), miss, or bypass (not looked up)."),
    Metric("relayd.proxy.cache_answers", "counter", "", ("route", "result"), "Answers that were recorded for a `cache`: stored, too_large, incomplete (not complete, or an error), or refused (by the store)."),
    Metric("relayd.proxy.cache_saved_tokens", "counter", "", ("route", "direction"), "Tokens of answers from a `cache`, as the endpoint reported them for the first request. They are not part of relayd.proxy.tokens."),
    Metric("relayd.proxy.cache_saved_cost", "counter", "nano", ("route",), "What answers from a `cache` would have cost by `prices`, in 10^-9 of its currency. It is not part of relayd.proxy.cost."),
    Metric("relayd.queue.depth", "gauge", "", ("gate",), "Exchanges that wait for a permit in the queue."),
    Metric("relayd.queue.in_flight", "gauge", "", ("gate",), "Permits in use."),
    Metric("relayd.queue.oldest", "gauge", "seconds", ("gate",), "Waiting time of the exchange that has waited longest."),
    Metric("relayd.limits.used", "gauge", "", ("limit",), "The part of a rate or budget that is used or reserved; entries with `each` are left out."),
    Metric("relayd.limits.shared", "gauge", "", (), "1 if rates and budgets are counted in Redis, 0 while it is not available; absent without `kind: redis`."),
    Metric("relayd.limits.exceeded", "counter", "", ("limit",), "Requests that were refused by a rate or budget, or would have been without `shadow`."),
    Metric("relayd.limits.warnings", "counter", "", ("limit",), "Crossings of warning thresholds of budgets."),
    Metric("relayd.limits.webhooks", "counter", "", ("result",), "Warnings of budgets for the webhook: delivered, failed (given up), or dropped because too many waited."),
    Metric("relayd.sessions.created", "counter", "", (), "Sessions that were created for clients."),
    Metric("relayd.sessions.active", "gauge", "", (), "Sessions in the store, counted every 10 seconds; expired ones until they are removed."),
    Metric("relayd.overload.share", "gauge", "", (), "Fraction of requests that are rejected because relayd itself is overloaded."),
    Metric("relayd.access.failed_keys", "counter", "", (), "Requests with a wrong key, on routes with `allow`."),
    Metric(
        "relayd.access.issuer_keys_age", "gauge", "seconds", ("consumer",),
        "Time since the keys of an issuer (`jwt`) were last read successfully; absent before the first time.",
    ),
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
    Metric("relayd.certs.attempts", "counter", "", ("domain", "result"), "Attempts to obtain a certificate by ACME: issued or failed."),
    Metric("relayd.certs.failures", "gauge", "", ("domain",), "Consecutive failed attempts to obtain a certificate by ACME."),
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
        "relayd.discovery.changes", "counter", "", ("upstream",), "Changes of the addresses that a discovery has found.",
    ),
    Metric("relayd.discovery.failures", "counter", "", ("upstream",), "Failed lookups of a discovery."),
    Metric("relayd.discovery.endpoints", "gauge", "", ("upstream",), "Addresses that the discovery has found."),
    Metric("relayd.discovery.age", "gauge", "seconds", ("upstream",), "Time since the last successful lookup."),
    Metric(
        "relayd.discovery.interval", "gauge", "seconds", ("upstream",),
        "Longest time between two successful lookups, as configured.",
    ),
    Metric(
        "relayd.upstream.keys_withheld", "counter", "", ("upstream",),
        "Response fields that contained a key which relayd had sent with the request; the key was removed.",
    ),
    Metric(
        "relayd.store.failed", "counter", "", ("cause",),
        "Failed reads and writes of the store (stored responses, conversations, thought signatures), by cause.",
    ),
    Metric("relayd.store.available", "gauge", "", (), "1 if the store works, 0 while it is degraded."),
    Metric("relayd.store.operations", "counter", "", (), "Operations that were sent to Redis, or refused because it is not available."),
    Metric("relayd.store.operations_failed", "counter", "", ("fault",), "Operations of Redis that failed, by cause."),
    Metric("relayd.store.operation", "timer", "seconds", (), "Time from an operation's begin to the reply of Redis."),
    Metric(
        "relayd.listener.certificate_left", "gauge", "seconds", ("listener", "file"),
        "Time until the first certificate of the file expires; negative afterwards.",
    ),
    Metric(
        "relayd.upstream.certificate_left", "gauge", "seconds", ("upstream", "file"),
        "Time until the client certificate expires; negative afterwards.",
    ),
    Metric(
        "relayd.daemon.certificate_left", "gauge", "seconds", ("setting", "file"),
        "Time until the first certificate expires in a file of authorities (`ca`, `client_ca`, `directory_ca`) or of the"
        " store's client certificate; negative afterwards.",
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
