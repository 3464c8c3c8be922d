"""Keys and events: order, filter, selection, pause, questions."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.cli.top.interaction import Interaction, column_of
from relayd.cli.top.views import STREAMS, VIEWS
from tests.unit.cli.top.states import NOW_S, live, stream


def interaction(**changed: dict[str, list[Any]]) -> Interaction:
    top = Interaction(live(**changed))
    top.lost = ""
    return top


def press(top: Interaction, *keys: str) -> str | None:
    path = None
    for key in keys:
        path = top.press(key, NOW_S)
    return path


def keys_of(top: Interaction) -> list[str]:
    return [row["key"] for row in top.rows(NOW_S)]


def test_the_oldest_stream_is_the_first_and_any_column_sorts() -> None:
    top = interaction()
    assert keys_of(top)[0] == "a"
    press(top, "r")
    assert keys_of(top)[-1] == "a"
    press(top, ">", ">", ">")
    assert top.current.column.title == "MODEL" and keys_of(top) == ["b", "c", "a"]
    press(top, "r")
    assert keys_of(top) == ["a", "c", "b"]
    press(top, "<", "<", "<", "<")
    assert top.current.column is STREAMS.columns[-1]


def test_each_view_keeps_its_own_order_and_filter() -> None:
    top = interaction()
    press(top, "/", *"LARGE", "enter", "2", "r", "tab", "tab", "backtab", "1")
    assert (top.view.name, top.current.filter, keys_of(top)) == ("streams", "LARGE", ["b"])
    for number, view in enumerate(VIEWS, 1):
        press(top, str(number))
        assert top.view is view
    press(top, "right")
    assert top.view is VIEWS[0]
    press(top, "left", "9", "0", "²")
    assert top.view is VIEWS[-1]


def test_the_filter_is_typed_and_removed() -> None:
    top = interaction()
    press(top, "/", "o", "t", "h", "x", "backspace", "up")
    assert top.mode == "filter" and top.current.filter == "oth" and keys_of(top) == ["c"]
    press(top, "clear", "q")
    assert top.current.filter == "q" and not top.is_over and keys_of(top) == []
    press(top, "escape")
    assert top.mode == "browse" and top.current.filter == "" and len(keys_of(top)) == 3
    press(top, "/", *"x" * 200, "enter")
    assert len(top.current.filter) == 80
    press(top, "escape")
    assert top.current.filter == ""


def test_the_selection_stays_at_its_row_and_moves_on_when_that_ends() -> None:
    rows = {str(number): stream(100 - number, "m") for number in range(50)}
    top = interaction(streams=rows)
    shown = top.window(top.rows(NOW_S), 10)
    assert (shown[0]["key"], top.current.selected) == ("0", "0")
    press(top, "down", "j", "k", "page_down")
    shown = top.window(top.rows(NOW_S), 10)
    assert top.current.selected == "11" and shown[-1]["key"] == "11" and len(shown) == 10
    press(top, "r")
    shown = top.window(top.rows(NOW_S), 10)
    assert top.current.selected == "11" and "11" in [row["key"] for row in shown]
    press(top, "r")
    top.window(top.rows(NOW_S), 10)
    top.state.change({"streams": {"gone": ["11"]}})
    top.window(top.rows(NOW_S), 10)
    assert top.current.selected == "12"
    press(top, "end")
    assert top.window(top.rows(NOW_S), 10)[-1]["key"] == top.current.selected == "49"
    press(top, "page_up", "home")
    assert top.window(top.rows(NOW_S), 10)[0]["key"] == top.current.selected == "0"
    top.state.change({"streams": {"gone": [str(number) for number in range(50)]}})
    assert top.window(top.rows(NOW_S), 10) == [] and top.selected(NOW_S) is None and press(top, "down", "enter", "c") is None
    assert top.mode == "browse"
    assert top.window(top.rows(NOW_S), 0) == []


def test_an_action_is_performed_only_after_yes_and_on_the_row_of_the_question() -> None:
    top = interaction()
    for other in ("n", "enter", "escape", "c", "down"):
        assert press(top, "c", other) is None and top.message == "nothing was done"
    press(top, "c")
    assert top.mode == "confirm" and top.confirmation is not None
    assert top.confirmation.question == "Cancel POST /v1/chat/completions of team?"
    top.state.change({"streams": {"gone": ["a"]}})
    top.window(top.rows(NOW_S), 5)
    assert press(top, "y") == "/streams/a/cancel"
    top.finish("")
    assert (top.message, top.is_fault) == ("Cancel POST /v1/chat/completions of team: done", False)
    top.finish("No exchange\x1b")
    assert top.message.endswith(": No exchange?") and top.is_fault
    press(top, "down")
    assert top.message == ""


def test_a_row_that_does_not_permit_an_action_and_a_user_who_may_not() -> None:
    top = interaction()
    press(top, "2", "e")
    assert (top.mode, top.message) == ("browse", "not possible for this row: enable")
    press(top, "c")
    assert top.mode == "browse" and top.message == ""
    top.may_write = False
    press(top, "d")
    assert (top.mode, top.message, top.actions()) == ("browse", "read-only: this user may not change anything", ())


def test_a_pause_keeps_state_and_time() -> None:
    top = interaction()
    press(top, "p")
    top._live.change({"streams": {"gone": ["a", "b"]}})
    assert top.is_paused and top.time_s(NOW_S + 50) == NOW_S and len(top.rows(NOW_S)) == 3
    press(top, "p")
    assert top.time_s(NOW_S + 50) == NOW_S + 50 and len(top.rows(NOW_S)) == 1


def test_help_and_details_are_left_by_any_key_and_q_and_ctrl_d_end() -> None:
    top = interaction()
    press(top, "?")
    assert top.mode == "help"
    press(top, "q")
    assert top.mode == "browse" and not top.is_over
    press(top, "enter")
    assert top.mode == "detail"
    press(top, "x", "q")
    assert top.is_over
    top = interaction()
    press(top, "/", "quit")
    assert top.is_over


def test_options_choose_view_order_and_filter() -> None:
    top = interaction()
    top.choose("streams", "Tokens", True, "e")
    assert top.current.column.title == "TOKENS" and keys_of(top)[-1] == "b"
    with pytest.raises(ValueError, match="the view failures has no column 'tokens'; it has: time, status"):
        top.choose("failures", "tokens")
    assert column_of(STREAMS, "age").title == "AGE"
