"""Optional members of an exchange's record: models, token usage, stream pace, the trail of attempts."""

from __future__ import annotations

from collections.abc import Mapping

from relayd import clock
from relayd.limits.spend import Spend
from relayd.protocols.tap import Observed
from relayd.proxy.ai_request import AiRequest
from relayd.telemetry.outcome import More, Record
from relayd.usage import Usage


def more_of(record: Record) -> More:
    """The optional members of a record; the dictionary is created on first use."""
    if record.more is None:
        record.more = {}
    return record.more


def record_observed(record: Record, observed: Observed, ai_request: AiRequest) -> None:
    """Record what the usage tap read from a passthrough response."""
    model, finish, usage = observed
    record.usage = usage or record.usage
    if finish or (model and model != ai_request.model):
        more = more_of(record)
        if finish:
            more["finish"] = finish
        if model and model != ai_request.model:
            more["model_served" if ai_request.model else "model"] = model


def record_translated(record: Record, usage: Usage | None, finish: str) -> None:
    """Record what the events of a translated response reported."""
    record.usage = usage or record.usage
    if finish:
        more_of(record)["finish"] = finish


def record_pace(record: Record, first_content_s: float) -> None:
    """Record the time to the first token of a stream (ms), and its tokens per second."""
    more = more_of(record)
    more["first_token_ms"] = round((first_content_s - record.started) * 1000, 3)
    duration_s, tokens = clock.monotonic() - first_content_s, 0 if record.usage is None else record.usage.output
    if tokens > 1 and duration_s > 0.001:
        more["tokens_per_s"] = round(tokens / duration_s, 1)


def record_ai_request(record: Record, ai_request: AiRequest, upstream_model: str | None) -> None:
    """Record the models of an AI request, and the pace of its stream. `upstream_model` is the model sent upstream."""
    if ai_request.stream and ai_request.first_content_s >= 0:
        record_pace(record, ai_request.first_content_s)
    record_model(more_of(record), ai_request, upstream_model)


def record_trail(record: Record, trail: tuple[str, ...]) -> None:
    """Record the endpoints of all attempts if more than one was made."""
    if trail and record.attempts > 1:
        more_of(record)["trail"] = ", ".join(trail)


def record_model(more: More, ai_request: AiRequest, upstream_model: str | None) -> None:
    """Record the requested model, and the model name sent upstream if it differs."""
    if ai_request.model:
        more["model"] = ai_request.model
        if upstream_model and upstream_model != ai_request.model:
            more["model_there"] = upstream_model


def add_spend(spend: Spend, record: Record, group: str) -> None:
    """Add the finished exchange to the spend, under the model's name at the endpoint. `group` is the consumer's."""
    more = record.more or {}
    model = str(more.get("model_there") or more.get("model") or "")
    wall_s = record.started_wall + max(0.0, record.total_s)
    spend.add(
        wall_s, record.consumer, group, record.route, record.upstream, model, record.currency, record.usage,
        record.cost_nano, record.cost_estimated,
    )


def record_unknown(record: Record, unknown: Mapping[tuple[str, str], int]) -> None:
    """Record the request parts unknown to the dialect: how many were carried and left out, and their types."""
    more = more_of(record)
    for fate in {fate for _, fate in unknown}:
        more[f"unknown_{fate}"] = sum(count for (_, its), count in unknown.items() if its == fate)
    more["unknown_types"] = ",".join(sorted({kind for kind, _ in unknown}))
