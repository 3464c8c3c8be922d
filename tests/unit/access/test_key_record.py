"""The line of a key in the journal."""

from __future__ import annotations

import json
import math

import pytest

from relayd.access.key_record import KeyRecord

KEY = KeyRecord("0123456789ab", "team", "ab" * 32, "rl_abcd", created_s=5.0, settings={"group": "paying", "models": ["gpt-*"]})


def test_a_line_is_read_as_it_was_written() -> None:
    assert KeyRecord.of_line(KEY.line()) == KEY
    assert KEY.line().endswith(b"}\n") and b"expires_s" not in KEY.line()


@pytest.mark.parametrize("change", [
    {"id": "x"}, {"name": "a b"}, {"name": ""}, {"digest": "AB" * 32}, {"digest": "ab"}, {"previous": "cd"}, {"created_s": "5"},
    {"expires_s": -1}, {"expires_s": math.nan}, {"settings": []}, {"start": 5}, {"admin": True}, {"digest": None},
])
def test_a_line_that_says_something_else_is_damaged(change: dict[str, object]) -> None:
    members = json.loads(KEY.line()) | change
    with pytest.raises(ValueError, match="has"):
        KeyRecord.of_line(json.dumps(members).encode())


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"5", b"\xff", b"[" * 100_000, b'{"id":"0123456789ab"}'])
def test_a_line_that_is_no_record_is_damaged(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        KeyRecord.of_line(line)


def test_an_expired_key_and_a_rotated_one_end_at_their_times() -> None:
    rotated = KeyRecord("0123456789ab", "team", "ab" * 32, expires_s=50.0, previous="cd" * 32, previous_until_s=99.0)
    assert rotated.digests() == [(bytes.fromhex("ab" * 32), 50.0), (bytes.fromhex("cd" * 32), 50.0)]
    assert (rotated.state(49.9), rotated.state(50.0)) == ("valid", "expired")
    assert KEY.digests() == [(bytes.fromhex("ab" * 32), math.inf)]
    revoked = KeyRecord("0123456789ab", "team", "ab" * 32, revoked_s=1.0, previous="cd" * 32, previous_until_s=99.0)
    assert revoked.digests() == [] and revoked.state(0.0) == "revoked"
