"""When certificates are renewed, when a failed attempt is repeated, and how urgent that is. No clock, no I/O.

All times are Unix seconds. `chance` is a random number in [0, 1), which spreads the load of many clients.
"""

from __future__ import annotations

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0
# Five attempts in the first hour, as many as Let's Encrypt accepts as failed validations of one name.
PAUSES_S = (MINUTE_S, 5 * MINUTE_S, 15 * MINUTE_S, 30 * MINUTE_S, HOUR_S, 2 * HOUR_S, 4 * HOUR_S, 8 * HOUR_S, DAY_S)
SPREAD = 0.05  # of the lifetime: a certificate is renewed up to this much before two thirds of it
ASK_LEAST_S, ASK_DEFAULT_S, ASK_MOST_S = MINUTE_S, 6 * HOUR_S, DAY_S  # between two questions for the time of renewal
MAX_HOLD_S = 7 * DAY_S  # the longest Retry-After that is obeyed


def renewal_time(begins_s: float, ends_s: float, chance: float) -> float:
    """Two thirds of the lifetime, or somewhat earlier."""
    lifetime_s = ends_s - begins_s
    return begins_s + lifetime_s * 2 / 3 - lifetime_s * SPREAD * chance


def suggested_time(start_s: float, end_s: float, chance: float) -> float:
    """A random time in the window that the authority suggests (RFC 9773 4.2)."""
    return start_s + max(end_s - start_s, 0.0) * chance


def latest_renewal(begins_s: float, ends_s: float) -> float:
    """The time after which a renewal is not postponed, whatever the authority suggests."""
    return ends_s - (ends_s - begins_s) / 10


def pause_s(failures: int, chance: float) -> float:
    """The pause after this many consecutive failures (1 or more), a random part of up to a quarter added."""
    return PAUSES_S[min(failures, len(PAUSES_S)) - 1] * (1 + chance / 4)


def hold_s(retry_after_s: float) -> float:
    """How long a directory is not used after it has answered with Retry-After."""
    return min(max(retry_after_s, 0.0), MAX_HOLD_S)


def ask_again_s(retry_after_s: float | None) -> float:
    """The time until the authority is asked again for the time of renewal (RFC 9773 4.3)."""
    return min(max(ASK_DEFAULT_S if retry_after_s is None else retry_after_s, ASK_LEAST_S), ASK_MOST_S)


def urgency(begins_s: float, ends_s: float, failures: int, now: float) -> str:
    """The urgency of failed attempts for a certificate: "" (none failed), "warning", or "error" if it has less than a
    sixth of its lifetime left or does not exist (`ends_s` 0)."""
    if not failures:
        return ""
    return "error" if now > ends_s - (ends_s - begins_s) / 6 else "warning"
