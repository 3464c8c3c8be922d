"""The request target and header fields of a passthrough request, built from the client's head and the route.

The data path and `relayd explain` use the same functions. Rules: reference HTTP contract, section 2. The upstream's key
is added last, after all edits, so that nothing can replace it.
"""

from __future__ import annotations

from itertools import repeat
from urllib.parse import quote_from_bytes, unquote_to_bytes

from relayd.errors import ExchangeError
from relayd.lazy_regex import lazy_regex
from relayd.plan.plan import HeaderNames, PlannedRoute
from relayd.proxy.api_path import passthrough_path, with_model
from relayd.proxy.downstream import Downstream
from relayd.proxy.model_names import line_with_model, query_with_model
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import AuthSpec, UpstreamSpec
from relayd.wire.forwarded import forwarded_element
from relayd.wire.headers import CREDENTIALS, name_of, without
from relayd.wire.http1 import ACCEPT, AGENT, TYPE, RequestHead
from relayd.wire.origin import Origin, origin_of
from relayd.wire.redact import SUBPROTOCOLS, key_in_subprotocol

_COOKIE = frozenset((b"cookie",))
_WELL_FORMED_ID = lazy_regex(rb"[A-Za-z0-9._-]{1,128}")
# Default fields of libcurl: an empty field suppresses them. relayd answers Expect itself and never forwards it.
_SUPPRESSED = {
    bits: [b"Expect:"]
    + [name for bit, name in ((AGENT, b"User-Agent:"), (ACCEPT, b"Accept:"), (TYPE, b"Content-Type:"))
       if not bits & 1 << bit]
    for bits in (sum(1 << bit for bit, on in zip((AGENT, ACCEPT, TYPE), (a, b, c), strict=True) if on)
                 for a in (0, 1) for b in (0, 1) for c in (0, 1))
}


def request_id_of(header_names: HeaderNames, down: Downstream, head: RequestHead) -> bytes | None:
    """The request id from the client, if it is well-formed and the client is trusted."""
    if not down.trusted or not header_names.request_id:
        return None
    value = head.get(header_names.request_id.lower())
    return value if value is not None and _WELL_FORMED_ID.fullmatch(value) else None


def target_of(
    route: PlannedRoute, endpoint: Endpoint, upstream: UpstreamSpec, head: RequestHead, auth: AuthSpec | None = None,
    model: str | None = None, strip: bool = False,
) -> bytes:
    """The request target: the client's bytes, except a rewritten prefix and a model name in the path or the query.

    `auth` is the key in use if the upstream has several. `model` replaces the model name. `strip` removes the client's
    keys from the query.
    """
    auth = auth or upstream.auth
    path = route.rewritten(head.path) if route.rewrites_path else head.path
    if model is not None:
        path = with_model(path, model)
    if endpoint.base_path:
        path = passthrough_path(upstream.protocol, endpoint.base_path, path)
    query = head.query if model is None else query_with_model(head, model)
    if strip and query:
        is_api = upstream.protocol != "plain" or b"/v1beta" in head.path or b"/models" in head.path
        query = _without_keys(query, is_api)
    if auth is not None and auth.kind == "query":
        key = auth.name + "=" + quote_from_bytes(auth.value.reveal().encode(), safe="")
        query = b"?" + b"&".join([*_without_parameter(query[1:], auth.name.encode()), key.encode()])
    return path + query


KEY_PARAMETERS = frozenset((b"api_key", b"apikey", b"x_api_key", b"x_goog_api_key", b"access_token"))


def _without_keys(query: bytes, is_api: bool) -> bytes:
    """Remove keys of AI APIs from a query. The parameter `key` is removed only for such an API (Gemini's clients): for
    others it may have any meaning."""
    parts = query[1:].split(b"&")
    remaining = [part for part in parts if not _is_key(part.partition(b"=")[0], is_api)]
    if len(remaining) == len(parts):
        return query
    return b"?" + b"&".join(remaining) if remaining else b""


def _is_key(name: bytes, is_api: bool) -> bool:
    low = unquote_to_bytes(name.replace(b"+", b" ")).strip().lower().replace(b"-", b"_")
    return low in KEY_PARAMETERS or (is_api and low == b"key")


def _without_parameter(query: bytes, name: bytes) -> list[bytes]:
    low = name.lower()  # compared as the endpoint reads it: %6bey is key
    return [part for part in query.split(b"&") if part and unquote_to_bytes(part.partition(b"=")[0]).lower() != low]


def origin_for(down: Downstream, head: RequestHead) -> Origin | None:
    """The origin of a request from a trusted proxy; None if the peer is the client."""
    return origin_of(down.peer, head.get_all, down.networks) if down.trusted else None


def forwarding_of(header_names: HeaderNames, down: Downstream, head: RequestHead, origin: Origin | None) -> list[bytes]:
    """The forwarding fields (X-Forwarded-For, Forwarded, Via, ...). `origin` is the result of `origin_for`."""
    if origin is None and not head.via:
        cached = down.forwarding_cache
        if cached is not None and cached[0] is header_names and cached[1] == head.authority:
            return cached[2]
        lines = _forwarding(header_names, down, head, Origin(down.peer, down.peer.encode(), [], None, None))
        down.forwarding_cache = (header_names, head.authority, lines)
        return lines
    return _forwarding(header_names, down, head, origin or Origin(down.peer, down.peer.encode(), [], None, None))


