"""Which filters a response passes, in the one order: count, remove, hold or translate, keep alive.

    endpoint -> TapUsage -> DropUsageChunk -> HoldFirstContent -> KeepAlive -> writer      (the client's dialect)
    endpoint -> Translate -> KeepAlive -> writer                                           (another dialect)
    endpoint -> writer                                                                     (opaque bytes)
"""

from __future__ import annotations

from relayd.errors import ExchangeError
from relayd.plan.plan import Target
from relayd.protocols.canon import Request
from relayd.protocols.dialect import Refused
from relayd.proxy.call import Call
from relayd.proxy.filters.drop_usage_chunk import DropUsageChunk
from relayd.proxy.filters.filter import Filter
from relayd.proxy.filters.hold_first_content import HoldFirstContent
from relayd.proxy.filters.tap_usage import TapUsage
from relayd.proxy.filters.translate import Translate
from relayd.wire.key_filter import KeyFilter
from relayd.wire.response import ResponseHead

NO_FILTERS: tuple[Filter, ...] = ()


def invalid_answer(call: Call, response: ResponseHead) -> ExchangeError | None:
    """Why a response of status 2xx cannot be the one that was asked for: a proxy's HTML page, or nothing at all."""
    if not call.translates:
        return None
    if response.length == 0:
        return ExchangeError("upstream_unreadable", "an empty answer")
    media = response.media
    if media.text and not (media.is_json or media.is_stream):
        return ExchangeError("upstream_unreadable", f"content type {media.text[:60]}")
    return None


def chain_for(
    call: Call, target: Target, canonical: Request | None, response: ResponseHead, may_retry: bool,
    keys: KeyFilter | None = None,
) -> tuple[Filter, ...]:
    """The filters of one response with a body that is to be read. `canonical` is the translated request, None where
    the dialects agree; `may_retry` says that another attempt could still be made. `keys` keeps the upstream's keys
    out of errors in the body."""
    if canonical is not None and target.dialect is not None and target.dialect.reader is not None:
        reader = target.dialect.reader(canonical, target.upstream.spec.dialect, call.ask.memory, response.coding)
        call.renderer.answered_by(call.backend_name(target))
        chain: tuple[Filter, ...] = (Translate(call, reader, may_retry, keys),)
    else:
        chain = passing_chain(call, target, response, may_retry)
    if call.keepalive is not None:
        chain = (*chain, call.keepalive)
    return chain


def passing_chain(call: Call, target: Target, response: ResponseHead, may_retry: bool) -> tuple[Filter, ...]:
    """The filters of a response in the client's own dialect."""
    tap_format = call.tap_format if call.counts else None
    chain: tuple[Filter, ...] = NO_FILTERS if tap_format is None else (TapUsage(call, tap_format, response),)
    media = response.media
    if not media.is_stream:
        return chain
    if call.asks_usage:
        chain = (*chain, DropUsageChunk(response))
    if may_retry and call.stream and call.translates and call.dialect.reader is not None and not response.coding:
        try:
            reader = call.dialect.reader(call.request, target.upstream.spec.dialect, call.ask.memory)
        except Refused:  # the endpoint may well understand what relayd does not: the stream goes on as it is
            return chain
        chain = (*chain, HoldFirstContent(reader))
    return chain
