"""Checks before a start."""

from __future__ import annotations

import resource

import pytest

from relayd.daemon import checks


def test_the_libraries_of_the_tests_are_new_enough() -> None:
    found = checks.versions()
    assert list(found) == ["relayd", "Python", "Tornado", "pycurl", "libcurl"]
    assert checks.too_old(found) == []


def test_each_library_that_is_too_old_is_named_with_what_is_needed() -> None:
    found = {**checks.versions(), "Tornado": "6.1", "libcurl": "7.87.0"}
    assert checks.too_old(found) == [
        "Tornado 6.1 is too old: relayd needs 6.2 or newer", "libcurl 7.87.0 is too old: relayd needs 7.88 or newer",
    ]


@pytest.mark.parametrize(
    ("text", "wanted"), [("7.88.1", (7, 88, 1)), ("8.23.0-DEV", (8, 23, 0)), ("6.5b1", (6, 5)), ("unknown", ())]
)
def test_a_version_is_its_leading_numbers(text: str, wanted: tuple[int, ...]) -> None:
    assert checks.numbers(text) == wanted


def test_the_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = min(soft, hard, 512) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
    try:
        found = checks.raise_descriptors()
        assert (found.before, found.hard) == (lower, hard)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == found.now
        assert found.now == hard or found.now == lower
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
