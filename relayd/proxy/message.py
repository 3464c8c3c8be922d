"""The request as one target's endpoint gets it: in its own dialect, or passing with another model name."""

from __future__ import annotations

from relayd.plan.plan import PlannedRoute, Target
from relayd.protocols.canon import Request
from relayd.proxy.account import tell_unknown
from relayd.proxy.call import Call
from relayd.proxy.crossing import crossing_fields, crossing_target
from relayd.proxy.exchange import Exchange
from relayd.proxy.outgoing import fields_of, forwarding_of, strips_keys, target_of
from relayd.upstream.lease import Lease
from relayd.wire.headers import name_of

Message = tuple[bytes, list[bytes], bytes | None, Request | None]


def message_for(
    exchange: Exchange, route: PlannedRoute, target: Target, lease: Lease, call: Call | None, body: bytes | None
) -> Message:
    """Target, fields, body, and the canonical request where the dialects differ.

    `body` is the whole body or None. Raises Refused for what cannot be carried, ExchangeError for a loop.
    """
    head, house, spec = exchange.head, exchange.plan.house, target.upstream.spec
    endpoint, auth = lease.endpoint, lease.key
    forwarding = forwarding_of(house, exchange.down, head, exchange.origin)
    if call is not None and call.crosses(target):
        request, sending = call.sending(target)
        if request.unknown:
            tell_unknown(exchange.record, request.unknown)
        fields = crossing_fields(
            route, house, endpoint, spec, head, forwarding, exchange.request_id, sending, auth, request.stream
        )
        return crossing_target(sending, endpoint, spec, auth), fields, sending.body, request
    renamed = None
    if call is not None:
        call.check_passing(target)
        renamed = target.model if target.model != call.model else None
    strip = strips_keys(route, spec, exchange.consumer)
    fields = fields_of(
        route, house, endpoint, spec, head, forwarding, exchange.request_id, strip, exchange.plan.key_fields, auth
    )
    passing = body if call is None or body is None else call.passing(target)
    if call is not None and call.asks_usage:  # what must be read must come without a coding
        fields = [line for line in fields if name_of(line) != b"accept-encoding"]
        fields.append(b"Accept-Encoding: identity")
    return target_of(route, endpoint, spec, head, auth, renamed, strip=strip), fields, passing, None
