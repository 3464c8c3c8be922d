"""Classify how an attempt ended: a fault of the endpoint, of the key, a call for a cool-down, the client's own matter.

1. A consumer's mistake never counts against an endpoint. Of the 4xx only those mean anything that speak of relayd's own
   key (401, 402, and 403 if the error names the key) or of load (429).
2. An answer that asks for time (429, 529, 503 with Retry-After) is not a failure: the endpoint cools down, or the key.
3. Where the client's own key was sent, 401, 402, 403 and 429 are between the client and the endpoint.
4. A departure of the client, and what relayd or an operator ended, says nothing about anybody.
"""

from __future__ import annotations

import enum
import re
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
    """How one attempt ended. `fault` is a word that `retries: on:` knows, empty where nothing could be repeated.

    `rest_s` is what the endpoint asked for, None when it did not say. `status` is the endpoint's, 0 without an answer.
    `fallback` is the class that `fallbacks: on:` knows, empty where no other upstream would do better. `refused` says
    that the endpoint refused the request before any work on it, so that it may be sent elsewhere whatever its method.
    """

    blame: Blame
    fault: str = ""
    rest_s: float | None = None
    status: int = 0
    fallback: str = ""
    refused: bool = False

    @property
    def about_key(self) -> bool:
        """Whether another key could do better: it was refused or used too often (503, 529 are the endpoint's)."""
        return self.blame is Blame.KEY or (self.blame is Blame.REST and self.status == 429)


GOOD = Classification(Blame.GOOD)
NOTHING = Classification(Blame.NONE)
# A connection that the endpoint is about to close took no more requests: a fault of nobody, and nothing was done.
UNPROCESSED = Classification(Blame.NONE, "closed", fallback="unavailable")

# Codes of relayd.errors that are an endpoint's fault, and the word for them in `retries: on:`.
ENDPOINT_CODES: Mapping[str, str] = {
    "connect_failed": "connect",
    "tls_failed": "connect",
    "connect_timeout": "connect",
    "upstream_unprocessed": "closed",
    "upstream_closed": "closed",
    "upstream_cut": "closed",
    "upstream_malformed": "malformed",
    "first_byte_timeout": "timeout",
    "idle_timeout": "timeout",
    "upstream_unreadable": "malformed",
    "upstream_failed": "5xx",
}
NOT_SICK = frozenset((501, 505))  # says what it cannot do, and can do the rest
# Error codes in the body of a 429 that time does not cure: the key has no money left.
SPENT = frozenset(("insufficient_quota", "billing_hard_limit_reached", "credit_balance_too_low"))

# Error codes (or types) and messages by which a 403 says that it is about the key. Without one of them a 403 is about
# the request: a flagged prompt, a region, a model that is not allowed.
KEY_CODES = frozenset((
    "invalid_api_key", "incorrect_api_key", "api_key_invalid", "api_key_expired", "api_key_service_blocked",
    "api_key_ip_address_blocked", "api_key_http_referrer_blocked", "api_key_android_app_blocked",
    "api_key_ios_app_blocked", "authentication_error", "invalid_authentication", "invalid_authentication_error",
    "unauthenticated", "account_deactivated", "key_limit_exceeded",
))
_KEY_WORDS = re.compile(
    r"\b(?:api|access|secret|subscription|your|this)[ _-]?keys?\b|\bx-api-key\b|\bkey limit\b"
    r"|\b(?:access|auth|authentication|authorization|bearer|api) token\b",
    re.IGNORECASE,
)
_MODEL_WORDS = re.compile(r"\bmodels?\b|\bregion|\bcountry\b|\bterritory\b|\blocation\b", re.IGNORECASE)
MESSAGE_CHARACTERS = 1000

_BROKEN = {code: Classification(Blame.ENDPOINT, word, fallback="unavailable") for code, word in ENDPOINT_CODES.items()}


def classify(
    code: str, status: int, *, own_key: bool = False, in_stream: bool = False, rest_s: float | None = None,
    error_code: str = "", error_type: str = "", error_message: str = "", client_key: bool = False,
) -> Classification:
    """Classify one attempt.

    `code` is the entry of KINDS with which it ended, empty when it ended by itself; `status` the endpoint's, 0 without
    one, and with `in_stream` the one that an error event in the stream stands for. `own_key` says that relayd added a
    key, `client_key` that the client's own one was sent on; `rest_s` is the answer's Retry-After; `error_code`,
    `error_type` and `error_message` are what its body says, empty where it was not read.
    """
    if code:
        if code == "total_timeout":
            # The operator's bound on the whole: a fault only of an endpoint that has said nothing at all.
            return _BROKEN["first_byte_timeout"] if not status and not in_stream else NOTHING
        return _BROKEN.get(code, NOTHING)
    if status < 400:
        return GOOD
    if status == 429 or status == 529 or (status == 503 and rest_s is not None):
        return _overloaded(status, rest_s, own_key=own_key, client_key=client_key, error_code=error_code)
    if own_key and (status in (401, 402) or (status == 403 and names_key(error_code, error_type, error_message))):
        return Classification(Blame.KEY, "key", None, status, "unavailable", refused=True)
    if status >= 500 and status not in NOT_SICK:
        return Classification(Blame.ENDPOINT, "5xx", None, status, "unavailable")
    return Classification(Blame.CLIENT, status=status)


def _overloaded(
    status: int, rest_s: float | None, *, own_key: bool, client_key: bool, error_code: str
) -> Classification:
    """A refusal that asks for time."""
    if error_code in SPENT and own_key:
        return Classification(Blame.KEY, "key", rest_s, status, "unavailable", refused=True)
    blame = Blame.CLIENT if status == 429 and client_key and not own_key else Blame.REST
    word = "429" if status == 429 else "503" if status == 503 else "5xx"
    return Classification(blame, word, rest_s, status, "overloaded", refused=True)


def names_key(error_code: str, error_type: str, error_message: str) -> bool:
    """Whether an error says that it is about the key and about nothing else."""
    if error_code.lower() in KEY_CODES or error_type.lower() in KEY_CODES:
        return True
    message = error_message[:MESSAGE_CHARACTERS]
    return _KEY_WORDS.search(message) is not None and _MODEL_WORDS.search(message) is None
