"""The settings of telemetry are a value."""

from __future__ import annotations

import dataclasses

import pytest

from relayd.telemetry.settings import TelemetrySettings


def test_equal_settings_are_equal_and_cannot_be_changed() -> None:
    assert TelemetrySettings(access_format="json") == TelemetrySettings(access_format="json")
    with pytest.raises(dataclasses.FrozenInstanceError):
        TelemetrySettings().log_level = "debug"  # type: ignore[misc]


def test_nothing_is_sent_and_no_query_written_unless_asked_for() -> None:
    assert set(TelemetrySettings().sinks) == {"prometheus"}, "which is asked and sends nothing"
    assert not TelemetrySettings().access_query
