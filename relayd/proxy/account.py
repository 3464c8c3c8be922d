"""What the account of an exchange says beyond a plain one: models, usage, pace, the trail of attempts."""

from __future__ import annotations

from relayd import clock
from relayd.protocols.tap import Observed
from relayd.proxy.call import Call
from relayd.proxy.translation import Translation
from relayd.telemetry.outcome import Record

More = dict[str, str | int | float]


def more_of(record: Record) -> More:
    """What only some exchanges have, made at the first asking."""
    if record.more is None:
        record.more = {}
    return record.more


def tell_observed(record: Record, observed: Observed, call: Call) -> None:
    """What a tap saw in an answer that passed."""
    model, finish, usage = observed
    record.usage = usage or record.usage
    if finish or (model and model != call.model):
        more = more_of(record)
        if finish:
            more["finish"] = finish
        if model and model != call.model:
            more["model_served" if call.model else "model"] = model


def tell_translated(record: Record, translation: Translation) -> None:
    """What the events of a translated answer said."""
    record.usage = translation.usage or record.usage
    if translation.finish:
        more_of(record)["finish"] = translation.finish


def tell_pace(record: Record, first_said_s: float) -> None:
    """Of a stream: how long to its first words, and how fast they came."""
    more = more_of(record)
    more["first_token_ms"] = round((first_said_s - record.started) * 1000, 3)
    spoke_s, tokens = clock.monotonic() - first_said_s, 0 if record.usage is None else record.usage.output
    if tokens > 1 and spoke_s > 0.001:
        more["tokens_per_s"] = round(tokens / spoke_s, 1)


def tell_model(more: More, call: Call, there: str | None) -> None:
    """The model that was asked for, and its name at the upstream where that is another one."""
    if call.model:
        more["model"] = call.model
        if there and there != call.model:
            more["model_there"] = there
