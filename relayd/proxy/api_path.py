"""The path of an AI API request. The endpoint's base path is configured like an SDK's base_url, and precedes the path.

Rules:
1. Chat and Responses SDKs include the version in their base_url (`/v1`, `/api/paas/v4`, `/v1beta/openai`). Clients of
   relayd send the version too, so it is removed from the client's path if a base path is configured.
2. Anthropic's and Google's SDKs have a base_url without a version. A base path with a version is accepted too.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from relayd.protocols import registry

_VERSION = re.compile(rb"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?(?=/)")
_ENDS_WITH_VERSION = re.compile(rb".*/v[0-9]+(?:(?:alpha|beta)[0-9]*)?")
_MODEL = re.compile(rb"(.*/models/)[^/]+(:[A-Za-z0-9]+/?)", re.IGNORECASE)


def passthrough_path(protocol: str, base: bytes, path: bytes) -> bytes:
    """The path of a passthrough request: the base path, then the client's path."""
    dialect = registry.dialect(protocol) if base else None
    if dialect is not None and (dialect.base_has_version or _ENDS_WITH_VERSION.fullmatch(base)):
        version = _VERSION.match(path)
        if version is not None:
            path = path[version.end():]
    return base + path


def translated_path(protocol: str, base: bytes, path: bytes) -> bytes:
    """The path of a translated request: the base path, then `path`, which is the dialect's own."""
    dialect = registry.load(protocol)
    if not base or not (dialect.base_has_version or _ENDS_WITH_VERSION.fullmatch(base)):
        base += dialect.default_base_path
    return base + path


def with_model(path: bytes, model: str) -> bytes:
    """Replace the model name in a path that contains one."""
    match = _MODEL.fullmatch(path)
    return path if match is None else match[1] + quote(model, safe="").encode() + match[2]
