"""The canonical form is a value: frozen, comparable, and with a default that says that the client said nothing."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from relayd.protocols import canon
from relayd.protocols.canon import Begin, Event, Finish, Message, Part, Request, Text, ToolDelta, ToolStart

VALUES = [one for one in vars(canon).values() if dataclasses.is_dataclass(one) and isinstance(one, type)]


@pytest.mark.parametrize("value", VALUES, ids=lambda one: one.__name__)
def test_every_value_is_frozen_slotted_and_documented(value: type) -> None:
    parameters = value.__dataclass_params__  # type: ignore[attr-defined]
    assert parameters.frozen and parameters.eq and "__slots__" in vars(value)
    assert value.__doc__ and not value.__doc__.startswith(f"{value.__name__}(")


def test_the_unions_name_every_part_and_every_event() -> None:
    parts, events = set(typing.get_args(Part)), set(typing.get_args(Event))
    others = {Message, Request, canon.Tool, canon.ToolChoice, canon.Format, canon.Thinking}
    assert parts | events | others == set(VALUES) and not parts & events


def test_what_a_client_did_not_say_is_none_and_differs_from_zero() -> None:
    unsaid = Request("m", (Message("user", (Text("hi"),)),))
    names = {one.name for one in dataclasses.fields(Request)}
    text_message = {"model", "messages", "stream", "include_usage", "tools", "extra", "large", "unknown"}
    assert all(getattr(unsaid, name) is None for name in names - text_message)
    assert dataclasses.replace(unsaid, temperature=0) != unsaid and dataclasses.replace(unsaid, stop=()) != unsaid


def test_a_request_cannot_be_changed_and_shares_no_extra() -> None:
    first, second = Request("m", ()), Request("m", ())
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.model = "other"  # type: ignore[misc]
    assert first == second and first.extra is not second.extra


def test_events_belong_to_the_first_choice_unless_they_say_otherwise() -> None:
    assert ToolStart(0, "id", "name").choice == ToolDelta(0, "{}").choice == Finish("stop").choice == 0
    assert Begin() == Begin("", "", 0)
