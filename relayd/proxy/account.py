"""What the account of an exchange says beyond a plain one: models, tokens, pace, the trail of attempts."""

from __future__ import annotations

from relayd import clock
from relayd.protocols.dialect import Tapped
from relayd.proxy.call import Call
from relayd.proxy.translation import Translation
from relayd.telemetry.outcome import Record

More = dict[str, str | int | float]


def more_of(record: Record) -> More:
    """What only some exchanges have, made at the first asking."""
    if record.more is None:
        record.more = {}
    return record.more


def tell_seen(more: More, seen: Tapped, call: Call) -> None:
    """What a tap saw in an answer that passed."""
    model, finish, input, output, cached, reasoning = seen
    if input is not None:
        more["tokens_input"] = input
    if output is not None:
        more["tokens_output"] = output
    if cached:
        more["tokens_cached"] = cached
    if reasoning:
        more["tokens_reasoning"] = reasoning
    if finish:
        more["finish"] = finish
    if model and model != call.model:
        more["model_served" if call.model else "model"] = model


def tell_translated(more: More, translation: Translation) -> None:
    """What the events of a translated answer said."""
    usage = translation.usage
    if usage is not None:
        more["tokens_input"], more["tokens_output"] = usage.input, usage.output
        if usage.cached:
            more["tokens_cached"] = usage.cached
        if usage.reasoning:
            more["tokens_reasoning"] = usage.reasoning
    if translation.finish:
        more["finish"] = translation.finish


def tell_pace(more: More, started_s: float, first_said_s: float) -> None:
    """Of a stream: how long to its first words, and how fast they came."""
    more["first_token_ms"] = round((first_said_s - started_s) * 1000, 3)
    spoke_s, tokens = clock.monotonic() - first_said_s, more.get("tokens_output")
    if isinstance(tokens, int) and tokens > 1 and spoke_s > 0.001:
        more["tokens_per_s"] = round(tokens / spoke_s, 1)


def tell_model(more: More, call: Call, there: str | None) -> None:
    """The model that was asked for, and its name at the upstream where that is another one."""
    if call.model:
        more["model"] = call.model
        if there and there != call.model:
            more["model_there"] = there
