"""The places of event streams: at most so many in total, and of each owner, so that one client locks out nobody.

An owner is a consumer, the network of a client that is none, or ON_SOCKET. Some places are for the admin socket only.
"""

from __future__ import annotations

from relayd.limits.limit_set import network_of
from relayd.proxy.application import LocalRequest

ON_SOCKET = ""


class TooManyStreams(Exception):
    """No further event stream is possible; `of_owner`: because this owner has too many."""

    def __init__(self, of_owner: bool) -> None:
        super().__init__()
        self.of_owner = of_owner


class StreamPlaces:
    """The places of one kind of streams. One per process. `on_socket` of all places are for the admin socket."""

    def __init__(self, most: int, most_of_owner: int, on_socket: int) -> None:
        self._most, self._most_of_owner, self._on_socket = most, most_of_owner, on_socket
        self._of_owner: dict[str, int] = {}
        self._taken = 0

    def take(self, owner: str) -> None:
        """Take a place. Raises TooManyStreams."""
        count = self._of_owner.get(owner, 0)
        if count >= self._most_of_owner:
            raise TooManyStreams(of_owner=True)
        if self._taken >= self._most - (0 if owner == ON_SOCKET else self._on_socket):
            raise TooManyStreams(of_owner=False)
        self._of_owner[owner] = count + 1
        self._taken += 1

    def free(self, owner: str) -> None:
        """Free a place that was taken."""
        self._taken -= 1
        self._of_owner[owner] -= 1
        if not self._of_owner[owner]:
            del self._of_owner[owner]


def owner_of(request: LocalRequest) -> str:
    """The owner of a stream that this request opens."""
    if request.consumer or not request.client:
        return request.consumer
    return f"@{network_of(request.client)}"
