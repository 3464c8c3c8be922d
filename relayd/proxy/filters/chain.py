"""The filters of a response in their order.

    endpoint -> TapUsage -> DropUsageChunk -> HoldFirstContent -> RecordAnswer -> CostField -> KeepAlive -> writer
                                                                                               (the same dialect)
    endpoint -> Translate -> RecordAnswer -> CostField -> KeepAlive -> writer                  (another dialect)
    endpoint -> PermittedModels -> writer                  (a list of models, for a consumer that may not use all)
    endpoint -> writer                                                                            (opaque bytes)
"""

from __future__ import annotations

from relayd.errors import ExchangeError
from relayd.plan.plan import Target
from relayd.protocols.canon import Failure, Request
from relayd.protocols.dialect import Refused
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.filters.cost_field import CostField
from relayd.proxy.filters.count_text import CountText
from relayd.proxy.filters.drop_usage_chunk import DropUsageChunk
from relayd.proxy.filters.filter import Filter
from relayd.proxy.filters.hold_first_content import HoldFirstContent
from relayd.proxy.filters.permitted_models import PermittedModels
from relayd.proxy.filters.record_answer import RecordAnswer
from relayd.proxy.filters.tap_usage import TapUsage
from relayd.proxy.filters.translate import Translate, redact_keys
from relayd.wire.key_filter import KeyFilter
from relayd.wire.response import ResponseHead

NO_FILTERS: tuple[Filter, ...] = ()


def invalid_answer(ai_request: AiRequest, response: ResponseHead) -> ExchangeError | None:
    """The error if a 2xx response cannot be an answer of the API: a text page, or an empty body. Else None."""
    if not ai_request.is_translatable:
        return None
    if response.length == 0:
        return ExchangeError("upstream_unreadable", "an empty answer")
    media = response.media
    if media.text and not (media.is_json or media.is_stream):
        return ExchangeError("upstream_unreadable", f"content type {media.text[:60]}")
    return None


def chain_for(
    ai_request: AiRequest, target: Target, canonical: Request | None, response: ResponseHead, may_retry: bool,
    keys: KeyFilter | None = None,
) -> tuple[Filter, ...]:
    """The filters of a response. `canonical` is the translated request, None in passthrough. `may_retry`: another
    attempt may follow. `keys` removes the upstream's keys from errors in the body."""
    if canonical is not None and target.dialect is not None and target.dialect.reader is not None:
        options, memory = target.upstream.spec.dialect, ai_request.context.memory
        reader = target.dialect.reader(canonical, options, memory, response.coding)
        ai_request.renderer.set_upstream_name(ai_request.backend_name(target))
        chain: tuple[Filter, ...] = (Translate(ai_request, reader, may_retry, keys),)
    else:
        chain = passing_chain(ai_request, target, response, may_retry)
    if ai_request.counts_text:
        chain = (*chain, CountText(ai_request))
    if ai_request.cache_use is not None:
        chain = (*chain, RecordAnswer(ai_request.cache_use, target, response))
    if ai_request.cost_text is not None:
        chain = (*chain, CostField(ai_request.cost_text, response.media.is_stream, ai_request.accepts_chunks))
    if ai_request.keepalive is not None:
        chain = (*chain, ai_request.keepalive)
    return chain


def passing_chain(ai_request: AiRequest, target: Target, response: ResponseHead, may_retry: bool) -> tuple[Filter, ...]:
    """The filters of a passthrough response."""
    media = response.media
    if ai_request.lists_only is not None:
        return (PermittedModels(ai_request.lists_only, response),)
    is_read = ai_request.reports_usage and (ai_request.is_translatable or media.is_json or media.is_stream)
    tap_format = ai_request.tap_format if is_read else None
    chain: tuple[Filter, ...] = NO_FILTERS if tap_format is None else (TapUsage(ai_request, tap_format, response),)
    if not media.is_stream:
        return chain
    if ai_request.requests_usage:
        chain = (*chain, DropUsageChunk(response))
    read = ai_request.dialect.reader
    if may_retry and ai_request.stream and ai_request.is_translatable and read is not None and not response.coding:
        try:
            reader = read(ai_request.request, target.upstream.spec.dialect, ai_request.context.memory)
        except Refused:  # the endpoint may accept requests that relayd cannot read: the stream is not held
            return chain
        chain = (*chain, HoldFirstContent(reader))
    return chain


def reported_failure(filters: tuple[Filter, ...], keys: KeyFilter | None) -> Failure | None:
    """The failure that a complete response has reported to the client itself, without keys; None if it has not."""
    failure = next((found for one in filters if (found := one.reported_failure()) is not None), None)
    return failure if failure is None or keys is None else redact_keys(keys, failure)