def _forwarding(header_names: HeaderNames, down: Downstream, head: RequestHead, origin: Origin) -> list[bytes]:
    scheme = b"https" if down.tls else b"http"
    host = origin.host or head.authority
    lines = []
    if header_names.forwarded_for:
        lines.append(header_names.forwarded_for + b": " + origin.chain)
    if header_names.forwarded_proto:
        lines.append(header_names.forwarded_proto + b": " + (origin.proto or scheme))
    if header_names.forwarded_host and host:
        lines.append(header_names.forwarded_host + b": " + host)
    if header_names.real_ip:
        lines.append(header_names.real_ip + b": " + origin.client.encode())
    if header_names.forwarded:
        own = forwarded_element(down.peer, head.authority, scheme)
        lines.append(header_names.forwarded + b": " + b", ".join([*origin.elements, own]))
    if header_names.via:
        own_hop = b"%s %s" % (b"1.1" if head.version == 11 else b"1.0", header_names.via)
        for value in head.via:
            for hop in value.split(b","):
                if hop.split()[1:2] == [header_names.via]:
                    raise ExchangeError("loop_detected", "own name in Via")
        lines.append(b"Via: " + b", ".join([*head.via, own_hop]))
    return lines


def fields_of(
    route: PlannedRoute, header_names: HeaderNames, endpoint: Endpoint, upstream: UpstreamSpec, head: RequestHead,
    forwarding: list[bytes], request_id: bytes, strip_keys: bool,
    key_fields: frozenset[bytes] = frozenset(), auth: AuthSpec | None = None, model: str | None = None,
) -> list[bytes]:
    """The header fields: the client's in their order and spelling, then those that relayd adds. `model` replaces the
    model name in fields that contain one."""
    remaining = head.keep
    if strip_keys:
        if head.keys:
            remaining = _without_keys_of(head)
        if key_fields and (head.names is None or not key_fields.isdisjoint(head.names)):
            remaining = without(remaining, key_fields)
        if upstream.protocol != "plain" and (head.names is None or b"cookie" in head.names):
            remaining = without(remaining, _COOKIE)  # an AI API uses no cookies
        if head.upgrade is not None:
            remaining = [line for line in map(_without_subprotocol_keys, remaining) if line]
    if model is not None and head.overrides:
        remaining = list(map(line_with_model, remaining, repeat(model)))
    if header_names.custom:
        remaining = without(remaining, header_names.custom)
    if route.request_edits is not None:
        remaining = route.request_edits.apply(remaining)
    authority = head.authority if upstream.client_host and head.authority else endpoint.authority
    fields = [b"Host: " + authority, *remaining, *forwarding]
    if header_names.request_id_start:
        fields.append(header_names.request_id_start + request_id)
    auth = auth or upstream.auth
    if auth is not None and auth.kind != "query":
        name = b"Authorization" if auth.kind == "bearer" else auth.name.encode()
        if not strip_keys or name.lower() not in CREDENTIALS or route.request_edits is not None:  # else none is left
            fields = without(fields, {name.lower()})
        prefix = b"Bearer " if auth.kind == "bearer" else b""
        fields.append(name + b": " + prefix + auth.value.reveal().encode())
    if head.empty:  # in libcurl, `Name:` removes a field and `Name;` is an empty one
        fields = [line.partition(b":")[0] + b";" if not line.partition(b":")[2].strip() else line for line in fields]
    if route.request_edits is None:
        fields += _SUPPRESSED[head.sent]
    else:
        fields += without(_SUPPRESSED[0], {name_of(line) for line in fields})
    return fields


def _without_keys_of(head: RequestHead) -> list[bytes]:
    """The forwarded lines without those that may contain a client's key."""
    remaining = list(head.keep)
    for index in reversed(head.keys):
        del remaining[index]
    return remaining


def _without_subprotocol_keys(line: bytes) -> bytes:
    """A line of Sec-WebSocket-Protocol without the names that contain a key; empty if no name is left."""
    if name_of(line) != SUBPROTOCOLS.encode():
        return line
    name, _, value = line.partition(b":")
    names = value.split(b",")
    remaining = [one.strip() for one in names if not key_in_subprotocol(one)]
    if len(remaining) == len(names):
        return line
    return name + b": " + b", ".join(remaining) if remaining else b""


def strips_client_keys(route: PlannedRoute, upstream: UpstreamSpec | None, has_consumers: bool) -> bool:
    """True if the client's keys are not forwarded: if relayd has consumers, or adds its own key."""
    if route.pass_client_key:
        return False
    if has_consumers or route.allow is not None:
        return True
    return upstream is not None and upstream.auth is not None


def has_client_key(head: RequestHead) -> bool:
    """True if the client has sent a key or a cookie, in any way in which an endpoint may read one."""
    if any(head.get(name) is not None for name in (*CREDENTIALS, b"proxy-authorization", b"cookie")):
        return True
    return any(_is_key(part.partition(b"=")[0], True) for part in head.query[1:].split(b"&") if part)


SUPPRESSED_FIELDS = _SUPPRESSED[0]

__all__ = [
    "CREDENTIALS", "SUPPRESSED_FIELDS", "fields_of", "forwarding_of", "has_client_key", "origin_for", "request_id_of",
    "strips_client_keys", "target_of",
]
