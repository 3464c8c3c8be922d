"""relayd-metrics(7) is made from the list and is up to date."""

from __future__ import annotations

import pathlib

from relayd.telemetry.sink import declared
from tests.docs.metrics_page import page, roff

KEPT = pathlib.Path(__file__).parents[2] / "debian/man/relayd-metrics.7"


def test_every_metric_stands_in_the_page() -> None:
    made = page()
    assert all(f".B {metric.name}\n" in made for metric in declared())


def test_the_page_in_the_package_is_the_one_that_would_be_made() -> None:
    assert KEPT.read_text() == page()


def test_text_can_never_be_a_request() -> None:
    assert roff(".so /etc/x") == "\\&.so /etc/x"
    assert roff("a-b\\c") == "a\\-b\\ec"
