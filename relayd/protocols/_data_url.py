"""Data URLs, in which the dialects of OpenAI carry images and documents, taken apart for those that want them bare."""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from urllib.parse import unquote_to_bytes, urlsplit

_HEAD = re.compile(r"data:([A-Za-z0-9.+\-]+/[A-Za-z0-9.+\-]+)?((?:;[^;,]*)*),", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def is_data_url(url: str) -> bool:
    """Whether this is a data URL at all."""
    return url[:5].lower() == "data:"


def take_apart(url: str) -> tuple[str, str] | None:
    """The media type and the content in base64, or None for what is no well-formed data URL.

    Base64 stays as it was written; only the URL-safe alphabet, white space and missing padding are put right.
    """
    head = _HEAD.match(url)
    if head is None:
        return None
    kind = (head[1] or "text/plain").lower()
    content = url[head.end() :]
    if not head[2].lower().endswith(";base64"):
        return kind, base64.b64encode(unquote_to_bytes(content)).decode("ascii")
    if len(content) % 4 == 0 and _BASE64.fullmatch(content):
        return kind, content
    content = "".join(content.split()).replace("-", "+").replace("_", "/").replace("%2B", "+").replace("%2F", "/")
    content = content.replace("%3D", "=").rstrip("=")
    content += "=" * (-len(content) % 4)
    try:
        base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        return None
    return kind, content


def kind_of_address(url: str) -> str | None:
    """The media type that the path of an address suggests."""
    try:
        return mimetypes.guess_type(urlsplit(url).path, strict=True)[0]
    except ValueError:
        return None
