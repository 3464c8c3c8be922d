"""What may be written down: secrets masked by their place, and bytes escaped so that one record is one line.

Laws:
1. A secret is masked by the name in front of it, before anything is formatted; nobody looks for what looks like a key.
2. Names are compared in lower case, percent-decoded as often as a careless reader might.
3. Escaped text holds no control character, quote or backslash of its own, and decoding never happens on the way.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import unquote_plus

MASK = "***"

SECRET_FIELDS = frozenset(
    ("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-goog-api-key")
)
SECRET_QUERY = frozenset(("key", "api_key", "apikey", "access_token", "token", "sig", "signature", "password"))

_NAME = re.compile(r"(^|;)([^=;]*)=")
_ESCAPED = re.compile("[\x00-\x1f\x7f-\x9f\"'\\\\\u2028\u2029\ud800-\udfff]")


def _is_secret(name: str, secret: Collection[str]) -> bool:
    for _ in range(4):
        if "%" not in name and "+" not in name:
            break
        name = unquote_plus(name, errors="replace")
    name = name.strip(" \t?").lower().partition("[")[0].replace("-", "_")
    return name in secret


def mask_query(query: str, extra: Collection[str] = ()) -> str:
    """The query string (with or without its `?`) with the values of secret names masked.

    `extra` are configured names in lower case with `_` for `-`. A `;` counts as a separator of names, because some
    servers read it so, but never as the end of a secret.
    """
    if "=" not in query:
        return query
    secret = SECRET_QUERY.union(extra) if extra else SECRET_QUERY
    lead = "?" if query.startswith("?") else ""
    parts = query[len(lead) :].split("&")
    for place, part in enumerate(parts):
        for match in _NAME.finditer(part):
            if _is_secret(match[2], secret):
                parts[place] = part[: match.end()] + MASK
                break
    return lead + "&".join(parts)


def mask_fields(lines: list[bytes], extra: Collection[str] = ()) -> list[bytes]:
    """Field lines with the values of secret fields masked; `extra` are configured names in lower case with `-`."""
    masked = []
    for line in lines:
        raw, colon, _ = line.partition(b":")
        name = raw.strip().lower().replace(b"_", b"-").decode("latin-1")
        secret = name in SECRET_FIELDS or name in extra
        # A line without a colon cannot be told from the rest of a folded secret.
        masked.append(raw + b": " + MASK.encode() if colon and secret else line if colon else MASK.encode())
    return masked


def _escape_match(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that did not decode (surrogateescape)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def escape(data: bytes | str) -> str:
    """Log-safe text: control bytes, DEL, 0x80-0x9f, quotes and backslashes as \\xNN; bytes are read as Latin-1.

    A text's line separators and lone surrogates become \\uNNNN: no writer can fail on them or break the line.
    """
    text = data.decode("latin-1") if isinstance(data, bytes) else data
    return text if _ESCAPED.search(text) is None else _ESCAPED.sub(_escape_match, text)
