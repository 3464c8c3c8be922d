"""A statement of a configuration that consists of a name and arguments, with or without a block (nginx, Caddy)."""

from __future__ import annotations

from relayd.dataclass import dataclass
from relayd.importers._report import Item


@dataclass(slots=True)
class Directive:
    """One statement; `block` is None if it has none. For a site of a Caddyfile, `name` and `args` are its addresses."""

    name: str
    args: list[str]
    item: Item
    block: list[Directive] | None = None

    @property
    def tokens(self) -> list[str]:
        """The name and the arguments."""
        return [self.name, *self.args]

    def all(self, name: str) -> list[Directive]:
        """The directives of this name directly inside the block."""
        return [one for one in self.block or () if one.name == name]

    def first(self, name: str) -> Directive | None:
        """The first one of them."""
        return next(iter(self.all(name)), None)
