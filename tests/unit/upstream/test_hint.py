"""What an exchange tells pick."""

from __future__ import annotations

from relayd.upstream.hint import Hint


def test_a_hint_begins_with_nothing_tried_and_no_permit() -> None:
    assert (Hint().key, Hint().tried, Hint().permit) == (None, [], 0)
    assert Hint(5).key == 5


def test_hints_do_not_share_what_they_tried() -> None:
    first, second = Hint(), Hint()
    first.tried.append(None)  # type: ignore[arg-type]
    assert not second.tried
