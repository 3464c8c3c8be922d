"""What an outcome means: the endpoint's fault, the key's, a call for rest, the client's own business, or nothing.

Laws:
1. A consumer's mistake never counts against an endpoint: of the 4xx only those mean anything that speak of relayd's own
   key (401, 402, 403) or of load (429).
2. An answer that asks for time (429, 503 with Retry-After, 529) is not a failure: the endpoint rests, or the key. Where
   the client's own key was sent on, 429 is between the client and the endpoint.
3. Who left, and what relayd or an operator ended, says nothing about anybody.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Blame(enum.Enum):
    """Whom an outcome is about; the value is the word in status and logs."""

    ENDPOINT = "endpoint"
    KEY = "key"
    REST = "rest"
    CLIENT = "client"
    NONE = "none"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Classification:
    """`fault` is a word that `retries: on:` knows, empty where nothing could be repeated.

    `rest_s` is what the endpoint asked for, None when it did not say. `status` is the endpoint's, 0 without an answer.
    `fallback` is the class that `fallbacks: on:` knows, empty where no other upstream would do better.
    """

    blame: Blame
    fault: str = ""
    rest_s: float | None = None
    status: int = 0
    fallback: str = ""


GOOD = Classification(Blame.GOOD)
NOTHING = Classification(Blame.NONE)

# Codes of relayd.errors that are an endpoint's fault, and the word for them in `retries: on:`.
ENDPOINT_CODES: Mapping[str, str] = {
    "connect_failed": "connect",
    "tls_failed": "connect",
    "connect_timeout": "connect",
    "upstream_closed": "closed",
    "upstream_cut": "closed",
    "upstream_malformed": "malformed",
    "first_byte_timeout": "timeout",
    "idle_timeout": "timeout",
    "upstream_unreadable": "malformed",
    "upstream_failed": "5xx",
}
KEY_STATUSES = frozenset((401, 402, 403))
NOT_SICK = frozenset((501, 505))  # says what it cannot do, and can do the rest
# Error codes in the body of a 429 that time does not cure: the key has no money left.
SPENT = frozenset(("insufficient_quota", "billing_hard_limit_reached", "credit_balance_too_low"))

_BROKEN = {code: Classification(Blame.ENDPOINT, word, fallback="unavailable") for code, word in ENDPOINT_CODES.items()}


def classify(
    code: str, status: int, *, own_key: bool = False, in_stream: bool = False, rest_s: float | None = None,
    error_code: str = "", client_key: bool = False,
) -> Classification:
    """Classify one attempt.

    `code` is the entry of KINDS with which it ended, empty when it ended by itself; `status` the endpoint's, 0 without
    one, and with `in_stream` the one that an error event in the stream stands for. `own_key` says that relayd added the
    key, `client_key` that the client's own one was sent on; `rest_s` is the answer's Retry-After, `error_code` the code
    in its body where somebody has read it.
    """
    if code:
        if code == "total_timeout":
            # The operator's bound on the whole: a fault only of an endpoint that has said nothing at all.
            return _BROKEN["first_byte_timeout"] if not status and not in_stream else NOTHING
        return _BROKEN.get(code, NOTHING)
    if status < 400:
        return GOOD
    if status == 429 or status == 529 or (status == 503 and rest_s is not None):
        if status == 429 and client_key:
            return Classification(Blame.CLIENT, status=status)
        if error_code in SPENT and own_key:
            return Classification(Blame.KEY, "key", rest_s, status, "unavailable")
        word = "429" if status == 429 else "503" if status == 503 else "5xx"
        return Classification(Blame.REST, word, rest_s, status, "overloaded")
    if status in KEY_STATUSES:
        if own_key:
            return Classification(Blame.KEY, "key", None, status, "unavailable")
        return Classification(Blame.CLIENT, status=status)
    if status >= 500 and status not in NOT_SICK:
        return Classification(Blame.ENDPOINT, "5xx", None, status, "unavailable")
    return Classification(Blame.CLIENT, status=status)
