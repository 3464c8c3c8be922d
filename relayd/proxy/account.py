"""What the account of an exchange says beyond a plain one: models, usage, pace, the trail of attempts."""

from __future__ import annotations

from collections.abc import Mapping

from relayd import clock
from relayd.protocols.tap import Observed
from relayd.proxy.ai_request import AiRequest
from relayd.telemetry.outcome import More, Record
from relayd.usage import Usage


def more_of(record: Record) -> More:
    """What only some exchanges have, made at the first asking."""
    if record.more is None:
        record.more = {}
    return record.more


def record_observed(record: Record, observed: Observed, ai_request: AiRequest) -> None:
    """What a tap saw in an answer that passed."""
    model, finish, usage = observed
    record.usage = usage or record.usage
    if finish or (model and model != ai_request.model):
        more = more_of(record)
        if finish:
            more["finish"] = finish
        if model and model != ai_request.model:
            more["model_served" if ai_request.model else "model"] = model


def record_translated(record: Record, usage: Usage | None, finish: str) -> None:
    """What the events of a translated answer said."""
    record.usage = usage or record.usage
    if finish:
        more_of(record)["finish"] = finish


def record_pace(record: Record, first_content_s: float) -> None:
    """Of a stream: how long to its first words, and how fast they came."""
    more = more_of(record)
    more["first_token_ms"] = round((first_content_s - record.started) * 1000, 3)
    duration_s, tokens = clock.monotonic() - first_content_s, 0 if record.usage is None else record.usage.output
    if tokens > 1 and duration_s > 0.001:
        more["tokens_per_s"] = round(tokens / duration_s, 1)


def record_ai_request(record: Record, ai_request: AiRequest, upstream_model: str | None) -> None:
    """Models and pace of an exchange in a dialect."""
    if ai_request.stream and ai_request.first_content_s >= 0:
        record_pace(record, ai_request.first_content_s)
    record_model(more_of(record), ai_request, upstream_model)


def record_trail(record: Record, trail: tuple[str, ...]) -> None:
    """Which endpoints were tried, where there were several attempts."""
    if trail and record.attempts > 1:
        more_of(record)["trail"] = ", ".join(trail)


def record_model(more: More, ai_request: AiRequest, upstream_model: str | None) -> None:
    """The model that was asked for, and its name at the upstream where that is another one."""
    if ai_request.model:
        more["model"] = ai_request.model
        if upstream_model and upstream_model != ai_request.model:
            more["model_there"] = upstream_model


def record_unknown(record: Record, unknown: Mapping[tuple[str, str], int]) -> None:
    """Parts of a request that its dialect did not know: how many were carried and left out, and their types."""
    more = more_of(record)
    for fate in {fate for _, fate in unknown}:
        more[f"unknown_{fate}"] = sum(count for (_, its), count in unknown.items() if its == fate)
    more["unknown_types"] = ",".join(sorted({kind for kind, _ in unknown}))
