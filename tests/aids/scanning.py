"""The scanner of JSON documents as its tests use it."""

from __future__ import annotations

from collections.abc import Iterable

from relayd.wire.json_scanner import JsonFault, JsonScanner


def scan(pieces: Iterable[bytes]) -> JsonScanner | None:
    """What is known of the document that comes in these pieces, None for one that is at fault."""
    scanner = JsonScanner()
    try:
        for piece in pieces:
            scanner.feed(piece)
            while scanner.pending:
                scanner.step()
        scanner.end()
    except JsonFault:
        return None
    return scanner
