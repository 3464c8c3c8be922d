"""The request to a target's endpoint: translated, or passed through with the target's model name."""

from __future__ import annotations

from relayd.plan.plan import PlannedRoute, Target
from relayd.protocols.canon import Request
from relayd.proxy.account import record_unknown
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.exchange import Exchange
from relayd.proxy.translated_request import translated_fields, translated_target
from relayd.proxy.upstream_request import fields_of, forwarding_of, strips_client_keys, target_of
from relayd.upstream.lease import Lease
from relayd.wire.decoding import CODINGS
from relayd.wire.headers import Memo, name_of

Message = tuple[bytes, list[bytes], bytes | None, Request | None]


def message_for(
    exchange: Exchange, route: PlannedRoute, target: Target, lease: Lease, ai_request: AiRequest | None,
    body: bytes | None,
) -> Message:
    """Request target, fields, body, and the canonical request if it is translated.

    `body` is the whole body or None. Raises Refused for parts that cannot be translated, ExchangeError for a loop.
    """
    head, header_names, spec = exchange.head, exchange.plan.header_names, target.upstream.spec
    endpoint, auth = lease.endpoint, lease.key
    forwarding = forwarding_of(header_names, exchange.down, head, exchange.origin)
    if ai_request is not None and ai_request.needs_translation(target):
        request, encoded = ai_request.encode_for(target)
        if request.unknown:
            record_unknown(exchange.record, request.unknown)
        fields = translated_fields(
            route, header_names, endpoint, spec, head, forwarding, exchange.request_id, encoded, auth, request.stream
        )
        return translated_target(encoded, endpoint, spec, auth), fields, encoded.body, request
    model = None
    if ai_request is not None:
        ai_request.validate_passthrough(target)
        model = target.model if target.model != ai_request.model else None
    strip = strips_client_keys(route, spec, exchange.plan.consumers.is_used)
    fields = fields_of(
        route, header_names, endpoint, spec, head, forwarding, exchange.request_id, strip, exchange.plan.key_fields,
        auth, model,
    )
    payload = body if ai_request is None or body is None else ai_request.passthrough_body(target)
    if ai_request is not None and (
        ai_request.requests_usage or ai_request.lists_only is not None or ai_request.cache_use is not None
    ):  # relayd reads the response
        fields = [line for line in fields if name_of(line) != b"accept-encoding"]
        fields.append(b"Accept-Encoding: identity")
    elif ai_request is not None and (head.names is None or b"accept-encoding" in head.names or route.request_edits):
        fields = [_WITH_KNOWN_CODINGS[line] if line[:15].lower() == b"accept-encoding" else line for line in fields]
    return target_of(route, endpoint, spec, head, auth, model, strip=strip), fields, payload, None


def _with_known_codings(line: bytes) -> bytes:
    """A line of Accept-Encoding with the codings that relayd reads too: usage and errors are read from the response."""
    name, colon, value = line.partition(b":")
    if not colon or name_of(line) != b"accept-encoding":
        return line
    parts = value.split(b",")
    known = [part for part in parts if part.partition(b";")[0].strip().lower().decode("latin-1") in CODINGS]
    if len(known) == len(parts):
        return line
    return name + b": " + (b",".join(known).strip() or b"identity")


_WITH_KNOWN_CODINGS: Memo[bytes] = Memo(_with_known_codings)
