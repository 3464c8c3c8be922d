"""URLs in the configuration."""

from __future__ import annotations

import pytest

from relayd.wire.http_url import is_local, url_fault


@pytest.mark.parametrize("url", ["http://a", "https://a.example:8443/hook?x=1&y=%20", "https://[::1]:1/"])
def test_an_http_or_https_url_with_a_host_has_no_fault(url: str) -> None:
    assert url_fault(url) == ""


@pytest.mark.parametrize(("url", "fault"), [
    ("ftp://a", "must begin with"), ("HTTP://a", "must begin with"), ("https:a", "must begin with"),
    ("https:///a", "must begin with"), ("https://[a", "is not a URL"), ("https://a:b", "is not a URL"),
    ("https://u:secret@a/", "user information"), ("https://a/#b", "fragment"), ("https://a/b c", "percent-encoded"),
    ("https://a/b\r\nX: y", "percent-encoded"), ("https://a/ü", "percent-encoded"),
])
def test_a_fault_is_named_without_a_part_of_the_url(url: str, fault: str) -> None:
    assert fault in url_fault(url)
    assert "secret" not in url_fault(url)


def test_only_this_machine_is_local() -> None:
    assert is_local("http://127.0.0.1:80/")
    assert is_local("http://[::1]/")
    assert not is_local("http://localhost.example/")
