"""Redaction for logs: masks secrets by their names, and escapes bytes so that a record is a single line.

Laws:
1. A secret is recognised by its name and masked before formatting; values are not searched for possible keys.
2. A name is secret if one of its words is secret (`client_secret`, `accessToken`, `X-Amz-Signature`, `user[password]`).
   Names are compared in lower case after repeated percent-decoding; in doubt the value is masked.
3. A value that contains a URL, a query or JSON, raw or percent-encoded, is masked if that contains a secret name. The
   user and password of a URL are masked (RFC 3986 3.2.1).
4. Escaped text contains no control character, quote or backslash of the original; logged text is never decoded.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from urllib.parse import unquote_plus

from relayd.lazy_regex import lazy_regex

MASK = "***"
MAX_DECODES = 4

SECRET_FIELDS = frozenset(
    ("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-goog-api-key")
)
SUBPROTOCOLS = "sec-websocket-protocol"
SECRET_WORDS = frozenset(
    ("key", "keys", "token", "secret", "secrets", "password", "passwords", "passwd", "pwd", "pw", "passphrase",
     "passcode", "auth", "oauth", "authorization", "credential", "credentials", "sig", "signature", "signatures",
     "hmac", "session", "sessionid", "accesskeyid", "jwt", "saml", "assertion", "otp", "totp", "cookie", "cookies",
     "bearer", "ticket", "tickets", "verifier")
)
"""A name that contains one of these words is secret."""
SECRET_NAMES = frozenset(
    ("code", "sid", "pin", "pass", "api_tokens", "access_tokens", "auth_tokens", "refresh_tokens",
     "id_tokens", "phpsessid", "jsessionid", "sessid", "samlresponse", "samlrequest", "saml_response",
     "device_code", "user_code", "auth_code", "authorization_code", "pat", "psk", "sas", "sk", "sess", "csrf", "xsrf",
     "wresult", "user_pass", "userpass", "db_pass", "dsn")
)
"""These are secret only as complete names."""
SECRET_QUERY = SECRET_WORDS | SECRET_NAMES
# Compounds without a separator: accesstoken, clientsecret, openaikey. These English words are none.
_COMPOUND = lazy_regex(r"[a-z]+(?:keys?|token|secrets?|passwords?|passwd|pwd|signatures?|credentials?)")
_NO_COMPOUNDS = lazy_regex(r"(?:monk|donk|turk|hock|jock|whisk|lack|malark|flunk)eys?")
_WORDS = lazy_regex(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]*")
_LETTERS = lazy_regex(r"[A-Za-z]+")
_NAME = lazy_regex(r"(?:^|[;?#])([^=;?#]*)=")
_USERINFO = lazy_regex(r"(:/{1,3})[^/?#\s\"'<>]+@")  # begins at the colon: a search for the scheme is quadratic
_MEMBER = lazy_regex(r"[\"']([^\"'\\]{1,256})[\"']\s{0,8}:")  # of JSON
_QUERY = lazy_regex(r"\?[^\s\"'<>]*")
_ESCAPED = lazy_regex("[\x00-\x1f\x7f-\x9f\"'\\\\\u2028\u2029\ud800-\udfff]")


def _decoded(text: str) -> str:
    for _ in range(MAX_DECODES):
        if "%" not in text and "+" not in text:
            break
        text = unquote_plus(text, errors="replace")
    return text


@functools.lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """True if a parameter, field or member of this name contains a secret."""
    if len(name) > 256:  # not a real name; also bounds the cache
        return True
    name = _decoded(name).strip(" \t?&")
    low = name.lower().replace("-", "_")
    if low in SECRET_NAMES or low.partition("[")[0] in SECRET_NAMES:
        return True
    for part in _LETTERS.findall(name):
        joined = part.lower()
        if joined in SECRET_WORDS:
            return True
        if _COMPOUND.fullmatch(joined) is not None and _NO_COMPOUNDS.fullmatch(joined) is None:
            return True
        if any(token.lower() in SECRET_WORDS for token in _WORDS.findall(part)):
            return True
    return False


def _is_secret(name: str, extra: Collection[str]) -> bool:
    if is_secret_name(name):
        return True
    if not extra:
        return False
    return _decoded(name).strip(" \t?").lower().partition("[")[0].replace("-", "_") in extra


def mask_query(query: str, extra: Collection[str] = ()) -> str:
    """The query string (with or without its `?`) with the values of secret names masked.

    `extra` are configured names in lower case with `_` for `-`. `;`, `?` and `#` separate names, because some servers
    treat them so, but they never end a secret value.
    """
    if "=" not in query and "%" not in query and ":" not in query:
        return query
    lead = "?" if query.startswith("?") else ""
    parts = query[len(lead) :].split("&")
    for index, part in enumerate(parts):
        parts[index] = _mask_part(part, extra)
    return lead + "&".join(parts)


def _mask_part(part: str, extra: Collection[str]) -> str:
    """One parameter, up to the next `&`."""
    for match in _NAME.finditer(part):
        if _is_secret(match[1], extra):
            return part[: match.end()] + MASK
    part = _USERINFO.sub(_mask_userinfo, part)
    if "%" in part or '"' in part or "'" in part:  # a query, a URL or JSON within a value, or an encoded query
        decoded = _decoded(part)
        if _contains_secret(decoded, extra):
            name, equals, _ = part.partition("=")
            return name + equals + MASK if equals and not _hides(name, extra) else MASK
    return part


def _mask_userinfo(match: re.Match[str]) -> str:
    return f"{match[1]}{MASK}@"


def _contains_secret(decoded: str, extra: Collection[str]) -> bool:
    """True if a decoded text contains a parameter or a member with a secret name, or a URL with a user."""
    names = [match[1] for inner in decoded.split("&") for match in _NAME.finditer(inner)]
    names += [match[1] for match in _MEMBER.finditer(decoded)]
    if any(_is_secret(name, extra) for name in names):
        return True
    return any(not match[0].endswith(f"/{MASK}@") for match in _USERINFO.finditer(decoded))


def _hides(name: str, extra: Collection[str]) -> bool:
    """True if a name is itself an encoded query that contains a secret name."""
    return "%" in name and any(
        _is_secret(match[1], extra) for inner in _decoded(name).split("&") for match in _NAME.finditer(inner)
    )


def mask_path(path: str) -> str:
    """A path with the values of secret names masked in its parameters (`;jsessionid=...`, RFC 3986 3.3)."""
    if "=" not in path and "%" not in path and "@" not in path and '"' not in path:
        return path
    path = _USERINFO.sub(_mask_userinfo, path)
    masked = "/".join([_mask_part(part, ()) for part in path.split("/")])
    return MASK if "%" in masked and _USERINFO.search(_decoded(masked).replace(f"/{MASK}@", "/")) else masked


def mask_urls(text: str, extra: Collection[str] = ()) -> str:
    """A text with the values of secret names masked in all its queries, and the users in its URLs."""
    if "@" in text:
        text = _USERINFO.sub(_mask_userinfo, text)
    return _QUERY.sub(lambda found: mask_query(found[0], extra), text) if "?" in text else text


def mask_fields(lines: list[bytes], extra: Collection[str] = ()) -> list[bytes]:
    """Field lines with the values of secret fields masked; in other fields queries are masked (Referer, Location).

    `extra` are configured names in lower case with `-`.
    """
    masked = []
    for line in lines:
        raw, colon, value = line.partition(b":")
        name = raw.strip().lower().replace(b"_", b"-").decode("latin-1")
        if not colon:  # may be the continuation of a folded secret
            masked.append(MASK.encode())
        elif name in SECRET_FIELDS or name in extra or is_secret_name(name):
            masked.append(raw + b": " + MASK.encode())
        elif name == SUBPROTOCOLS:
            masked.append(raw + b": " + b", ".join(map(_mask_subprotocol, value.split(b","))))
        else:
            masked.append(raw + colon + mask_urls(value.decode("latin-1")).encode("latin-1"))
    return masked


def key_in_subprotocol(text: bytes) -> bytes:
    """The key in the name of a WebSocket subprotocol, where browsers send one because they cannot send other fields:
    `openai-insecure-api-key.KEY`, `base64url.bearer.authorization.k8s.io.KEY`. Empty without one."""
    first, dot, rest = text.strip().partition(b".")
    while dot:
        if is_secret_name(first.decode("latin-1")):
            return rest
        first, dot, rest = rest.partition(b".")
    return b""


def _mask_subprotocol(text: bytes) -> bytes:
    text, key = text.strip(), key_in_subprotocol(text)
    return text[: len(text) - len(key)] + MASK.encode() if key else text


def _escape_match(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # an undecodable byte (surrogateescape)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def escape(data: bytes | str) -> str:
    """Log-safe text: control bytes, DEL, 0x80-0x9f, quotes and backslashes as \\xNN; bytes are read as Latin-1.

    Line separators and unpaired surrogates of a text become \\uNNNN, so that it can be encoded and stays on one line.
    """
    text = data.decode("latin-1") if isinstance(data, bytes) else data
    return text if _ESCAPED.search(text) is None else _ESCAPED.sub(_escape_match, text)
