"""The sample shows every key, and what it shows can be used."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from relayd.schema import Duration, Secret, section, setting
from relayd.schema.sample import sample


@section(shorthand="url")
class Place:
    """A place."""

    url: str = setting(doc="Where.", example="http://a")


@section()
class Rule:
    """A rule."""

    name: str = setting(doc="Its name. " + "It is long. " * 20)
    way: str | None = setting(default=None, doc="Its way.", pattern="/.*")


@section()
class Root:
    """The root."""

    groups: Mapping[str, Rule] = setting(factory=dict, doc="Groups.")
    rules: tuple[Rule, ...] = setting(default=(), doc="Rules.")
    places: tuple[Place, ...] = setting(default=(), doc="Places.")
    wait: Duration = setting(default=Duration(0), doc="A wait.", zero_is_off=True)
    key: Secret | None = setting(default=None, doc="A key.")


def uncommented(text: str) -> str:
    """The sample with one # taken from every line that is not a remark."""
    return "\n".join(line[1:] for line in text.splitlines() if line.startswith("#") and not line.startswith("##"))


def test_uncommented_the_sample_is_a_tree_of_all_keys() -> None:
    tree = yaml.safe_load(uncommented(sample(Root, "All keys.")))
    assert tree == {
        "groups": {"example": {"name": "example", "way": "/example"}},
        "rules": [{"name": "example", "way": "/example"}],
        "places": ["http://a"],
        "wait": False,
        "key": {"file": "/etc/relayd/keys/NAME"},
    }


def test_every_line_is_commented_out_and_none_is_too_long() -> None:
    lines = sample(Root, "All keys. " * 30).splitlines()
    assert all(line == "" or line.startswith("#") for line in lines)
    assert max(map(len, lines)) <= 118
    assert yaml.safe_load("\n".join(lines)) is None


def test_the_keys_of_a_section_shown_in_one_line_are_told_in_remarks() -> None:
    assert "##   url: Where. (text; required)\n#places: [http://a]" in sample(Root, "")


def test_a_remark_tells_kind_bound_and_default() -> None:
    assert "## A wait. (duration; off for none; default off)" in sample(Root, "")
