"""The files of the pages for browsers: no build step, nothing from other hosts, no script or style inside HTML."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@functools.cache
def content(name: str) -> bytes | None:
    """The bytes of a file; None if there is none of this name."""
    if name not in names():
        return None
    return resources.files(__name__).joinpath(name).read_bytes()


def text(name: str) -> str:
    """The text of a file that exists."""
    return (content(name) or b"").decode()


@functools.cache
def data(name: str) -> bytes:
    """The bytes of a file that is not served."""
    return resources.files(__name__).joinpath(name).read_bytes()


@functools.cache
def names() -> frozenset[str]:
    """The names of all files."""
    found = (one.name for one in resources.files(__name__).iterdir() if one.is_file())
    return frozenset(name for name in found if name.rpartition(".")[2] in MEDIA_TYPES)


@functools.cache
def entity_tag(name: str) -> str:
    """The strong entity tag of a file (RFC 9110 8.8.3)."""
    return f'"{hashlib.sha256(content(name) or b"").hexdigest()[:32]}"'


def media_type(name: str) -> str:
    """The media type of a file."""
    return MEDIA_TYPES[name.rpartition(".")[2]]
