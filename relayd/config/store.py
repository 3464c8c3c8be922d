"""`store:` storage of data between requests: stored responses, conversations, thought signatures."""

from __future__ import annotations

from collections.abc import Iterable

from relayd import registry
from relayd.registry import Kinds
from relayd.schema import Duration, Size, section, setting
from relayd.schema.plugins import faults_of_choice, members, strangers

STORES = "relayd.stores"
MEMORY, SQLITE = "memory", "sqlite"  # the default kinds: without and with a state directory


@section(shorthand="kind")
@members(STORES, flat=True)
class Store:
    """Data that relayd stores for consumers, each in its own space. Entries that are not used within `ttl` are removed. If
    the store is full, the least recently used entry of the consumer with the most data is removed. A response that could
    not be stored has `"store": false`, and the log has the cause."""

    kind: str | None = setting(default=None, choices=Kinds(STORES), doc="The kind of storage. The default is sqlite where systemd provides a state directory, as for the installed service, else memory. If the default file cannot be opened, relayd logs this and uses memory.", example="sqlite")
    ttl: Duration = setting(default=Duration(86400), doc="How long an entry is kept after its last use.", minimum=1)
    entries: int = setting(default=20000, doc="The maximum number of entries.", minimum=1)
    size: Size = setting(default=Size(64 * 1024 * 1024), doc="The maximum size of all entries.", minimum=65536)

    def check(self) -> Iterable[tuple[str, str]]:
        kind = self.kind or MEMORY
        for key, kinds in strangers(self, STORES, kind):
            yield key, f"has a meaning only with kind: {kinds}"
        yield from faults_of_choice(self, STORES, kind)

    @property
    def is_shared(self) -> bool:
        """True if machines share this store."""
        return self.kind is not None and bool(getattr(registry.load(STORES, self.kind).Store, "IS_SHARED", False))
