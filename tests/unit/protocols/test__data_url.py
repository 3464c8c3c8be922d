"""Data URLs taken apart."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._data_url import is_data_url, media_type_of_url, parse_data_url


@given(st.binary(max_size=64))
def test_what_was_put_in_comes_out_byte_for_byte(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert parse_data_url(f"data:image/png;base64,{text}") == ("image/png", text)


@given(st.binary(max_size=64))
def test_other_ways_to_write_base64_are_put_right(data: bytes) -> None:
    plain = base64.b64encode(data).decode()
    for text in (base64.urlsafe_b64encode(data).decode(), plain.rstrip("="), plain[:5] + "\n" + plain[5:]):
        assert parse_data_url(f"data:image/png;base64,{text}") == ("image/png", plain)


@given(st.text(max_size=80))
def test_any_text_is_taken_apart_or_none(text: str) -> None:
    found = parse_data_url("data:" + text)
    assert found is None or base64.b64decode(found[1], validate=True) is not None
    parse_data_url(text)
    media_type_of_url(text)


def test_text_without_base64_is_percent_decoded() -> None:
    assert parse_data_url("data:,a%20b") == ("text/plain", base64.b64encode(b"a b").decode())
    assert parse_data_url("DATA:text/html;charset=utf-8,<p>") == ("text/html", base64.b64encode(b"<p>").decode())


@pytest.mark.parametrize("url", ["", "data:", "data:image/png;base64", "data:image/png;base64,%%%", "data:image/png;base64,QQ=Q"])
def test_what_is_no_data_url_is_none(url: str) -> None:
    assert parse_data_url(url) is None


def test_a_scheme_has_any_case() -> None:
    assert is_data_url("Data:,") and not is_data_url("https://data:1/")


def test_the_media_type_of_a_url_follows_from_its_path() -> None:
    assert media_type_of_url("https://example.org/a/cat.PNG?size=3.gif") == "image/png"
    assert media_type_of_url("https://example.org/a") is None
    assert media_type_of_url("https://[oops/cat.png") is None


def test_what_would_take_long_to_put_right_is_no_data_url() -> None:
    whole = "data:image/png;base64," + "AB+/" * 3_000_000
    assert parse_data_url(whole) == ("image/png", "AB+/" * 3_000_000)
    assert parse_data_url(whole.replace("+", "-")) is None and parse_data_url(whole + "\u20ac") is None
    assert parse_data_url("data:image/png;base64,AB-_ AA") == ("image/png", "AB+/AA==")
    assert parse_data_url("data:text/plain," + "%41" * 100_000) is None
