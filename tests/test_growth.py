"""The measure of the tests of cost: it tells linear work from quadratic work."""

from __future__ import annotations

from tests.aids.growth import linear


def test_linear_work_is_linear_and_quadratic_work_is_not() -> None:
    assert linear(lambda size: sum(range(size)), 10_000)
    assert linear(lambda size: None, 1000)
    assert not linear(lambda size: [sum(range(size)) for _ in range(size)], 100)
