"""A state change of an upstream or of one of its endpoints, as the log has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from relayd.dataclass import dataclass

NO_DETAILS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class UpstreamEvent:
    """A state change for the log. `event` is in the past tense; `address` is empty if it concerns all endpoints.
    `details` are further fields of the log line."""

    event: str
    upstream: str
    address: str = ""
    why: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


def ignore_event(change: UpstreamEvent) -> None:
    """The default of `on_change`."""
