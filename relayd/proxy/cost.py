"""The cost of an AI request: the images that it contains or requests, and the price of what its response reports.

An exchange uses the prices of the plan with which it began. A request whose price is unknown has no cost.
"""

from __future__ import annotations

import re

from relayd.lazy_regex import lazy_regex
from relayd.limits.prices import Price, Prices
from relayd.plan.plan import Target
from relayd.proxy.ai_request import AiRequest
from relayd.telemetry.outcome import Record
from relayd.usage import Usage
from relayd.wire.json_steps import Steps

GENERATING = (b"/images/generations", b"/images/edits", b"/images/variations")
STEP_BYTES = 256 * 1024
LONGEST_MARK = 256  # bytes of a mark with the whitespace inside
MOST_IMAGES = 1000
NO_USAGE = Usage()
_COUNT = lazy_regex(rb"[1-9][0-9]{0,2}")


def image_steps(ai_request: AiRequest, path: bytes) -> Steps[None]:
    """Count the images that a request contains, or requests from an API that generates images."""
    body, count = ai_request.body or b"", 0
    mark = ai_request.dialect.image_mark
    if path.rstrip(b"/").endswith(GENERATING):
        count = _requested(ai_request, body)
    elif mark:
        matches = re.compile(mark).finditer
        for start in range(0, len(body), STEP_BYTES):
            end = start + STEP_BYTES
            piece = body[start : end + LONGEST_MARK]
            count += sum(1 for found in matches(piece) if found.start() < STEP_BYTES)
            yield
    ai_request.images = min(count, MOST_IMAGES)


def _requested(ai_request: AiRequest, body: bytes) -> int:
    """The `n` of a request for generated images."""
    span = None if ai_request.json_body is None else ai_request.json_body.span("n")
    number = b"" if span is None else body[span[0] : span[1]]
    return int(number) if _COUNT.fullmatch(number) else 1


def price_of(record: Record, prices: Prices, ai_request: AiRequest, target: Target) -> Price | None:
    """The price for this target: by the model's name there, by the client's name, or by the name in the response."""
    name = ai_request.model
    found = prices.price(record.upstream, target.model or ai_request.sent_model or name, name)
    reported = None if found is not None or record.more is None else record.more.get("model_served")
    return prices.price(record.upstream, reported) if isinstance(reported, str) else found


def record_cost(record: Record, prices: Prices, ai_request: AiRequest, target: Target) -> None:
    """Record the cost of the token counts in the record. A failed request without token counts costs nothing; the cost
    of another one without them is unknown if it depends on them."""
    usage = record.usage
    if not record.attempts or not ai_request.may_cost or (usage is None and record.status >= 400):
        return
    record.currency = prices.currency
    price = price_of(record, prices, ai_request, target)
    if price is not None and (usage is not None or not price.has_token_prices):
        record.cost_nano = price.cost(usage or NO_USAGE, max(0, ai_request.images))
