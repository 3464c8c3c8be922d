"""The id of a session: where it is read, what is accepted, how it is given to the client, and what is forwarded."""

from __future__ import annotations

import re
from typing import Any

import pytest

from relayd.config.sessions import Sessions
from relayd.protocols.dialect import run_steps
from relayd.proxy.client_session import ClientSession, SessionCounts, is_well_formed, key_of, presented_id, remove_id
from relayd.stores.memory import Store
from relayd.telemetry.outcome import Record
from relayd.wire.response import ResponseHead
from tests.unit.proxy.fakes import head_for

SETTINGS = Sessions()


def session_for(store: Store, settings: Sessions = SETTINGS, **options: Any) -> ClientSession:
    space, endpoints = store.space("session:team", 60.0), store.space("session-endpoints:team", 60.0)
    return ClientSession(settings, space, endpoints, SessionCounts(), **{"is_secure": False, "may_begin": True, **options})


@pytest.mark.parametrize(("lines", "found"), [
    ((), (b"", False)),
    (("X-Session-ID: abc",), (b"abc", False)),
    (("Cookie: a=1; relayd_session=abc; b=2",), (b"abc", True)),
    (("Cookie: a=1", "Cookie: relayd_session=abc"), (b"abc", True)),
    (("Cookie: relayd_session=abc", "X-Session-ID: def"), (b"def", False)),
    (("Cookie: relayd_session=abc; relayd_session=def",), (b"abc", True)),
    (("Cookie: RELAYD_SESSION=abc; relayd_session2=x; xrelayd_session=y",), (b"", False)),
    (("Cookie: relayd_session",), (b"", False)),
    (("Cookie: relayd_session=",), (b"", True)),
    (('Cookie: relayd_session="abc"',), (b"", True)),
    (("Cookie: relayd_session=a b",), (b"", True)),
    (("Cookie: relayd_session=\xe9\xff",), (b"", True)),
    (("Cookie: ;;=;relayd_session=a=b;",), (b"a=b", True)),
    (("X-Session-ID: " + "a" * 129,), (b"", False)),
    (("X-Session-ID: " + "a" * 128,), (b"a" * 128, False)),
    (("X-Session-ID: a,b",), (b"", False)),
])
def test_where_the_id_is_read(lines: tuple[str, ...], found: tuple[bytes, bool]) -> None:
    assert presented_id(head_for(*lines), SETTINGS) == found


def test_each_place_can_be_off() -> None:
    head = head_for("Cookie: relayd_session=abc", "X-Session-ID: def")
    assert presented_id(head, Sessions(header="off")) == (b"abc", True)
    assert presented_id(head, Sessions(cookie="off")) == (b"def", False)


@pytest.mark.parametrize("value", [b"", b"a b", b'a"', b"a\\", b"a;b", b"a,b", b"\x00", b"\x7f", b"\xc3\xa9", b"a" * 129])
def test_other_bytes_are_no_id(value: bytes) -> None:
    assert not is_well_formed(value) and is_well_formed(b"0aZ-_.~+/=:!#[]{}^")


def test_new_ids_differ_and_are_long() -> None:
    store = Store(10, 1 << 20, 60)
    ids = {session_for(store)._id for _ in range(1000)}
    assert len(ids) == 1000 and all(re.fullmatch(b"[0-9a-f]{48}", one) and is_well_formed(one) for one in ids)
    assert all(re.fullmatch("[0-9a-f]{32}", key_of(one)) for one in ids)


def test_an_unknown_id_is_not_adopted() -> None:
    store = Store(10, 1 << 20, 60)
    session = session_for(store)
    run_steps(session.look_up_steps(b"forged", True, False))
    assert session.is_new and session._id != b"forged"
    store.space("session:other", 60.0).put(key_of(b"forged"), {})
    run_steps(session.look_up_steps(b"forged", True, False))
    assert session.is_new  # of another consumer
    store.space("session:team", 60.0).put(key_of(b"forged"), {"a": 1})
    run_steps(session.look_up_steps(b"forged", True, False))
    assert not session.is_new and session.text == '{"a":1}'


