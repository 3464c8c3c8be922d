"""Whether an endpoint's model is asked to think: not where the operator says `drop`, nor where it has refused before.

Laws:
1. A refusal is known by what it says: that the model does not think, or that the field is not known. A value that is
   refused (a level of effort that the model does not have) is the client's matter.
2. What was learnt is kept in the memory by the model's name, for as long as the memory keeps anything.
"""

from __future__ import annotations

import re

from relayd.protocols.canon import Failure, Request, Thinking
from relayd.protocols.dialect import Memory, Options

_MOST_MODEL_CHARS = 256
_MOST_MESSAGE_CHARS = 1000
_UNSUPPORTED = re.compile(
    r"does not support (?:thinking|reasoning)|(?:thinking|reasoning) is not supported"
    r"|(?:unrecogni[sz]ed|unknown|unsupported|unexpected|extra)\b.{0,80}\b(?:reasoning_effort|think)\b"
    r"|\b(?:reasoning_effort|think)\b.{0,80}(?:not supported|unsupported|not permitted|not allowed|unexpected|unknown)",
    re.IGNORECASE | re.DOTALL,
)


def requested_thinking(request: Request, options: Options, memory: Memory) -> Thinking | None:
    """How much to reason as far as the endpoint is asked at all."""
    thinking = request.thinking
    if thinking is None or options.thinking == "drop" or memory.get(_key(request.model)):
        return None
    return thinking


def learn(request: Request, failure: Failure, memory: Memory) -> bool:
    """Remember a model that has refused to think; whether the request would be written otherwise now."""
    if request.thinking is None or failure.status not in (400, 422) or failure.code == "unsupported_value":
        return False
    if _UNSUPPORTED.search(failure.message[:_MOST_MESSAGE_CHARS]) is None:
        return False
    memory.put(_key(request.model), True)
    return True


def _key(model: str) -> str:
    return "cannot_think:" + model[:_MOST_MODEL_CHARS]
