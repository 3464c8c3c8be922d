"""The base class of response filters."""

from __future__ import annotations

from relayd.protocols.canon import Failure
from relayd.telemetry.outcome import Record
from relayd.wire.response import ResponseHead


class Filter:
    """One filter of an attempt's response; owned by the attempt.

    `failure` is an error reported by the body, or the reason why the body is incomplete. `holds`: nothing may be sent
    to the client yet, so that another attempt can still follow. `unfinished`: input is left for a later turn of the
    loop; `process(b"")` continues with it. After `finish`: the end is not complete; `process(b"")` continues with it
    until `unfinished` is False, then `finish` is called again.
    """

    __slots__ = ("failure", "holds", "unfinished")

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self.holds = False
        self.unfinished = False

    def process(self, data: bytes) -> bytes:
        """The output for the next filter; it may be empty."""
        return data

    def finish(self) -> bytes:
        """The remaining output after the end of the endpoint's body."""
        return b""

    def head(self, response: ResponseHead) -> ResponseHead:
        """The response head for the client; called before the first byte is sent."""
        return response

    def trailer(self) -> bytes:
        """A line for the trailer of the response, with its line end; empty without one. Called after `finish`."""
        return b""

    def reported_failure(self) -> Failure | None:
        """The failure that the complete response has reported to the client itself. Called after `finish`."""
        return None

    def account(self, record: Record) -> None:
        """Add the filter's results to the record."""
