"""Finds objects and body bytes that outlive an exchange, among all live objects."""

from __future__ import annotations

import gc
import types
from collections import Counter
from collections.abc import Iterable

MARK = b"relayd-"  # the bodies of these tests consist of it, so that their bytes are recognised
LARGE = 4096
PATH = ("relayd.proxy.", "relayd.protocols.", "relayd.wire.", "relayd.limits.ticket", "relayd.limits.request_buffers")
_TESTS = ("asyncio", "_asyncio", "tests.")
_CACHED = ("relayd.wire.http1.RequestShape", "relayd.wire.response.ResponseShape")  # by the shape of a head, a bounded number of them


def marked(size: int) -> bytes:
    """Bytes of this size that consist of the mark."""
    return (MARK * (size // len(MARK) + 1))[:size]


def count_live_objects(known: Iterable[object] = (), also: tuple[str, ...] = ()) -> Counter[str]:
    """Count the live objects of exchanges by type. `known` are the test's own bytes.

    Objects from before `gc.freeze()` are not counted.
    """
    ours = {id(one) for one in known}
    found: Counter[str] = Counter()
    seen: set[int] = set()
    for one in gc.get_objects():
        kind = type(one)
        if name := _name(one, (*PATH, *also)):
            found[name] += 1
        if kind.__module__.startswith(_TESTS):
            continue
        _bytes_in(one, ours, seen, found)
    return found


def _name(one: object, prefixes: tuple[str, ...]) -> str:
    """The type name of an object, closure or bound method of the proxy; empty for others."""
    kind = type(one)
    if kind.__module__.startswith(prefixes):
        name = f"{kind.__module__}.{kind.__qualname__}"
        return "" if name in _CACHED else name
    if kind is types.FunctionType and "<locals>" in one.__qualname__ and one.__module__.startswith(prefixes):  # type: ignore[attr-defined]
        return f"function {one.__module__}.{one.__qualname__}"  # type: ignore[attr-defined]
    if kind is types.MethodType and type(one.__self__).__module__.startswith(prefixes):  # type: ignore[attr-defined]
        return f"method {one.__qualname__}"  # type: ignore[attr-defined]
    return ""


def _bytes_in(one: object, ours: set[int], seen: set[int], found: Counter[str]) -> None:
    """Count the marked bytes that an object holds, also in containers which the collector does not track."""
    for held in gc.get_referents(one):
        kind = type(held)
        if kind in (bytes, bytearray):
            if len(held) >= LARGE and id(held) not in ours and id(held) not in seen and MARK in held[:LARGE]:
                seen.add(id(held))
                found["bytes of a body"] += 1
        elif kind is str:
            if len(held) >= LARGE and id(held) not in seen and MARK.decode() in held[:LARGE]:
                seen.add(id(held))
                found["text of a body"] += 1
        elif kind in (tuple, dict) and not gc.is_tracked(held):
            _bytes_in(held, ours, seen, found)
