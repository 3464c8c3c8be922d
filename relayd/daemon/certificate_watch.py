"""Warnings of certificates and authorities that expire soon: in the log once a day, every hour in their last days, and
as gauges."""

from __future__ import annotations

from collections.abc import Callable

from relayd.daemon.preflight import DAY_S, URGENT_S, Expiry
from relayd.daemon.timers import Timers
from relayd.plan.plan import Plan
from relayd.telemetry.metrics import Labels
from relayd.telemetry.telemetry import Telemetry

INTERVAL_S = 3600.0


class CertificateWatch:
    """A service. `expiries` returns the certificates of the plan in force, `issued_left_s` the seconds until those that
    relayd had issued for listeners expire."""

    def __init__(
        self, expiries: Callable[[], tuple[Expiry, ...]], telemetry: Telemetry,
        issued_left_s: Callable[[], dict[Labels, float]] = dict,
    ) -> None:
        self._expiries, self._telemetry, self._issued_left_s = expiries, telemetry, issued_left_s

    def commit(self, plan: Plan) -> None:
        self._warn()

    def start(self, timers: Timers) -> None:
        timers.every("certificates", INTERVAL_S, self._warn)

    def _warn(self) -> None:
        for one in self._expiries():
            if warning := one.warning():
                urgent = one.left_s <= URGENT_S
                level, pause_s = ("error", 0.0) if urgent else ("warning", DAY_S - INTERVAL_S / 2)
                key, name = f"certificate:{one.file}:{one.ends_s}:{level}", "certificate_expires"
                self._telemetry.journal.limited(key, pause_s, level, name, warning, file=one.file)

    def gauges(self) -> None:
        left_s: dict[str, dict[Labels, float]] = {"listener": self._issued_left_s(), "upstream": {}}
        left_s["daemon"] = {}
        for one in self._expiries():
            left_s[one.kind if one.kind in left_s else "daemon"][one.name, one.file] = round(one.left_s)
        for package, values in left_s.items():
            self._telemetry.metrics.set_gauges(f"relayd.{package}.certificate_left", values)

    def close(self) -> None:
        """Nothing is open."""
