"""What every filter of a response body does."""

from __future__ import annotations

from relayd.protocols.canon import Failure
from relayd.telemetry.outcome import Record
from relayd.wire.response import ResponseHead


class Filter:
    """One step of one attempt's response; owned by the attempt.

    `failure` is what the body itself reported, or why it cannot be a complete one. `holds` says that nothing may be
    sent to the client yet, so that another attempt could still take this one's place. `unfinished`: bytes were taken
    that wait for a later turn of the loop; `process(b"")` goes on with them.
    """

    __slots__ = ("failure", "holds", "unfinished")

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self.holds = False
        self.unfinished = False

    def process(self, data: bytes) -> bytes:
        """The bytes for the next filter; they may be empty."""
        return data

    def finish(self) -> bytes:
        """What is still to be sent when the endpoint's body has ended."""
        return b""

    def head(self, response: ResponseHead) -> ResponseHead:
        """The response head for the client, asked for when the first byte is about to be sent."""
        return response

    def account(self, record: Record) -> None:
        """Add what was seen to the record."""
