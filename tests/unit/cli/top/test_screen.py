"""The screen as lines: never wider or higher than the terminal, without control characters, whatever the state."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.cli.top.interaction import Interaction
from relayd.cli.top.screen import Line, Screen, attention
from relayd.cli.top.text import width
from relayd.cli.top.views import VIEWS
from tests.unit.cli.top.states import HOSTILE, NOW_S, PROCESS, cells, endpoint, live, stream


def interaction(**changed: dict[str, list[Any]]) -> Interaction:
    top = Interaction(live(**changed))
    top.lost = ""
    return top


def plain_lines(lines: list[Line]) -> list[str]:
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def shown(top: Interaction, columns: int = 120, rows: int = 20) -> list[str]:
    return plain_lines(Screen(top).lines(columns, rows, NOW_S))


def styles(top: Interaction, text: str) -> str:
    lines = Screen(top).lines(120, 20, NOW_S)
    return next(style for line in lines for part, style in line if text in part)


@pytest.mark.parametrize("columns, rows", [(1, 1), (2, 3), (7, 5), (20, 4), (40, 10), (60, 12), (79, 24), (80, 24), (200, 60)])
@pytest.mark.parametrize("keys", [(), ("?",), ("enter",), ("/", "日"), ("c",), ("p",)], ids=str)
@pytest.mark.parametrize("view", [one.name for one in VIEWS])
def test_every_screen_fits(columns: int, rows: int, keys: tuple[str, ...], view: str) -> None:
    wide = {str(number): stream(number, "日本語" * 40 + HOSTILE, path="/" + HOSTILE * 9, consumer="é" * 99) for number in range(80)}
    top = interaction(streams=wide)
    top.choose(view)
    for key in keys:
        top.press(key, NOW_S)
    lines = Screen(top).lines(columns, rows, NOW_S)
    assert len(lines) == rows
    for line in lines:
        text = "".join(part for part, _ in line)
        assert text.isprintable() and width(text) <= columns, text


def test_the_head_the_titles_and_the_rows() -> None:
    lines = shown(interaction())
    assert lines[0].startswith("relayd 1.0  serving  2 in flight  1 waiting  1 req/s  15 tokens/s  1.00 USD in the last hour")
    assert "and 2 more" in lines[1] and "draining" in lines[1]
    assert lines[2] == " 1 Streams 3  2 Upstreams 2  3 Consumers 1  4 Failures 1  5 Queues 1"
    assert lines[3].split() == ["AGEv", "STATE", "CONSUMER", "MODEL", "UPSTREAM", "ENDPOINT", "ROUTE", "SENT", "TOKENS", "TOKENS/S", "REQUEST"]
    assert lines[4].split()[:4] == ["1m15s", "transfer", "team", "small"]
    assert lines[-1].startswith("? help  q quit  / filter  c cancel")


def test_a_narrow_terminal_shows_the_columns_that_matter_and_that_of_the_order() -> None:
    top = interaction()
    assert shown(top, 60)[3].split() == ["AGEv", "STATE", "CONSUMER", "MODEL", "REQUEST"]
    top.choose("streams", "sent")
    assert "SENTv" in shown(top, 30)[3]
    assert shown(top, 60)[2].startswith(" 1 Streams 3  2 Upst  3 Cons")


def test_columns_do_not_become_narrower_while_rows_change() -> None:
    top = interaction(streams={"a": stream(9, "m" * 20), "b": stream(5, "m")})
    screen = Screen(top)
    before = plain_lines(screen.lines(120, 20, NOW_S))[3]
    top.state.change({"streams": {"gone": ["a"]}})
    assert plain_lines(screen.lines(120, 20, NOW_S))[3] == before
    screen.lines(100, 20, NOW_S)
    assert plain_lines(screen.lines(120, 20, NOW_S))[3] != before


def test_the_selected_row_is_marked_but_not_in_a_printed_screen() -> None:
    top = interaction()
    assert styles(top, "1m15s") == "reverse"
    assert all(style != "reverse" for line in Screen(top, marks_selected=False).lines(120, 20, NOW_S)[4:] for _, style in line)


def test_empty_tables_and_filters_without_a_match_say_so() -> None:
    top = interaction(streams={})
    assert "No request is under way." in shown(top)
    top.choose("streams", wanted="nothing")
    assert "No row contains 'nothing'." in shown(top)
    assert shown(top)[-1].startswith("filter 'nothing', Esc removes it")


def test_questions_messages_modes_and_the_lost_connection() -> None:
    top = interaction()
    top.press("c", NOW_S)
    assert shown(top)[-1] == "Cancel POST /v1/chat/completions of team? [y/N]"
    assert shown(top, 30)[-1].endswith("… [y/N]")
    top.press("n", NOW_S)
    assert shown(top)[-1] == "nothing was done"
    top.press("/", NOW_S)
    top.press("x", NOW_S)
    assert shown(top)[-1] == "filter: x_"
    top.press("escape", NOW_S)
    top.press("enter", NOW_S)
    lines = shown(top)
    assert "  model         small" in lines and lines[-1] == "any key: back"
    top.press("x", NOW_S)
    top.press("p", NOW_S)
    assert shown(top)[2].endswith("PAUSED")
    top.may_write, top.lost = False, "gone\x1b"
    assert shown(top)[-1].startswith("read-only  ? help") and shown(top)[1] == "no connection, trying again: gone?"
    unknown = Interaction(live())
    unknown.state._tables.clear()
    assert shown(unknown)[0] == "relayd"


def test_a_long_detail_is_wrapped_and_a_row_that_ended_says_so() -> None:
    top = interaction(streams={"a": stream(9, "m" * 100)})
    top.press("enter", NOW_S)
    parts = [line.split()[-1] for line in shown(top, 60) if "mmm" in line]
    assert "".join(parts) == "m" * 100 and max(map(len, parts)) == 44
    top.state.change({"streams": {"gone": ["a"]}})
    assert "It has ended." in shown(top, 60)


def test_what_needs_attention_has_a_text() -> None:
    process = {**PROCESS, "refused": [NOW_S, ["line 3: wrong"]], "overload": "loop lag", "warnings": ["old\x1b"]}
    state = live(
        process={name: [value] for name, value in process.items()},
        endpoints={
            "a": endpoint("a:1", breaker="open", last_fault="timeout"), "b": endpoint("b:1", health="failing", health_why="503"),
            "c": endpoint("c:1", state="disabled"),
        },
        certificates={"x": cells("certificates", name="n", warning="it ends"), "y": cells("certificates", name="m", expires_at=NOW_S + 60)},
    )  # fmt: skip
    found = dict(attention(state, NOW_S))
    assert next(iter(found)).endswith("was refused: line 3: wrong")
    assert found["up a:1: the breaker is open; timeout"] == found["up b:1: the health check fails; 503"] == found["it ends"] == "red"
    assert found["overloaded: loop lag"] == "red"
    for text in (
        "up c:1 is disabled", "the certificate of m ends in 1m00s", "upstream up: 1 requests wait",
        "consumer team : 90% of 10 requests per 1h is used", "old?",
    ):
        assert found[text] == "yellow"
