"""Fetches the stored data that a dialect looks at, with one round trip, if the store must be asked (Redis)."""

from __future__ import annotations

from relayd.plan.plan import Target
from relayd.protocols.canon import Request
from relayd.protocols.dialect import Dialect, Memory, RequestContext
from relayd.wire.body import JsonBody
from relayd.wire.json_steps import Steps


def after_stored_keys(
    dialect: Dialect, json_body: JsonBody | None, context: RequestContext, steps: Steps[None] | None
) -> Steps[None] | None:
    """The steps, preceded by fetching what decides whether the request refers to stored data, if that is necessary."""
    if dialect.stored_keys is None or not context.memory.must_fetch:
        return steps
    keys = dialect.stored_keys(json_body, context)
    return _in_order(context.memory.fetch_steps(keys), steps) if keys else steps


def _in_order(first: Steps[None], second: Steps[None] | None) -> Steps[None]:
    yield from first
    if second is not None:
        yield from second


def must_recall(target: Target, memory: Memory) -> bool:
    """True if data that the target wants back may have to be fetched before the request is written."""
    return target.dialect is not None and target.dialect.recalled_keys is not None and memory.must_fetch


def recall_steps(target: Target, request: Request, memory: Memory) -> Steps[None]:
    """Fetch what the target's dialect looks at when it writes this request."""
    if must_recall(target, memory):
        assert target.dialect is not None and target.dialect.recalled_keys is not None
        yield from memory.fetch_steps(target.dialect.recalled_keys(request))
