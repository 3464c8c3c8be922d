"""Cross-origin requests: the CORS response fields of a route, after the Fetch standard (3.2, 4.8, 4.9).

1. An origin is granted only if the whole serialised origin is equal; a part of a name grants nothing.
2. Responses that depend on the Origin field carry `Vary: Origin`, also if the origin was not granted.
3. A preflight is answered by relayd and never sent upstream. It needs no key, because browsers cannot send one with it.
"""

from __future__ import annotations

from typing import Protocol

from relayd.lazy_regex import lazy_regex

Fields = list[tuple[str, str]]

# On a route with `cors`, the upstream's own fields of these names are replaced: browsers reject duplicate fields.
RESPONSE_NAMES = frozenset({
    b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-expose-headers",
    b"access-control-allow-methods", b"access-control-allow-headers", b"access-control-max-age",
})

_TOKEN = lazy_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VARY_PREFLIGHT = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


class Cors(Protocol):
    """The `cors:` of a route."""

    @property
    def origins(self) -> tuple[str, ...]: ...
    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def headers(self) -> tuple[str, ...]: ...
    @property
    def expose(self) -> tuple[str, ...]: ...
    @property
    def credentials(self) -> bool: ...
    @property
    def max_age(self) -> float: ...


def preflight(cors: Cors, origin: str, method: str, headers: str) -> Fields | None:
    """The fields of the 204 response to a preflight; None if it is not granted: respond 403 with `refusal(cors)`.

    `origin`, `method` and `headers` are the values of Origin and Access-Control-Request-Method and -Headers, "" if
    absent.
    """
    allowed = _origin(cors, origin)
    if allowed is None or not _TOKEN.fullmatch(method):
        return None
    # The method is compared case-sensitively (Fetch 4.8). Safelisted methods need not be listed, but may be.
    if "*" not in cors.methods and method not in cors.methods:
        return None
    requested = [name for name in (part.strip(" \t") for part in headers.split(",")) if name]
    if not all(_TOKEN.fullmatch(name) for name in requested):
        return None
    if "*" not in cors.headers:
        granted = {name.lower() for name in cors.headers}
        if not all(name.lower() in granted for name in requested):
            return None
        requested = list(cors.headers)
    fields: Fields = [("Access-Control-Allow-Origin", allowed)]
    if cors.credentials:
        fields.append(("Access-Control-Allow-Credentials", "true"))
    # Listed instead of "*", which is no wildcard in requests with credentials and never covers Authorization.
    fields.append(("Access-Control-Allow-Methods", method if "*" in cors.methods else ", ".join(cors.methods)))
    if requested:
        fields.append(("Access-Control-Allow-Headers", ", ".join(requested)))
    fields.append(("Access-Control-Max-Age", str(int(cors.max_age))))
    fields.append(("Vary", _VARY_PREFLIGHT))
    return fields


def refusal(cors: Cors) -> Fields:
    """The fields of the response to a preflight that is not granted."""
    return [("Vary", _VARY_PREFLIGHT)]


def response_fields(cors: Cors, origin: str | None) -> Fields:
    """The fields that are added to every response of the route; `origin` is the request's Origin, None if absent."""
    fields: Fields = []
    allowed = _origin(cors, origin)
    if allowed is not None:
        fields.append(("Access-Control-Allow-Origin", allowed))
        if cors.credentials:
            fields.append(("Access-Control-Allow-Credentials", "true"))
        if cors.expose:
            fields.append(("Access-Control-Expose-Headers", ", ".join(cors.expose)))
    if not _public(cors):
        fields.append(("Vary", "Origin"))
    return fields


def _public(cors: Cors) -> bool:
    """True if the response is the same for every origin."""
    return "*" in cors.origins and not cors.credentials


def _origin(cors: Cors, origin: str | None) -> str | None:
    if _public(cors):
        return "*"
    if origin is None or not any(origin == granted.rstrip("/") for granted in cors.origins if granted != "*"):
        return None
    return origin
