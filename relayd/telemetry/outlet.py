"""What a sink that sends requests gets from the daemon: its HTTP client, and work in later turns of the event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from relayd.dataclass import dataclass
from relayd.telemetry.journal import Journal


class Reply(NamedTuple):
    """The response to a POST request. `status` is 0 if none arrived; then `fault` is the reason. `body` may be cut.
    `retry_after` is the value of Retry-After, empty without one."""

    status: int
    body: bytes
    retry_after: str
    fault: str


class PostRequest(Protocol):
    """Sends a JSON document to an absolute URL; `on_done` is called in a later turn of the loop. `fields` are
    additional lines of the head. `ca` is a PEM file of
    authorities, None for those of the system. The returned function cancels the request."""

    def __call__(
        self, url: str, ca: str | None, fields: Sequence[bytes], body: bytes, timeout_s: float,
        on_done: Callable[[Reply], None],
    ) -> Callable[[], object]: ...


@dataclass(frozen=True, slots=True)
class Outlet:
    """The tools of one process. `defer` runs a step of about a millisecond in a later turn of the loop."""

    post: PostRequest
    defer: Callable[[Callable[[], None]], None]
    journal: Journal
