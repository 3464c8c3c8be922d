"""The settings of a key from options."""

from __future__ import annotations

import pytest

from relayd.cli.key_settings import Refused, entries_of, expiry_of


def test_an_entry_is_written_as_in_the_configuration() -> None:
    assert entries_of("rates", "{requests: 60, per: 1m, shadow: true}") == [{"requests": 60, "per": "1m", "shadow": True}]
    assert entries_of("budget", "[{amount: 2.5, per: day}, {amount: '7', per: 30d}]") == [{"amount": 2.5, "per": "day"}, {"amount": "7", "per": "30d"}]


@pytest.mark.parametrize("text", ["{a: [}", "{a: 1, a: 2}", "&x [*x]"])
def test_a_text_that_is_no_yaml_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        entries_of("rates", text)


def test_an_end_is_a_duration_or_a_date() -> None:
    assert expiry_of(None) == 0.0
    assert expiry_of("2100-01-01") == 4102444800.0
    assert expiry_of("2100-01-01T01:00:00+01:00") == 4102444800.0
    assert expiry_of("1h") > 0
