"""The path of an AI API's request behind the endpoint's base, which is written as an SDK's base_url.

Laws:
1. Chat's and Responses' SDKs have the version in their base (`/v1`, `/api/paas/v4`, `/v1beta/openai`) and clients of
   relayd send it too: there it stands once. Only where no base is written, it is the client's.
2. Anthropic's and Google's SDKs have a base without a version; with one it is right as well.
"""

from __future__ import annotations

import re
from urllib.parse import quote

_VERSION = re.compile(rb"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?(?=/)")
_ENDS_WITH_VERSION = re.compile(rb".*/v[0-9]+(?:(?:alpha|beta)[0-9]*)?")
_OPENAI = ("openai_chat", "openai_responses")
_DEFAULT = {
    "openai_chat": b"/v1", "openai_responses": b"/v1", "anthropic_messages": b"/v1", "gemini": b"/v1beta",
}
_MODEL = re.compile(rb"(.*/models/)[^/:?]+(:[A-Za-z]+)")


def passing_path(protocol: str, base: bytes, path: bytes) -> bytes:
    """The path for a request that passes: the client's own, behind the base."""
    if protocol != "plain" and base and (protocol in _OPENAI or _ENDS_WITH_VERSION.fullmatch(base)):
        version = _VERSION.match(path)
        if version is not None:
            path = path[version.end():]
    return base + path


def crossing_path(protocol: str, base: bytes, path: bytes) -> bytes:
    """The path for a request of relayd's own making: `path` as the dialect has it, behind the base."""
    if not base or (protocol not in _OPENAI and not _ENDS_WITH_VERSION.fullmatch(base)):
        base += _DEFAULT.get(protocol, b"")
    return base + path


def with_model(path: bytes, model: str) -> bytes:
    """A path that names a model, with another name."""
    match = _MODEL.fullmatch(path)
    return path if match is None else match[1] + quote(model, safe="").encode() + match[2]
