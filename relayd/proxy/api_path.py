"""The path of an AI API request: the endpoint's base path, and the model in the path.

The endpoint's base path is configured like an SDK's base_url, and precedes the client's path.

Rules:
1. Chat and Responses SDKs include the version in their base_url (`/v1`, `/api/paas/v4`, `/v1beta/openai`). Clients of
   relayd send the version too, so it is removed from the client's path if a base path is configured.
2. Anthropic's and Google's SDKs have a base_url without a version. A base path with a version is accepted too.
3. The paths of these APIs name the model: Gemini and Vertex (`models/M:verb`, `tunedModels/M:verb`,
   `endpoints/M:verb`), TensorFlow Serving (`models/M/versions/V:verb`), KServe and Triton (`models/M/infer`,
   `models/M/generate`), Azure OpenAI (`openai/deployments/M/...`, `deployments/M/chat/completions`), OpenAI's former
   `engines/M/completions`, and Amazon Bedrock (`model/M/invoke`, `model/M/converse`). Letter case is ignored, as some
   of their servers do.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

from relayd.lazy_regex import lazy_regex
from relayd.protocols import registry

_VERSION = lazy_regex(rb"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?(?=/)")
_ENDS_WITH_VERSION = lazy_regex(rb".*/v[0-9]+(?:(?:alpha|beta)[0-9]*)?")
_MODEL = lazy_regex(
    rb"(?<=/)(?:(?:tuned)?models|endpoints)/(?P<verb_model>[^/]+):(?=(?P<verb>[^/:]*)/?\Z)"
    rb"|(?<=/)models/(?P<served>[^/]+)(?=/(?:versions|labels)/[^/]+:[^/:]*/?\Z"
    rb"|(?:/versions/[^/]+)?/(?:infer|generate|generate_stream)/?\Z)"
    rb"|(?<=/)(?:deployments|engines)/(?P<deployed>[^/]+)"
    rb"(?=/(?:chat|completions|embeddings|images|audio|responses|extensions|realtime)(?:/|\Z))"
    rb"|(?<=/openai/deployments/)(?P<azure>[^/]+)(?=/[^/])"
    rb"|(?<=/)model/(?P<invoked>[^/]+)(?=/(?:async-)?(?:invoke|converse|count-tokens)[a-z-]*/?\Z)",
    re.IGNORECASE,
)
_GROUPS = ("verb_model", "served", "deployed", "azure", "invoked")


class ModelInPath(NamedTuple):
    """A model in a path: its position, and the verb behind it (None if the API has no verb there)."""

    start: int
    end: int
    verb: bytes | None


def models_in_path(path: bytes) -> list[ModelInPath]:
    """The models that this path names, undecoded, in their order."""
    found = []
    for match in _MODEL.finditer(path):
        group = next(name for name in _GROUPS if match[name] is not None)
        found.append(ModelInPath(*match.span(group), match["verb"]))
    return found


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
    name = quote(model, safe="").encode()
    for found in reversed(models_in_path(path)):
        path = path[: found.start] + name + path[found.end :]
    return path
