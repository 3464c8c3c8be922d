"""The JSON Schema says what the sections say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from relayd.schema import Duration, Secret, Size, section, setting
from relayd.schema.json_schema import DIALECT, json_schema


@section(shorthand="url")
class Place:
    """A place."""

    url: str = setting(doc="Where.", pattern="/.*")


@section(one_of=True)
class Key:
    """A key."""

    bearer: Secret | None = setting(default=None, doc="A secret.")


@section()
class Root:
    """The root."""

    places: tuple[Place, ...] = setting(doc="Places.")
    by_name: Mapping[str, Place] = setting(factory=dict, doc="By name.")
    key: Key | None = setting(default=None, doc="A key.", pending="spring")
    wait: Duration = setting(default=Duration(1), doc="A wait.", zero_is_off=True)
    size: Size = setting(default=Size(1), doc="A size.")
    count: int = setting(default=1, doc="A count.", minimum=1, maximum=9)
    version: Literal["1.2", "x"] = setting(default="x", doc="A version.")
    switch: bool = setting(default=False, doc="A switch.")


SCHEMA = json_schema(Root, "root")
OF: dict[str, Any] = SCHEMA["properties"]


def test_unknown_keys_are_refused_and_required_ones_demanded_in_every_section() -> None:
    assert SCHEMA["$schema"] == DIALECT
    assert SCHEMA["additionalProperties"] is False
    assert SCHEMA["required"] == ["places"]
    assert SCHEMA["$defs"]["Place"]["required"] == ["url"]
    assert SCHEMA["$defs"]["Key"]["maxProperties"] == 1
    assert sorted(SCHEMA["$defs"]) == ["Key", "Place", "Secret"]


def test_a_list_may_be_a_single_value_and_a_section_its_shorthand() -> None:
    single, several = OF["places"]["anyOf"]
    assert several["items"] == single
    assert several["minItems"] == 1
    assert single["anyOf"][0]["pattern"] == "^(?:/.*)$"
    assert single["anyOf"][1] == {"$ref": "#/$defs/Place"}


def test_numbers_and_words_keep_their_bounds() -> None:
    assert OF["count"] == {"description": "A count.", "type": "integer", "minimum": 1, "maximum": 9}
    assert OF["version"]["enum"] == ["1.2", "x", 1.2]
    assert {"enum": ["off", False]} in OF["wait"]["anyOf"]
    assert "KiB" in OF["size"]["pattern"]
    assert OF["switch"]["type"] == "boolean"


def test_a_key_to_come_says_so() -> None:
    assert OF["key"]["description"] == "A key. Not in force yet (waits for: spring)."


def test_a_secret_is_a_reference() -> None:
    assert sorted(SCHEMA["$defs"]["Secret"]["properties"]) == ["credential", "env", "file"]
