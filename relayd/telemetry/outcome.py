"""The record of one exchange for metrics and the access log, including the party and the phase that ended it."""

from __future__ import annotations

from relayd.telemetry.trace import Trace
from relayd.usage import Usage

PHASES = ("accept", "match", "authorise", "admit", "queue", "attempt", "transfer", "tunnel")
ENDED_BY = ("client", "upstream", "relayd", "admin")

More = dict[str, str | int | float]


class Record:
    """The record of one exchange. The exchange fills it and passes it to telemetry once; it does not change afterwards.

    Times are in seconds: `started` on the monotonic clock, `started_wall` since 1970, the others are durations; -1.0
    means that the event did not occur. `status` is the status sent to the client (499 if the client left before).
    `outcome` consists of `ended_by` and `phase`; a complete exchange has the code "". `usage` are the token counts that
    an AI endpoint reported, None if it reported none. `cost_nano` is the cost in nano-units of `currency`, None if it
    is unknown; with `cost_estimated` it is an estimate. The currency is "" for an exchange to which no prices apply.
    `more` are optional values: model, token rate, attempts ... `trace` is None unless a sink takes traces.
    """

    __slots__ = (
        "attempts",
        "bytes_in",
        "bytes_out",
        "client",
        "code",
        "connect_s",
        "consumer",
        "cost_estimated",
        "cost_nano",
        "currency",
        "detail",
        "ended_by",
        "endpoint",
        "first_byte_s",
        "generation",
        "host",
        "id",
        "listener",
        "method",
        "more",
        "path",
        "peer",
        "phase",
        "query",
        "queue_s",
        "route",
        "started",
        "started_wall",
        "status",
        "total_s",
        "trace",
        "upstream",
        "usage",
        "version",
    )

    def __init__(
        self, listener: str = "", peer: str = "", generation: int = 0, started: float = 0.0, started_wall: float = 0.0
    ) -> None:
        self.listener, self.peer, self.client, self.generation = listener, peer, peer, generation
        self.started, self.started_wall = started, started_wall
        self.id = self.method = self.host = self.path = self.query = ""
        self.route = self.upstream = self.endpoint = self.consumer = self.code = self.detail = ""
        self.ended_by = "upstream"
        self.phase = "accept"
        self.version = 11
        self.status = self.bytes_in = self.bytes_out = self.attempts = 0
        self.queue_s = 0.0
        self.usage: Usage | None = None
        self.cost_nano: int | None = None
        self.cost_estimated = False
        self.currency = ""
        self.more: More | None = None
        self.trace: Trace | None = None
        self.connect_s = self.first_byte_s = self.total_s = -1.0

    @property
    def complete(self) -> bool:
        """True if a complete response was sent to the client, including responses of relayd itself."""
        return not self.code or self.status not in (0, 499)

    @property
    def outcome(self) -> str:
        """The outcome for logs and metrics: `complete`, or for example `client.transfer`."""
        return f"{self.ended_by}.{self.phase}" if self.code else "complete"
