"""`store:` storage of data between requests: stored responses, conversations, thought signatures."""

from __future__ import annotations

from collections.abc import Iterable

from relayd.registry import Kinds
from relayd.schema import Duration, Size, section, setting
from relayd.schema.plugins import faults_of_choice, members, strangers

STORES = "relayd.stores"


@section(shorthand="kind")
@members(STORES, flat=True)
class Store:
    """Data that relayd stores for consumers, each in its own space. Entries that are not used within `ttl` are removed. If
    the store is full, the least recently used entry of the consumer with the most data is removed. A response that could
    not be stored has `"store": false`, and the log has the cause."""

    kind: str = setting(default="memory", choices=Kinds(STORES), doc="The kind of storage.")
    ttl: Duration = setting(default=Duration(86400), doc="How long an entry is kept after its last use.", minimum=1)
    entries: int = setting(default=20000, doc="The maximum number of entries.", minimum=1)
    size: Size = setting(default=Size(64 * 1024 * 1024), doc="The maximum size of all entries.", minimum=65536)

    def check(self) -> Iterable[tuple[str, str]]:
        for key, kinds in strangers(self, STORES, self.kind):
            yield key, f"has a meaning only with kind: {kinds}"
        yield from faults_of_choice(self, STORES, self.kind)
