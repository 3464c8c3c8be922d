"""Which curl this is."""

from __future__ import annotations

import re

import pycurl

from relayd.upstream.transport.library import libcurl_version, pycurl_version, tls_library


def test_versions_are_plain_numbers() -> None:
    for version in (pycurl_version(), libcurl_version()):
        assert re.match(r"\d+\.\d+", version), version


def test_they_are_those_of_the_loaded_library() -> None:
    assert pycurl_version() in pycurl.version
    assert libcurl_version() in pycurl.version


def test_the_tls_back_end_is_named() -> None:
    assert tls_library()
