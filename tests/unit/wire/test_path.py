"""The normal form of a path: whatever a careless reader could make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.path import needs_look, normalise
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
        (b"/a;b/c", b"/a;b/c"),
        (b"/a/%zz%", b"/a/%zz%"),
        (b"/100%25", b"/100%25"),
        (b"/%00", b"/%00"),
        (b"/...", b"/..."),
    ],
)
def test_the_normal_form_is_what_the_loosest_reader_sees(path: bytes, normal: bytes) -> None:
    assert normalise(path) == normal


@pytest.mark.parametrize("path", [b"/", b"/v1/chat/completions", b"/v1/models/a.b:c@d,e", b"/a-b_c~d/", b"*"])
def test_a_plain_path_needs_no_look(path: bytes) -> None:
    assert not needs_look(path)


@given(st.text("/.%25efEF;\\a", max_size=40).map(lambda text: b"/" + text.encode()))
def test_the_normal_form_is_its_own_normal_form(path: bytes) -> None:
    normal = normalise(path)
    assert normalise(normal) == normal
    assert b"//" not in normal
    assert not {b"..", b"."} & set(normal.split(b"/"))


@given(st.text("/.%25efa;\\", max_size=20).map(lambda text: b"/" + text.encode()))
def test_a_path_that_needs_no_look_is_already_normal(path: bytes) -> None:
    if not needs_look(path):
        assert normalise(path) == path


def test_escapes_that_do_not_settle_match_no_rule() -> None:
    def nested(rounds: int) -> bytes:
        return b"/a%" + b"%3" * (rounds - 2) + b"%32" + b"f"

    assert normalise(nested(3)) == b"/a/"
    assert normalise(nested(40)) == b""


def test_a_hostile_path_costs_linear_time() -> None:
    for more in (b"%25", b"/..", b"/", b"%%32%35", b"%2"):
        assert linear(lambda size, more=more: normalise(b"/" + more * (size // len(more))), 1_000), more  # type: ignore[misc]
