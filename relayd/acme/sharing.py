"""What the thread that orders needs to share certificates with other machines; one machine alone shares nothing.

1. Only the holder of the lease orders. Its number (a fencing token) grows with each lease, so that what an earlier
   holder still sends is refused.
2. Methods are called in the thread, and may wait for a few seconds.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from relayd.dataclass import dataclass


class Away(Exception):
    """The server that machines share does not answer; the text is the reason."""


class Lease(Protocol):
    """The right to order. `halt` is set when it is lost, and when relayd ends."""

    @property
    def halt(self) -> threading.Event: ...

    def share(self, name: str) -> None:
        """Give the certificate of a name and its record to the other machines, as they are in the state."""

    def share_account(self, directory: str) -> None:
        """Give the account at a directory to the other machines, unless they have one."""

    def answer(self, kind: str, domain: str, token: str, authorization: str) -> None:
        """Let all machines answer a challenge. Returns when those that are there can do so."""

    def end_answer(self) -> None:
        """Let no machine answer it any more."""


class Sharing(Protocol):
    """The connection to the other machines."""

    def lease(self, stop: threading.Event) -> AbstractContextManager[Lease]:
        """Wait for what others have done, then hold the lease. Raises LockedByOther while another machine holds it, and
        Away."""


@dataclass(frozen=True, slots=True)
class Alone:
    """The lease of a machine that shares nothing."""

    halt: threading.Event

    def share(self, name: str) -> None:
        """Nothing to do."""

    def share_account(self, directory: str) -> None:
        """Nothing to do."""

    def answer(self, kind: str, domain: str, token: str, authorization: str) -> None:
        """Nothing to do."""

    def end_answer(self) -> None:
        """Nothing to do."""


class NoSharing:
    """Every certificate is ordered by this machine."""

    @contextlib.contextmanager
    def lease(self, stop: threading.Event) -> Iterator[Lease]:
        yield Alone(stop)
