"""The header fields of W3C Trace Context (Level 2): traceparent and tracestate.

1. An invalid traceparent is treated as absent, and then tracestate is too (section 4.3). An invalid tracestate alone is
   dropped, and the trace continues (section 3.3.1.4).
2. A version higher than 00 is read as far as version 00 defines it (section 3.2.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from relayd.lazy_regex import lazy_regex

SAMPLED, RANDOM = 1, 2  # bits of trace-flags
MAX_MEMBERS = 32
MAX_STATE_BYTES = 8192  # the specification asks for at least 512
FIELDS = frozenset((b"traceparent", b"tracestate"))

_PARENT = lazy_regex(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = lazy_regex(
    rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})="
    rb"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_NO_TRACE, _NO_PARENT = b"0" * 32, b"0" * 16


class TraceParent(NamedTuple):
    """The position of a request in its trace: ids in lower-case hexadecimal digits (32 and 16), and the trace-flags."""

    trace_id: str
    parent_id: str
    flags: int

    @property
    def sampled(self) -> bool:
        """True if the caller may have recorded trace data."""
        return bool(self.flags & SAMPLED)


def parse_traceparent(values: Sequence[bytes]) -> TraceParent | None:
    """Parse the values of all fields traceparent; None unless there is exactly one, and it is valid."""
    if len(values) != 1:
        return None
    found = _PARENT.fullmatch(values[0])
    if found is None:
        return None
    version, trace_id, parent_id, flags, further = found.groups()
    if version == b"ff" or (version == b"00" and further is not None):
        return None
    if trace_id == _NO_TRACE or parent_id == _NO_PARENT:
        return None
    return TraceParent(trace_id.decode(), parent_id.decode(), int(flags, 16) & (SAMPLED | RANDOM))


def parse_tracestate(values: Sequence[bytes]) -> str:
    """The valid members of all fields tracestate as one value; empty if there are none, or if the list is invalid."""
    if sum(map(len, values)) > MAX_STATE_BYTES:
        return ""
    members = [member.strip(b" \t") for value in values for member in value.split(b",")]
    members = [member for member in members if member]
    keys = {member.partition(b"=")[0] for member in members}
    if len(members) > MAX_MEMBERS or len(keys) < len(members) or not all(map(_MEMBER.fullmatch, members)):
        return ""
    return b",".join(members).decode("ascii")


def render_traceparent(trace_id: str, span_id: str, flags: int) -> bytes:
    """A field line of version 00, without its line end."""
    return f"traceparent: 00-{trace_id}-{span_id}-{flags:02x}".encode("ascii")
