"""Data URLs, in which OpenAI's dialects carry images and documents, parsed for dialects with separate fields."""

from __future__ import annotations

import base64
import mimetypes
import re
from urllib.parse import unquote_to_bytes, urlsplit

from relayd.lazy_regex import lazy_regex

_HEAD = lazy_regex(r"data:([A-Za-z0-9.+\-]+/[A-Za-z0-9.+\-]+)?((?:;[^;,]*)*),", re.IGNORECASE)
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
MOST_REPAIRED_CHARS = 8 * 1024 * 1024  # of base64 that must be normalised
MOST_ESCAPED_CHARS = 256 * 1024  # of content without base64


def is_data_url(url: str) -> bool:
    """Whether the URL has the scheme `data`."""
    return url[:5].lower() == "data:"


def parse_data_url(url: str) -> tuple[str, str] | None:
    """The media type and the content in base64; None if the data URL is malformed.

    Valid base64 is returned unchanged. The URL-safe alphabet, white space and missing padding are normalised in content
    of at most MOST_REPAIRED_CHARS, so that the work is bounded.
    """
    head = _HEAD.match(url)
    if head is None:
        return None
    media_type = (head[1] or "text/plain").lower()
    content = url[head.end() :]
    if not head[2].lower().endswith(";base64"):
        if len(content) > MOST_ESCAPED_CHARS:
            return None
        return media_type, base64.b64encode(unquote_to_bytes(content)).decode("ascii")
    if not content.isascii():
        if len(content) > MOST_REPAIRED_CHARS:
            return None
        content = "".join(content.split())
    raw = content.encode("ascii", "replace")
    rest = raw.translate(None, _ALPHABET)
    if rest in (b"", b"=", b"==") and raw.endswith(rest) and len(raw) % 4 == 0:
        return media_type, content
    if len(raw) > MOST_REPAIRED_CHARS:
        return None
    raw = raw.translate(_URL_SAFE, _WHITESPACE)
    if b"%" in rest:
        raw = raw.replace(b"%2B", b"+").replace(b"%2F", b"/").replace(b"%3D", b"=")
    raw = raw.rstrip(b"=")
    if len(raw) % 4 == 1 or raw.translate(None, _ALPHABET):
        return None
    return media_type, (raw + b"=" * (-len(raw) % 4)).decode("ascii")


def media_type_of_url(url: str) -> str | None:
    """The media type that the extension in a URL's path suggests."""
    try:
        return mimetypes.guess_type(urlsplit(url).path, strict=True)[0]
    except ValueError:
        return None
