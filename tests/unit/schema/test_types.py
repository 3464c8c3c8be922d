"""The values of relayd.yaml, above all that a secret is never shown."""

from __future__ import annotations

import copy
import dataclasses
import logging
import pickle
import pprint
from typing import Any

import pytest

from relayd.schema import Duration, Secret, Size, section, setting

KEY = "sk-very-secret-4711"


@section(shorthand="name")
class Thing:
    """A thing."""

    name: str = setting(doc="Its name.")
    size: Size = setting(default=Size(3), doc="Its size.")
    secret: Secret | None = setting(default=None, doc="Its secret.")


def test_a_secret_shows_its_source_and_never_its_value() -> None:
    secret = Secret(KEY, "file /keys/a")
    thing = Thing(name="a", secret=secret)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", repr(thing), pprint.pformat(thing),
             repr([secret]), logging.LogRecord("a", 20, "b", 1, "%s", (secret,), None).getMessage()]
    assert all(KEY not in text and "file /keys/a" in text for text in shown)
    assert secret.reveal() == KEY


def test_a_secret_cannot_be_pickled_or_copied() -> None:
    secret = Secret(KEY, "env A")
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError) as caught:
            leak(secret)
        assert KEY not in str(caught.value)


def test_secrets_are_equal_when_value_and_source_are() -> None:
    assert Secret("a", "env A") == Secret("a", "env A")
    assert Secret("a", "env A") != Secret("b", "env A")
    assert Secret("a", "env A") != Secret("a", "env B")
    assert Secret("a", "env A") != "a"
    assert Secret("ä", "env A") == Secret("ä", "env A")
    assert hash(Secret("a", "env A")) == hash(Secret("b", "env A")), "a hash would tell keys apart"


def test_a_section_is_frozen_slotted_and_takes_names_only() -> None:
    thing = Thing(name="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        thing.name = "b"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del thing.name
    with pytest.raises(dataclasses.FrozenInstanceError):
        thing.other = "b"  # type: ignore[attr-defined]
    assert not hasattr(thing, "__dict__")
    for arguments, named in ((("a",), {}), ((), {}), ((), {"name": "a", "colour": "b"})):
        with pytest.raises(TypeError):
            make: Any = Thing
            make(*arguments, **named)
    assert Thing.__section__ == {"shorthand": "name", "one_of": False}  # type: ignore[attr-defined]


def test_sections_are_values() -> None:
    thing, alike = Thing(name="a"), dataclasses.replace(Thing(name="b"), name="a")
    assert thing == alike and hash(thing) == hash(alike) and len({thing, alike, Thing(name="b")}) == 2
    assert thing != Thing(name="a", size=Size(4)) and thing != object()
    assert repr(thing) == "Thing(name='a', size=3, secret=None)"
    assert dataclasses.asdict(thing) == {"name": "a", "size": 3, "secret": None}


def test_durations_and_sizes_are_numbers() -> None:
    assert Duration(1.5) + 1 == 2.5
    assert Size(1024) * 2 == 2048
