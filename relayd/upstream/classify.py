"""Classify how an attempt ended: endpoint fault, key fault, requested cool-down, client error, success.

1. A client error never counts against an endpoint. The only 4xx statuses that count concern relayd's own key (401,
   402, and 403 if the error names the key) or load (429).
2. A response that asks for a delay (429, 529, 503 with Retry-After) is no failure: the endpoint or the key cools down.
3. If the client's own key was sent, 401, 402, 403 and 429 are client errors.
4. An attempt that the client, relayd or an operator ended is neutral: it counts against nobody.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex


class Blame(enum.Enum):
    """The party to which an outcome is attributed; the value appears in status and logs."""

    ENDPOINT = "endpoint"
    KEY = "key"
    COOLDOWN = "rest"
    CLIENT = "client"
    NONE = "none"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Classification:
    """How one attempt ended. `fault` is a name from `retries: on:`, empty if a retry cannot help.

    `retry_after_s` is the delay that the endpoint asked for, None if it named none. `status` is the endpoint's status,
    0 without a response. `fallback` is a class from `fallbacks: on:`, empty if another upstream cannot help. `refused`
    is true if the endpoint refused the request before any work on it, so that it may be sent elsewhere with any method.
    """

    blame: Blame
    fault: str = ""
    retry_after_s: float | None = None
    status: int = 0
    fallback: str = ""
    refused: bool = False

    @property
    def about_key(self) -> bool:
        """True if another key may help: this one was refused or rate-limited (503 and 529 concern the endpoint)."""
        return self.blame is Blame.KEY or (self.blame is Blame.COOLDOWN and self.status == 429)


GOOD = Classification(Blame.GOOD)
NOTHING = Classification(Blame.NONE)
# A connection that the endpoint is about to close took no more requests: nobody's fault, and no work was done.
UNPROCESSED = Classification(Blame.NONE, "closed", fallback="unavailable")

# Codes of relayd.errors that are an endpoint's fault, and their names in `retries: on:`.
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
NOT_SICK = frozenset((501, 505))  # the endpoint lacks one feature and is otherwise healthy
# Error codes in the body of a 429 that waiting does not resolve: the credit of the key is used up.
SPENT = frozenset(("insufficient_quota", "billing_hard_limit_reached", "credit_balance_too_low"))

# Error codes (or types) and messages that attribute a 403 to the key. Any other 403 concerns the request: a flagged
# prompt, a region, a model that is not allowed.
KEY_CODES = frozenset((
    "invalid_api_key", "incorrect_api_key", "api_key_invalid", "api_key_expired", "api_key_service_blocked",
    "api_key_ip_address_blocked", "api_key_http_referrer_blocked", "api_key_android_app_blocked",
    "api_key_ios_app_blocked", "authentication_error", "invalid_authentication", "invalid_authentication_error",
    "unauthenticated", "account_deactivated", "key_limit_exceeded",
))
_KEY_MESSAGE = lazy_regex(
    r"\b(?:api|access|secret|subscription|your|this)[ _-]?keys?\b|\bx-api-key\b|\bkey limit\b"
    r"|\b(?:access|auth|authentication|authorization|bearer|api) token\b",
    re.IGNORECASE,
)
_MODEL_MESSAGE = lazy_regex(r"\bmodels?\b|\bregion|\bcountry\b|\bterritory\b|\blocation\b", re.IGNORECASE)
MESSAGE_CHARACTERS = 1000

_BROKEN = {
    code: Classification(Blame.ENDPOINT, fault, fallback="unavailable") for code, fault in ENDPOINT_CODES.items()
}


def classify(
    code: str, status: int, *, own_key: bool = False, in_stream: bool = False, retry_after_s: float | None = None,
    error_code: str = "", error_type: str = "", error_message: str = "", client_key: bool = False,
) -> Classification:
    """Classify one attempt.

    `code` is the entry of KINDS with which the attempt ended, empty if the endpoint ended it. `status` is the
    endpoint's status, 0 without a response; with `in_stream` it is the equivalent of an error event in the stream.
    `own_key` is true if relayd added a key, `client_key` if the client's own key was forwarded. `retry_after_s` is the
    response's Retry-After in seconds. `error_code`, `error_type` and `error_message` come from the response body, and
    are empty if the body was not read.
    """
    if code:
        if code == "total_timeout":
            # The operator's limit on the whole exchange: a fault only of an endpoint that sent no response.
            return _BROKEN["first_byte_timeout"] if not status and not in_stream else NOTHING
        return _BROKEN.get(code, NOTHING)
    if status < 400:
        return GOOD
    if status == 429 or status == 529 or (status == 503 and retry_after_s is not None):
        return _overloaded(status, retry_after_s, own_key=own_key, client_key=client_key, error_code=error_code)
    if own_key and (status in (401, 402) or (status == 403 and names_key(error_code, error_type, error_message))):
        return Classification(Blame.KEY, "key", None, status, "unavailable", refused=True)
    if status >= 500 and status not in NOT_SICK:
        return Classification(Blame.ENDPOINT, "5xx", None, status, "unavailable")
    return Classification(Blame.CLIENT, status=status)


def _overloaded(
    status: int, retry_after_s: float | None, *, own_key: bool, client_key: bool, error_code: str
) -> Classification:
    """Classify a refusal that asks for a delay."""
    if error_code in SPENT and own_key:
        return Classification(Blame.KEY, "key", retry_after_s, status, "unavailable", refused=True)
    blame = Blame.CLIENT if status == 429 and client_key and not own_key else Blame.COOLDOWN
    fault = "429" if status == 429 else "503" if status == 503 else "5xx"
    return Classification(blame, fault, retry_after_s, status, "overloaded", refused=True)


def names_key(error_code: str, error_type: str, error_message: str) -> bool:
    """True if an error concerns the key and nothing else."""
    if error_code.lower() in KEY_CODES or error_type.lower() in KEY_CODES:
        return True
    message = error_message[:MESSAGE_CHARACTERS]
    return _KEY_MESSAGE.search(message) is not None and _MODEL_MESSAGE.search(message) is None
