"""The request target and header fields of a translated request.

Of the client's header, only User-Agent and the trace context (traceparent, tracestate) are forwarded, and the client's
key if the route forwards it: the other fields describe a request that the endpoint does not get. The
route's edits apply.
"""

from __future__ import annotations

from urllib.parse import quote_from_bytes

from relayd.plan.plan import HeaderNames, PlannedRoute
from relayd.protocols import registry
from relayd.protocols.dialect import EncodedRequest
from relayd.proxy.api_path import translated_path
from relayd.proxy.upstream_request import SUPPRESSED_FIELDS
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import AuthSpec, UpstreamSpec
from relayd.wire.headers import name_of
from relayd.wire.http1 import RequestHead
from relayd.wire.trace_context import FIELDS


def translated_target(encoded: EncodedRequest, endpoint: Endpoint, spec: UpstreamSpec, auth: AuthSpec | None) -> bytes:
    """The request target: the endpoint's base path, then the dialect's own path."""
    target = translated_path(spec.protocol, endpoint.base_path, encoded.path.encode("ascii"))
    if auth is not None and auth.kind == "query":
        separator = b"&" if b"?" in target else b"?"
        value = quote_from_bytes(auth.value.reveal().encode(), safe="").encode()
        target += separator + auth.name.encode() + b"=" + value
    return target


KEY_FIELDS = (b"x-api-key", b"x-goog-api-key", b"api-key")


def client_key_field(head: RequestHead, protocol: str) -> list[bytes]:
    """The client's key, in the field of the endpoint's dialect. Authorization takes precedence over other fields."""
    scheme, _, key = (head.get(b"authorization") or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not key.strip():
        key = next((value for name in KEY_FIELDS if (value := head.get(name))), b"")
    if not key.strip():
        return []
    name = registry.load(protocol).key_header
    return [b"Authorization: Bearer " + key.strip() if name is None else name + b": " + key.strip()]


def translated_fields(
    route: PlannedRoute, header_names: HeaderNames, endpoint: Endpoint, spec: UpstreamSpec, head: RequestHead,
    forwarding: list[bytes], request_id: bytes, encoded: EncodedRequest, auth: AuthSpec | None, stream: bool,
) -> list[bytes]:
    """The header fields, as lines without line ends."""
    fields = [
        b"Content-Type: application/json", b"Accept: text/event-stream" if stream else b"Accept: application/json",
        b"Accept-Encoding: identity",
    ]
    agent = head.get(b"user-agent")
    if agent:
        fields.append(b"User-Agent: " + agent)
    fields += [f"{name}: {value}".encode("latin-1", "replace") for name, value in encoded.headers]
    if head.get(b"traceparent") is not None:
        fields += [line for line in head.keep if name_of(line) in FIELDS]
    if route.request_edits is not None:
        fields = route.request_edits.apply(fields)
    fields += forwarding
    if header_names.request_id:
        fields.append(header_names.request_id + b": " + request_id)
    if auth is not None and auth.kind != "query":
        name = b"Authorization" if auth.kind == "bearer" else auth.name.encode()
        fields = [line for line in fields if name_of(line) != name.lower()]
        fields.append(name + b": " + (b"Bearer " if auth.kind == "bearer" else b"") + auth.value.reveal().encode())
    elif auth is None and route.pass_client_key:
        fields += client_key_field(head, spec.protocol)
    present = {name_of(line) for line in fields}
    fields += [line for line in SUPPRESSED_FIELDS if line[:-1].lower() not in present]
    authority = head.authority if spec.client_host and head.authority else endpoint.authority
    return [b"Host: " + authority, *fields]
