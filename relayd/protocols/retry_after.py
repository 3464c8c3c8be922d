"""Retry-After: parsed from an endpoint's error, and written for a client in the forms that SDKs support."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from relayd import clock
from relayd.lazy_regex import lazy_regex

LONGEST_S = 7 * 86400.0
_NUMBER = lazy_regex(r"[0-9]+(?:\.[0-9]*)?", re.ASCII)


def _seconds(text: str, scale: float) -> float | None:
    return min(float(text) * scale, LONGEST_S) if _NUMBER.fullmatch(text) else None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (seconds or an HTTP date); names are in lower case."""
    finer = headers.get("retry-after-ms")
    if finer is not None and (found := _seconds(finer.strip(), 0.001)) is not None:
        return found
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if (found := _seconds(text, 1.0)) is not None:
        return found
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return min(max(0.0, date.timestamp() - clock.wall()), LONGEST_S)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def retry_info_s(details: Any) -> float | None:
    """Seconds from the RetryInfo of a Google error: `details: [{"@type": ".../RetryInfo", "retryDelay": "7s"}]`."""
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict) or not str(detail.get("@type", "")).endswith("RetryInfo"):
            continue
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and delay.endswith("s") and (found := _seconds(delay[:-1], 1.0)) is not None:
            return found
    return None


def retry_after_headers(seconds: float | None) -> tuple[tuple[str, str], ...]:
    """`Retry-After` in whole seconds, rounded up, and the more precise `retry-after-ms`."""
    if seconds is None:
        return ()
    return ("Retry-After", str(math.ceil(seconds))), ("retry-after-ms", str(math.ceil(seconds * 1000)))
