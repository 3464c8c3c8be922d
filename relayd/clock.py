"""Monotonic and wall-clock time; the one thing that tests replace.

`monotonic` counts seconds for durations and deadlines, `wall` seconds since 1970 for records that people read.
"""

from __future__ import annotations

import time

monotonic = time.monotonic
wall = time.time
