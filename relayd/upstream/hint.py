"""What an exchange tells `pick`, and what `pick` notes for it."""

from __future__ import annotations

from relayd.upstream.endpoint import Endpoint


class Hint:
    """Owned by one exchange and handed to every pick, report and leave of it.

    `key` is the number by which consistent_hash chooses, None for no wish. `tried` are the endpoints that were picked
    before: another one comes first. `permit` is the breaker's permit that the attempt of now holds, 0 for none.
    """

    __slots__ = ("key", "permit", "tried")

    def __init__(self, key: int | None = None) -> None:
        self.key = key
        self.tried: list[Endpoint] = []
        self.permit = 0
