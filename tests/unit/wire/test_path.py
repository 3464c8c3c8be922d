"""The normal form of a path: whatever a careless reader could make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.errors import ExchangeError
from relayd.wire.path import (
    MAX_PATH_BYTES,
    MAX_READINGS,
    has_parent_segment,
    may_be_ambiguous,
    normalise,
    pattern,
    readings,
    with_one_slash,
)
from tests.aids.growth import linear


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", b"/"),
        (b"/v1/chat/completions", b"/v1/chat/completions"),
        (b"*", b"*"),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/a/../b", b"/b"),
        (b"/a/./b/.", b"/a/b/"),
        (b"/a/b/..", b"/a/"),
        (b"/../../x", b"/x"),
        (b"//a///b/", b"/a/b/"),
        (b"/%61%2Dz", b"/a-z"),
        (b"/a%20b%3f", b"/a%20b%3F"),
        (b"/public/%2e%2e/admin", b"/admin"),
        (b"/public/..%2fadmin", b"/admin"),
        (b"/public%2F..%2Fadmin", b"/admin"),
        (b"/public/%252e%252e%252fadmin", b"/admin"),
        (b"/public/%25252e%25252e/admin", b"/admin"),
        (b"/public/%%32%65%%32%65/admin", b"/admin"),
        (b"/public/..\\admin", b"/admin"),
        (b"/public/..%5cadmin", b"/admin"),
        (b"/public/..;x=1/admin", b"/admin"),
        (b"/a;b/c", b"/a/c"),
        (b"/;/admin/x", b"/admin/x"),
        (b"/admin%3Bx/y", b"/admin/y"),
        (b"/admin%253Bx/y", b"/admin/y"),
        (b"/users/%40me", b"/users/@me"),
        (b"/a/%zz%", b"/a/%25zz%25"),
        (b"/x/%c0%ae%C0%AE/%e0%80%afadmin", b"/admin"),
        (b"/x/%f0%80%80%ae./admin", b"/admin"),
        (b"/x/%f8%80%80%80%ae%fc%80%80%80%80%ae/admin", b"/admin"),
        (b"/x%u002f..%u002fadmin", b"/admin"),
        (b"/admin./x%20/y.%20.", b"/admin/x/y"),
        (b"/caf%c3%a9", b"/caf%C3%A9"),
        (b"/100%25", b"/100%25"),
        (b"/%00", b"/%00"),
        (b"/...", b"/..."),
    ],
)
def test_the_normal_form_is_what_the_loosest_reader_sees(path: bytes, normal: bytes) -> None:
    assert normalise(path) == normal


@pytest.mark.parametrize("path", [b"/", b"/v1/chat/completions", b"/v1/models/a.b:c@d,e", b"/a-b_c~d/", b"*", b"/.well-known/x"])
def test_a_plain_path_needs_no_look(path: bytes) -> None:
    assert not may_be_ambiguous(path)


@given(st.text("/.%25efEF;\\a", max_size=40).map(lambda text: b"/" + text.encode()))
def test_the_normal_form_is_its_own_normal_form(path: bytes) -> None:
    normal = normalise(path)
    assert normalise(normal) == normal
    assert b"//" not in normal
    assert not {b"..", b"."} & set(normal.split(b"/"))


@given(st.text("/.%25efa;\\", max_size=20).map(lambda text: b"/" + text.encode()))
def test_a_path_that_needs_no_look_is_already_normal(path: bytes) -> None:
    if not may_be_ambiguous(path):
        assert normalise(path) == path


def test_escapes_that_do_not_settle_match_no_rule() -> None:
    def nested(rounds: int) -> bytes:
        return b"/a%" + b"%3" * (rounds - 2) + b"%32" + b"f"

    assert normalise(nested(3)) == b"/a/"
    assert normalise(nested(40)) == b""


@pytest.mark.parametrize("unit", [b"%25", b"/..", b"/", b"%%32%35", b"%2"])
def test_a_hostile_path_costs_linear_time(unit: bytes) -> None:
    assert linear(lambda size: normalise(b"/" + unit * size), 300)


# ---- readings


@pytest.mark.parametrize(("path", "reading"), [
    (b"/;/admin/x", b"/admin/x"),
    (b"/admin;a/x", b"/admin/x"),
    (b"/admin%3Bx/y", b"/admin/y"),
    (b"/pub/..;/admin", b"/admin"),
    (b"/pub/..\\admin", b"/admin"),
    (b"/pub/%5c../admin", b"/pub/\\../admin"),
    (b"//admin/x", b"/admin/x"),
    (b"/./admin/x", b"/admin/x"),
    (b"/admin./x", b"/admin/x"),
    (b"/admin%20/x", b"/admin/x"),
    (b"/admin%00.png", b"/admin"),
    (b"/admin%3fx", b"/admin"),
    (b"/admin%23x", b"/admin"),
    (b"/%61dmin/x", b"/admin/x"),
    (b"/%2561dmin/x", b"/admin/x"),
    (b"/pub/%c0%ae%c0%ae/admin", b"/admin"),
    (b"/pub%u002f..%u002fadmin", b"/admin"),
    (b"/users/%40me", b"/users/@me"),
    # Readers that take only some of the steps, or take them in another order.
    (b"/pub/../admin/%252e%252e/x", b"/admin/%252e%252e/x"),
    (b"/pub/../admin/%2e%2e/x", b"/admin/%2e%2e/x"),
    (b"/pub/../admin//../x", b"/admin/x"),
    (b"/pub/../admin/..;/x", b"/admin/..;/x"),
    (b"/pub/../admin/..\\x", b"/admin/..\\x"),
])
def test_what_some_server_makes_of_a_path_is_among_its_readings(path: bytes, reading: bytes) -> None:
    assert may_be_ambiguous(path)
    found = list(readings(path))
    assert found[0] == path and reading in found and len(found) == len(set(found))


@pytest.mark.parametrize("path", [b"/a/b", b"/caf%C3%A9/x", b"/a%20b/c", b"/.well-known/x", b"/v1.2/x", b"/a@b:c!$&'()*+,=~", b"/x/..y/...z"])
def test_a_path_in_normal_form_has_one_reading(path: bytes) -> None:
    assert list(readings(path)) == [path]


def test_a_path_with_too_many_readings_is_refused() -> None:
    with pytest.raises(ExchangeError) as refused:
        list(readings(b"/..;x=1/%252e%252e;y/a%20./%c0%af//\\%3f"))
    assert refused.value.kind.code == "ambiguous_path" and str(MAX_READINGS) in refused.value.detail
    with pytest.raises(ExchangeError) as refused:
        list(readings(b"/a%2f" * 1400 + b";x//y"))
    assert refused.value.kind.code == "ambiguous_path"


def test_a_long_path_that_needs_a_look_is_refused_and_a_plain_one_is_not() -> None:
    assert list(readings(b"/" + b"x" * MAX_PATH_BYTES))
    assert len(list(readings(b"/%20" + b"x" * (MAX_PATH_BYTES - 4)))) == 1
    with pytest.raises(ExchangeError) as refused:
        list(readings(b"/%20" + b"x" * (MAX_PATH_BYTES - 3)))
    assert refused.value.kind.status == 414


@given(st.text("/.%25efa;\\c0uA3 ", max_size=24).map(lambda text: b"/" + text.replace(" ", "").encode()))
def test_a_path_that_needs_no_look_has_one_reading_and_the_normal_form_is_a_reading(path: bytes) -> None:
    try:
        found = list(readings(path))
    except ExchangeError:
        return
    if not may_be_ambiguous(path):
        assert found == [path]
    assert all(one.startswith(b"/") or one == b"" for one in found)


def test_climbing_is_a_segment_of_two_dots() -> None:
    assert has_parent_segment(b"/a/..") and has_parent_segment(b"/../a")
    assert not has_parent_segment(b"/a..") and not has_parent_segment(b"/..a/b") and not has_parent_segment(b"/a/...")


@pytest.mark.parametrize(("path", "one_slash"), [
    (b"//evil.example/x", b"/evil.example/x"), (b"/\\evil.example/x", b"/evil.example/x"), (b"/\\/\\x", b"/x"), (b"x", b"/x"), (b"", b"/"),
    (b"/a//b", b"/a//b"), (b"/", b"/"),
])
def test_a_path_with_a_root_names_no_host(path: bytes, one_slash: bytes) -> None:
    assert with_one_slash(path) == one_slash


# ---- patterns


@pytest.mark.parametrize(("text", "normal"), [
    ("/café/", b"/caf%C3%A9/"), ("/a b/", b"/a%20b/"), ("/p%2fq/", b"/p/q/"), ("/d/../e/", b"/e/"), ("/f//g/", b"/f/g/"), ("/%61dmin/", b"/admin/"),
    ("/caf%c3%a9/", b"/caf%C3%A9/"), ("/admin;a/", b"/admin/"), ("/x\\y/", b"/x/y/"), ("/", b"/"), ("/a@b/", b"/a@b/"), ("/users/%40me/", b"/users/@me/"),
    ("/日本/", b"/%E6%97%A5%E6%9C%AC/"),
])
def test_a_pattern_is_compared_in_the_form_that_requests_have(text: str, normal: bytes) -> None:
    assert pattern(text, whole=True) == normal == pattern(text, whole=False)
    assert list(readings(normal)) == [normal]


@pytest.mark.parametrize(("text", "normal"), [("/a/.well", b"/a/.well"), ("/files/v1.", b"/files/v1."), ("/a/.", b"/a/."), ("/caf%c3%a", None), ("/a/..", None), ("/a;b", None), ("/a%2", None)])
def test_the_last_segment_of_a_prefix_is_only_begun(text: str, normal: bytes | None) -> None:
    if normal is not None:
        assert pattern(text, whole=False) == normal
    else:
        with pytest.raises(ValueError, match="ends within"):
            pattern(text, whole=False)


@pytest.mark.parametrize(("text", "why"), [
    ("/x?y=1", "query"), ("/x#y", "fragment"), ("/a\nb", "control"), ("x", "must begin with /"), ("/%00/", "is ambiguous"),
    ("/a%3fb/", "is ambiguous"), ("/a%23b/x", "is ambiguous"), ("/%" + "25" * 40 + "41/", "escapes"),
])
def test_a_pattern_that_no_request_can_equal_is_refused(text: str, why: str) -> None:
    for whole in (True, False):
        with pytest.raises(ValueError, match=why):
            pattern(text, whole=whole)


@given(st.text("/.%2fé ;a3", max_size=14).map(lambda text: "/" + text), st.booleans())
def test_a_pattern_that_is_taken_is_met_by_a_path_with_one_reading(text: str, whole: bool) -> None:
    try:
        normal = pattern(text, whole=whole)
    except ValueError:
        return
    assert all(one.startswith(normal) for one in readings(normal if whole else normal + b"x"))
