"""`store:` where things are remembered between requests: stored responses, conversations, thought signatures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from relayd.schema import Duration, Size, section, setting


@section(shorthand="kind")
class Store:
    """What relayd remembers for consumers, each in a space of its own. What nobody asks for within `ttl` is forgotten,
    and where there is no room the longest unused of whoever holds most. A response that could not be stored has
    `"store": false`, and the log has the cause."""

    kind: Literal["memory", "sqlite"] = setting(default="memory", doc="memory is gone with the process; sqlite is a file that survives restarts and upgrades.")
    path: str | None = setting(default=None, doc="The file of sqlite; without it store.sqlite in the state directory.", example="/var/lib/relayd/store.sqlite", pattern="/.*")
    ttl: Duration = setting(default=Duration(86400), doc="How long something is remembered after it was last asked for.", minimum=1)
    entries: int = setting(default=20000, doc="How many things are remembered.", minimum=1)
    size: Size = setting(default=Size(64 * 1024 * 1024), doc="How much room they may take.", minimum=65536)

    def check(self) -> Iterable[tuple[str, str]]:
        if self.path is not None and self.kind == "memory":
            yield "path", "has a meaning only with kind: sqlite"