def test_the_fields_that_give_the_id_to_the_client() -> None:
    store = Store(10, 1 << 20, 60)
    session = session_for(store, is_secure=True)
    value = session._id.decode()
    assert session.fields() == [
        ("Set-Cookie", f"relayd_session={value}; Path=/; Max-Age=7200; HttpOnly; SameSite=Lax; Secure"), ("X-Session-ID", value),
    ]
    assert not session_for(store, Sessions(cookie_path="/api")).fields()[0][1].endswith("Secure")
    store.space("session:team", 60.0).put(key_of(b"one"), {})
    by_cookie, by_field = session_for(store), session_for(store)
    run_steps(by_cookie.look_up_steps(b"one", True, False))
    run_steps(by_field.look_up_steps(b"one", False, False))
    assert [name for name, _ in by_cookie.fields()] == ["Set-Cookie"] and by_field.fields() == []
    assert "Max-Age=0" in by_cookie.ending_fields()[0][1] and by_field.ending_fields() == []


def test_a_response_of_an_endpoint_creates_a_session_once() -> None:
    store = Store(10, 1 << 20, 60)
    session, record = session_for(store), Record()
    head = ResponseHead(200, b"")
    head.keep = [b"x-session-id: theirs\r\n", b"X-Other: a\r\n"]
    session.annotate(head, record, None)
    assert [line.partition(b":")[0] for line in head.keep] == [b"X-Other", b"Set-Cookie", b"X-Session-ID"]
    assert store.entries == 1 and record.more == {"session": session.key[:16]}
    assert session._counts.created == 1
    refused = session_for(store, may_begin=False)
    other = ResponseHead(200, b"")
    refused.annotate(other, Record(), None)
    assert other.keep == [] and store.entries == 1


def test_a_session_that_cannot_be_stored_is_not_given_to_the_client() -> None:
    session, head, record = session_for(Store(0, 1 << 20, 60)), ResponseHead(200, b""), Record()
    session.annotate(head, record, None)
    assert head.keep == [] and record.more is None and session._counts.created == 0


@pytest.mark.parametrize(("lines", "left"), [
    (("Cookie: relayd_session=abc",), []),
    (("Cookie: a=1; relayd_session=abc; b=2",), [b"Cookie: a=1; b=2"]),
    (("Cookie: relayd_session=abc; b=2",), [b"Cookie: b=2"]),
    (("X-Session-ID: a", "X-Other: b"), [b"X-Other: b"]),
    (("Cookie: a=1;b",), [b"Cookie: a=1;b"]),
])
def test_the_id_is_not_forwarded(lines: tuple[str, ...], left: list[bytes]) -> None:
    head = head_for(*lines)
    remove_id(head, SETTINGS)
    assert head.keep == left


def test_keys_are_still_found_when_the_id_is_removed() -> None:
    head = head_for("X-Session-ID: a", "Authorization: Bearer k", "Cookie: relayd_session=x", "X-Api-Key: k2", "X-Last: z")
    remove_id(head, SETTINGS)
    assert [head.keep[index].partition(b":")[0] for index in head.keys] == [b"Authorization", b"X-Api-Key"]
    assert head.keep[-1] == b"X-Last: z"


def test_ten_thousand_sessions_are_bounded() -> None:
    store = Store(500, 1 << 20, 60)
    sessions = [session_for(store) for _ in range(10_000)]
    for session in sessions:
        session.annotate(ResponseHead(200, b""), Record(), None)
    assert store.entries == 500 and store.size_bytes <= 1 << 20
    left = [store.space("session:team", 60.0).get(session.key) for session in sessions]
    assert left == [None] * 9500 + [{}] * 500


def test_a_session_lives_for_two_hours_after_its_last_use() -> None:
    now = [0.0]
    store = Store(10, 1 << 20, 60, now=lambda: now[0])
    space = store.space("session:team", float(SETTINGS.ttl))
    space.put(key_of(b"one"), {})
    for now[0] in (7199.0, 14_300.0, 21_500.0):
        session = ClientSession(SETTINGS, space, space, SessionCounts(), is_secure=False, may_begin=True)
        run_steps(session.look_up_steps(b"one", True, False))
        assert not session.is_new
    now[0] += 7201.0
    run_steps((late := ClientSession(SETTINGS, space, space, SessionCounts(), is_secure=False, may_begin=True)).look_up_steps(b"one", True, False))
    assert late.is_new
