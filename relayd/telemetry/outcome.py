"""What became of one exchange: who ended it, in which room, and everything the access record says about it."""

from __future__ import annotations

from relayd.usage import Usage

PHASES = ("accept", "match", "authorise", "admit", "queue", "attempt", "transfer", "tunnel")
ENDED_BY = ("client", "upstream", "relayd", "admin")

More = dict[str, str | int | float]


class Record:
    """The account of one exchange; made and filled by it, handed to the sinks once, never changed after.

    Times are seconds: `started` on the monotonic clock, `started_wall` since 1970, the others spans; -1.0 means that
    the point was never reached. `status` is what the client was sent (499 when it left before). `outcome` is
    `ended_by` + `room`; a complete exchange has code "". `usage` is what an AI endpoint reported, None
    where it reported nothing. `more` is what only some exchanges have: model, pace, the trail of attempts.
    """

    __slots__ = (
        "attempts", "bytes_in", "bytes_out", "client", "code", "connect_s", "consumer", "detail", "ended_by",
        "endpoint", "first_byte_s", "generation", "host", "id", "listener", "method", "more", "path", "peer", "query",
        "queue_s", "phase", "route", "started", "started_wall", "status", "total_s", "upstream", "usage", "version",
    )

    def __init__(self) -> None:
        self.id = self.listener = self.peer = self.client = self.method = self.host = self.path = self.query = ""
        self.route = self.upstream = self.endpoint = self.consumer = self.code = self.detail = ""
        self.ended_by = "upstream"
        self.phase = "accept"
        self.version = 11
        self.started = self.started_wall = 0.0
        self.status = self.bytes_in = self.bytes_out = self.attempts = self.generation = 0
        self.queue_s = 0.0
        self.usage: Usage | None = None
        self.more: More | None = None
        self.connect_s = self.first_byte_s = self.total_s = -1.0

    @property
    def complete(self) -> bool:
        """Whether the client was sent a whole answer, be it one of relayd's own."""
        return not self.code or self.status not in (0, 499)

    @property
    def outcome(self) -> str:
        """For logs and metrics: `complete`, or for example `client.transfer`."""
        return f"{self.ended_by}.{self.phase}" if self.code else "complete"
