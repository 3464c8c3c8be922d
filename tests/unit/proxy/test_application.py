"""The interface of applications inside relayd."""

from __future__ import annotations

import pytest

from relayd.proxy.application import is_cross_site


@pytest.mark.parametrize(
    ("fetch_site", "origin", "host", "cross"),
    [
        (None, None, b"a.test", False),  # not a browser
        (b"same-origin", None, b"a.test", False),
        (b"none", None, b"a.test", False),  # the user typed the address
        (b"cross-site", None, b"a.test", True),
        (b"same-site", b"https://b.test", b"a.test", True),
        (b"same-origin", b"https://public.test", b"internal:8282", False),  # a proxy has replaced Host
        (None, b"http://a.test:8282", b"A.test:8282", False),
        (None, b"http://a.test", b"a.test:8282", True),
        (None, b"https://evil.test", b"a.test", True),
        (None, b"null", b"a.test", True),
        (None, b"null", b"", True),
    ],
)
def test_a_request_in_the_name_of_another_site_is_recognised(
    fetch_site: bytes | None, origin: bytes | None, host: bytes, cross: bool
) -> None:
    assert is_cross_site(fetch_site, origin, host) is cross
