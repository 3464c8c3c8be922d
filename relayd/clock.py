"""Monotonic and wall-clock time; tests replace these two functions.

`monotonic` counts seconds for durations and deadlines, `wall` counts seconds since 1970 for timestamps in records.
"""

from __future__ import annotations

import time

monotonic = time.monotonic
wall = time.time
