"""The path of an AI API's request behind the endpoint's base, which is written as an SDK's base_url.

Laws:
1. Chat's and Responses' SDKs have the version in their base (`/v1`, `/api/paas/v4`, `/v1beta/openai`) and clients of
   relayd send it too: there it stands once. Only where no base is written, it is the client's.
2. Anthropic's and Google's SDKs have a base without a version; with one it is right as well.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from relayd.protocols import registry

_VERSION = re.compile(rb"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?(?=/)")
_ENDS_WITH_VERSION = re.compile(rb".*/v[0-9]+(?:(?:alpha|beta)[0-9]*)?")
_MODEL = re.compile(rb"(.*/models/)[^/]+(:[A-Za-z0-9]+/?)", re.IGNORECASE)


def passthrough_path(protocol: str, base: bytes, path: bytes) -> bytes:
    """The path for a request that passes: the client's own, behind the base."""
    dialect = registry.dialect(protocol) if base else None
    if dialect is not None and (dialect.base_has_version or _ENDS_WITH_VERSION.fullmatch(base)):
        version = _VERSION.match(path)
        if version is not None:
            path = path[version.end():]
    return base + path


def translated_path(protocol: str, base: bytes, path: bytes) -> bytes:
    """The path for a request of relayd's own making: `path` as the dialect has it, behind the base."""
    dialect = registry.load(protocol)
    if not base or not (dialect.base_has_version or _ENDS_WITH_VERSION.fullmatch(base)):
        base += dialect.default_base_path
    return base + path


def with_model(path: bytes, model: str) -> bytes:
    """A path that names a model, with another name."""
    match = _MODEL.fullmatch(path)
    return path if match is None else match[1] + quote(model, safe="").encode() + match[2]
