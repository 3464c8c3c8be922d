"""The telemetry settings of the configuration, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.telemetry.sink import default_sinks


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """`telemetry:` of relayd.yaml. Formats are text, json, journal or auto; for the access log also off.

    `access_file` None is standard output. `secret_query` are configured names of query parameters that contain keys, in
    lower case with `_` for `-`; common names are always masked. `sinks` has the Options of the enabled sinks.
    """

    access_format: str = "auto"
    access_file: str | None = None
    access_query: bool = False
    secret_query: frozenset[str] = frozenset()
    log_format: str = "auto"
    log_level: str = "info"
    sinks: Mapping[str, object] = field(default_factory=default_sinks)
