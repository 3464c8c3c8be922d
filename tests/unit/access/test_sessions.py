"""Sessions of browsers: found by their token, ended, and bounded."""

from __future__ import annotations

import pytest

from relayd.access.sessions import LIFETIME_S, MAX_OF_KEY, MAX_SESSIONS, Sessions, cookie_value


def test_a_session_is_found_by_its_token_until_it_ends() -> None:
    sessions = Sessions()
    token, session = sessions.begin(b"digest", 100.0)
    assert sessions.find(token.encode(), 100.0) is session and session.key_digest == b"digest"
    assert sessions.find(token.encode() + b"x", 100.0) is None
    assert sessions.find(token.encode(), 100.0 + LIFETIME_S) is None
    sessions.end(session)
    assert sessions.find(token.encode(), 100.0) is None and session.ended and len(sessions) == 0
    sessions.end(session)


def test_tokens_are_random_and_differ() -> None:
    sessions = Sessions()
    (one, first), (two, second) = sessions.begin(b"d", 0.0), sessions.begin(b"d", 0.0)
    assert len({one, two, first.csrf_token, second.csrf_token}) == 4 and len(one) >= 40


def test_the_oldest_session_of_a_key_ends_when_it_has_too_many() -> None:
    sessions = Sessions()
    other, _ = sessions.begin(b"other", 0.0)
    first, oldest = sessions.begin(b"d", 0.0)
    for _ in range(MAX_OF_KEY):
        sessions.begin(b"d", 0.0)
    assert oldest.ended and sessions.find(first.encode(), 0.0) is None
    assert sessions.find(other.encode(), 0.0) is not None and len(sessions) == MAX_OF_KEY + 1


def test_all_sessions_are_bounded_and_expired_ones_go_first() -> None:
    sessions = Sessions()
    for number in range(MAX_SESSIONS + 5):
        sessions.begin(b"%d" % number, 0.0)
    assert len(sessions) == MAX_SESSIONS
    sessions.begin(b"new", LIFETIME_S)
    assert len(sessions) == 1


@pytest.mark.parametrize(("fields", "value"), [
    ([b"a=1; name=x; b=2"], b"x"), ([b"a=1", b"name=x"], b"x"), ([b'name="x"'], b"x"), ([b" name = x "], b"x"),
    ([], None), ([b"named=x"], None), ([b"name"], None), ([b"name=x; name=y"], None), ([b"name=x", b"name=x"], None),
])
def test_a_cookie_is_found_unless_it_is_repeated(fields: list[bytes], value: bytes | None) -> None:
    assert cookie_value(fields, b"name") == value
