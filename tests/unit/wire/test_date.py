"""The Date field is right, and made once a second."""

from __future__ import annotations

import pytest

from relayd import clock
from relayd.wire.date import DateField, has_date


def test_the_form_is_that_of_the_rfc_and_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [784111777.0]
    monkeypatch.setattr(clock, "wall", lambda: now[0])
    field = DateField()
    assert field() == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    now[0] += 0.9
    assert field() is field()
    now[0] += 0.1
    assert field() == b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"


def test_any_spelling_of_the_name_counts_and_no_other_field_does() -> None:
    for name in (b"Date", b"date", b"DATE"):
        assert has_date(b"HTTP/1.1 200 OK\r\n%b: x\r\n" % name)
    assert not has_date(b"HTTP/1.1 200 OK\r\nX-Date: x\r\nUpdate: Date: \r\n")
