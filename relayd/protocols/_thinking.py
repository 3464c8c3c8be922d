"""Whether thinking is requested from an endpoint's model: not with the option `drop`, nor after the model rejected it.

Laws:
1. A rejection is recognised by its message: the model does not think, or the field is unknown. The rejection of a value
   (a level of effort that the model does not have) is the client's fault.
2. A rejection is stored in the memory under the model's name until the memory evicts it.
"""

from __future__ import annotations

import re

from relayd.lazy_regex import lazy_regex
from relayd.protocols.canon import Failure, Request, Thinking
from relayd.protocols.dialect import Memory, Options

_MOST_MODEL_CHARS = 256
_MOST_MESSAGE_CHARS = 1000
_UNSUPPORTED = lazy_regex(
    r"does not support (?:thinking|reasoning)|(?:thinking|reasoning) is not supported"
    r"|(?:unrecogni[sz]ed|unknown|unsupported|unexpected|extra)\b.{0,80}\b(?:reasoning_effort|think)\b"
    r"|\b(?:reasoning_effort|think)\b.{0,80}(?:not supported|unsupported|not permitted|not allowed|unexpected|unknown)",
    re.IGNORECASE | re.DOTALL,
)


def requested_thinking(request: Request, options: Options, memory: Memory) -> Thinking | None:
    """The client's thinking settings; None if thinking must not be requested from the endpoint."""
    thinking = request.thinking
    if thinking is None or options.thinking == "drop" or memory.get(_key(request.model)):
        return None
    return thinking


def learn(request: Request, failure: Failure, memory: Memory) -> bool:
    """Store that a model rejects thinking. Returns True if the request would now be written without it."""
    if request.thinking is None or failure.status not in (400, 422) or failure.code == "unsupported_value":
        return False
    if _UNSUPPORTED.search(failure.message[:_MOST_MESSAGE_CHARS]) is None:
        return False
    memory.put(_key(request.model), True)
    return True


def recalled_keys(request: Request) -> list[str]:
    """The keys of the memory that `requested_thinking` looks at."""
    return [] if request.thinking is None else [_key(request.model)]


def _key(model: str) -> str:
    return "cannot_think:" + model[:_MOST_MODEL_CHARS]
