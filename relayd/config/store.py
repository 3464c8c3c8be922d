"""`store:` where things are remembered between requests: stored responses, conversations, thought signatures."""

from __future__ import annotations

from collections.abc import Iterable

from relayd.registry import Kinds
from relayd.schema import Duration, Size, section, setting
from relayd.schema.plugins import faults_of_choice, members, strangers

STORES = "relayd.stores"


@section(shorthand="kind")
@members(STORES, flat=True)
class Store:
    """What relayd remembers for consumers, each in a space of its own. What nobody asks for within `ttl` is forgotten,
    and where there is no room the longest unused of whoever holds most. A response that could not be stored has
    `"store": false`, and the log has the cause."""

    kind: str = setting(default="memory", choices=Kinds(STORES), doc="Where it is kept.")
    ttl: Duration = setting(default=Duration(86400), doc="How long something is remembered after it was last asked for.", minimum=1)
    entries: int = setting(default=20000, doc="How many things are remembered.", minimum=1)
    size: Size = setting(default=Size(64 * 1024 * 1024), doc="How much room they may take.", minimum=65536)

    def check(self) -> Iterable[tuple[str, str]]:
        for key, kinds in strangers(self, STORES, self.kind):
            yield key, f"has a meaning only with kind: {kinds}"
        yield from faults_of_choice(self, STORES, self.kind)
