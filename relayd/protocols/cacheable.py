"""Which requests of a dialect may be answered from a cache, and what of a request besides its body changes its answer.

An answer can be used for another request only if the request neither reads nor changes state of the provider, and asks
for one answer that no tool of the provider makes depend on the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from relayd.dataclass import dataclass

Obstacle = Literal["", "samples", "stored_state", "stores", "server_tools", "audio"]

_CLIENT_TOOLS = frozenset({"function", "custom"})


@dataclass(frozen=True, slots=True)
class CacheRules:
    """The facts of one dialect. All names are members of the request's body.

    paths: suffixes of the paths on which an answer is generated. samples: the number of answers. state: members that
    refer to state of the provider, or make it run tools. store: whether the provider stores the answer, with the
    default `stores_by_default`. items: the list whose items may refer to stored ones. fields: lower-case names of
    header fields that change the answer.
    """

    paths: tuple[bytes, ...]
    samples: str = ""
    state: tuple[str, ...] = ()
    store: str = ""
    stores_by_default: bool = False
    items: str = ""
    fields: tuple[bytes, ...] = ()

    def generates(self, path: bytes) -> bool:
        """True if an answer is generated on this path; slashes behind it are ignored."""
        return path.rstrip(b"/").endswith(self.paths)

    def obstacle(self, members: Mapping[str, Any], *, shared: bool) -> Obstacle:
        """Why the answer to a request cannot be used for another one; empty if it can. `shared`: other consumers may
        get it, who could not refer to what the provider has stored with it."""
        if self.samples and members.get(self.samples) not in (None, 1):
            return "samples"
        if any(is_present(members.get(name)) for name in self.state):
            return "stored_state"
        if self.items and refers_to_stored(members.get(self.items)):
            return "stored_state"
        if self.store:
            stores = members.get(self.store)
            if stores is True or (shared and self.stores_by_default and stores is not False):
                return "stores"
        modalities = members.get("modalities")
        if isinstance(modalities, list) and "audio" in modalities:
            return "audio"  # a voice in it has an id that expires
        return "server_tools" if runs_tools(members.get("tools")) else ""


def is_present(value: object) -> bool:
    """True if a member asks for something; an empty object does, as in `web_search_options: {}`."""
    return value is not None and value is not False and value not in ("", [])


def refers_to_stored(items: object) -> bool:
    """True if an item of a list is only a reference to a stored one, whose type may be absent."""
    return isinstance(items, list) and any(
        isinstance(one, dict) and (
            one.get("type") == "item_reference" or ("id" in one and "role" not in one and one.get("type") is None)
        ) for one in items
    )


def runs_tools(tools: object) -> bool:
    """True if the provider runs one of these tools itself, or may do so: a tool without a type is the client's."""
    return isinstance(tools, list) and any(
        not isinstance(one, dict) or one.get("type", "custom") not in _CLIENT_TOOLS for one in tools
    )


def is_deterministic(members: Mapping[str, Any]) -> bool:
    """True if the request states the temperature 0."""
    temperature = members.get("temperature")
    return isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
