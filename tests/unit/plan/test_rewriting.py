"""What a route does to paths and header fields, checked when the plan is made."""

from __future__ import annotations

import pytest

from relayd.config.route import HeaderEdits, Match, Route
from relayd.plan.rewriting import field_edits, rewriting


def target(asked: bytes, protocol: str = "plain", /, **words: object) -> bytes:
    match = Match(**{key: words.pop(key) for key in ("path", "prefix", "regex") if key in words})  # type: ignore[arg-type]
    made = rewriting(Route(name="r", match=match, upstream="u", **words), protocol)  # type: ignore[arg-type]
    if made.replacement_template is not None:
        assert made.regex is not None
        found = made.regex.fullmatch(asked)
        assert found is not None
        return found.expand(made.replacement_template)
    return made.replacement + asked[made.strip_length :]


def test_nothing_written_changes_nothing() -> None:
    assert target(b"/a/%2F//b", prefix="/a/") == b"/a/%2F//b"


@pytest.mark.parametrize("strip", ["/api", "/api/"])
def test_a_prefix_is_stripped_up_to_the_slash_that_begins_the_rest(strip: str) -> None:
    assert target(b"/api/x%20y", prefix="/api/", strip_prefix=strip) == b"/x%20y"


def test_part_of_an_exact_path_can_be_stripped() -> None:
    assert target(b"/a/b", path="/a/b", strip_prefix="/a") == b"/b"


@pytest.mark.parametrize("words", [
    {"prefix": "/b/"}, {}, {"regex": "/api/.*"}, {"prefix": "/ap"},
])
def test_stripping_what_the_route_does_not_match_is_refused(words: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="strip_prefix"):
        target(b"/api/x", strip_prefix="/api", **words)


def test_a_rewrite_stands_in_the_place_of_what_matched() -> None:
    assert target(b"/old/x/y", prefix="/old/", rewrite="/new/") == b"/new/x/y"
    assert target(b"/old", path="/old", rewrite="/new") == b"/new"


def test_what_is_taken_is_as_long_as_in_the_request() -> None:
    assert target(b"/caf%C3%A9/x", prefix="/café/", strip_prefix="/café") == b"/x"
    assert target(b"/a%20b/x", prefix="/a b/", rewrite="/c/") == b"/c/x"
    assert target(b"/f/g", path="/f//g", strip_prefix="/f/") == b"/g"


def test_a_rewrite_takes_groups_from_the_regex() -> None:
    assert target(b"/u/7/posts", regex=r"/u/(\d+)/(?P<what>.*)", rewrite=r"/\g<what>/of/\1") == b"/posts/of/7"


@pytest.mark.parametrize(("words", "fault"), [
    ({"rewrite": "/x"}, "needs path"),
    ({"rewrite": r"/\2", "regex": "/(a)"}, "no group 2"),
    ({"rewrite": r"/\g<b>", "regex": "/(?P<a>a)"}, "no group b"),
    ({"rewrite": r"/\n", "regex": "/(a)"}, "backslash"),
    ({"rewrite": "/a b", "prefix": "/"}, "percent-encoded"),
    ({"rewrite": "/a\r\nX: y", "prefix": "/"}, "percent-encoded"),
    ({"rewrite": "/a?b", "prefix": "/"}, "percent-encoded"),
    ({"rewrite": "/ä", "prefix": "/"}, "percent-encoded"),
    ({"rewrite": "//evil.example/", "prefix": "/"}, "interpret differently"),
    ({"rewrite": "/a/../b", "prefix": "/"}, "interpret differently"),
])
def test_a_rewrite_that_cannot_be_sent_is_refused(words: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        target(b"/a", **words)


@pytest.mark.parametrize(("words", "path", "expected"), [
    ({"prefix": "/v1/"}, b"/v1/chat/completions", b"/chat/completions"),
    ({"path": "/v1/models"}, b"/v1/models", b"/models"),
    ({"prefix": "/team/v1/"}, b"/team/v1/models", b"/models"),
    ({"prefix": "/"}, b"/v1/models", b"/models"),
    ({"prefix": "/"}, b"/v10/models", b"/v10/models"),
    ({"prefix": "/v1"}, b"/v1/models", b"/models"),
    ({"prefix": "/team/"}, b"/team/v1/models", b"/models"),
    ({}, b"/v1/v1/x", b"/v1/x"),
    ({"path": "/models"}, b"/models", b"/models"),
])
def test_the_clients_api_base_gives_way_to_the_endpoints(words: dict[str, str], path: bytes, expected: bytes) -> None:
    assert target(path, "openai_chat", **words) == expected


def test_dialects_whose_base_holds_no_version_keep_the_path() -> None:
    assert target(b"/v1/messages", "anthropic_messages", prefix="/v1/") == b"/v1/messages"


def test_edits_become_lines() -> None:
    made = field_edits(HeaderEdits(remove=("Cookie",), set={"X-A": " b "}, add={"Link": "<x>"}))
    assert made is not None
    assert (made.remove, made.set, made.add) == (frozenset({b"cookie"}), (b"X-A: b",), (b"Link: <x>",))
    assert field_edits(HeaderEdits()) is None


@pytest.mark.parametrize(("edits", "fault"), [
    (HeaderEdits(set={"X A": "b"}), "not a header field name"),
    (HeaderEdits(add={"X-A": "b\r\nX-B: c"}), "control"),
    (HeaderEdits(set={"Content-Length": "0"}), "cannot be changed"),
    (HeaderEdits(remove=("transfer-encoding",)), "cannot be changed"),
    (HeaderEdits(set={"authorization": "x"}), "auth"),
])
def test_edits_that_would_break_framing_or_displace_the_key_are_refused(edits: HeaderEdits, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        field_edits(edits, frozenset({b"authorization"}))
