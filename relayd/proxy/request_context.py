"""The circumstances of a request, as dialects read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relayd.protocols.dialect import Memory, RequestContext
from relayd.wire.http1 import RequestHead


class Fields(Mapping[str, str]):
    """A request's fields by lower-case name; of a repeated field the first value. Parsed on first use."""

    __slots__ = ("_found", "_head")

    def __init__(self, head: RequestHead) -> None:
        self._head = head
        self._found: dict[str, str] | None = None

    def _fields(self) -> dict[str, str]:
        found = self._found
        if found is None:
            found = self._found = {}
            for line in self._head.lines:
                name, _, value = line.partition(b":")
                found.setdefault(name.decode("latin-1").lower(), value.strip().decode("latin-1"))
        return found

    def __getitem__(self, name: str) -> str:
        return self._fields()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields())

    def __len__(self) -> int:
        return len(self._fields())


def context_of(
    head: RequestHead, request_id: bytes, memory: Memory, seal_key: bytes, socket: Memory | None = None
) -> RequestContext:
    """The context of a request for dialects; of a repeated field the first value is used."""
    return RequestContext(
        method=head.method.decode("latin-1"), path=head.path.decode("latin-1"), query=head.query[1:].decode("latin-1"),
        headers=Fields(head), request_id=request_id.decode("latin-1"), memory=memory, seal_key=seal_key,
        socket=socket,
    )
