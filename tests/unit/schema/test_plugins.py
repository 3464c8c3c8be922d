"""Sections whose keys come from a folder of modules."""

from __future__ import annotations

import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest

from relayd.config.load import load_section
from relayd.errors import ConfigError
from relayd.registry import Kinds
from relayd.schema import section, setting
from relayd.schema.describe import keys, name_of, why_unavailable
from relayd.schema.json_schema import json_schema
from relayd.schema.plugins import faults_of_choice, members, members_of, options_of, strangers

HEAD = "from __future__ import annotations\nfrom relayd.schema import section, setting\nfrom typing import ClassVar\n"
MODULES = {
    "plain": '"""Nothing to say."""\n' + HEAD + '@section()\nclass Options:\n    """None."""\n',
    "tuned": '"""Tuned by hand.\n\nMore."""\n' + HEAD + textwrap.dedent('''
        @section()
        class Options:
            """How it is tuned."""
            written_as: ClassVar[str] = "tuning"
            level: int = setting(default=3, doc="How much.", minimum=1)
            def check(self):
                if self.level == 13:
                    yield "level", "is unlucky"
    '''),
    "needy": '"""Needs a place."""\n' + HEAD + textwrap.dedent('''
        @section()
        class Options:
            """Where it is."""
            place: str = setting(doc="Where.")
    '''),
    "gone": '"""Needs what is not there."""\nimport nothing_of_this_name\n',
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"planted_{abs(hash(request.node.name))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text('"""Planted."""\n')
    for kind, text in MODULES.items():
        (tmp_path / name / f"{kind}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def nested(folder: str, always: bool = True) -> type:
    @section()
    @members(folder, always=always)
    class Thing:
        """A thing."""

        kind: str = setting(default="plain", choices=Kinds(folder), doc="Which.")

        def check(self) -> Any:
            yield from faults_of_choice(self, folder, self.kind)

        def caution(self) -> Any:
            return ((key, f"only with {kinds}") for key, kinds in strangers(self, folder, self.kind))

    return Thing


def flat(folder: str) -> type:
    @section(shorthand="kind")
    @members(folder, flat=True)
    class Thing:
        """A thing."""

        kind: str = setting(default="plain", choices=Kinds(folder), doc="Which.")

        def check(self) -> Any:
            yield from ((key, f"only with {kinds}") for key, kinds in strangers(self, folder, self.kind))
            yield from faults_of_choice(self, folder, self.kind)

    return Thing


def read(kind: type, text: str) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        return load_section(file.name, kind)


def faults(kind: type, text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as refused:
        read(kind, text)
    return {one.path: one.message for one in refused.value.findings if one.level == "error"}


def test_every_kind_is_a_word_and_explains_itself(folder: str) -> None:
    (key,) = (one for one in keys(nested(folder)) if one.name == "kind")
    assert key.choices is not None and list(key.choices) == ["gone", "needy", "plain", "tuned"]
    assert key.doc == (
        "Which. `gone`: Needs what is not there. `needy`: Needs a place. `plain`: Nothing to say. `tuned`: Tuned by hand."
    )


def test_a_kind_with_options_has_a_key_of_its_own(folder: str) -> None:
    kind = nested(folder)
    assert [one.name for one in keys(kind)] == ["kind", "gone", "needy", "tuning"]
    made = read(kind, "kind: tuned\ntuning: {level: 5}\n")
    assert options_of(made, folder, "tuned").level == 5
    assert read(kind, "kind: tuned\n").tuning.level == 3
    assert {one: options is not None for one, options in members_of(made, folder)} == {
        "gone": False, "needy": False, "plain": True, "tuned": True}
    assert faults(kind, "kind: tuned\ntuning: {level: 13}\n") == {"tuning.level": "is unlucky"}
    assert faults(kind, "tuning: {level: 0, other: 1}\n").keys() == {"tuning.level", "tuning.other"}


def test_what_a_chosen_kind_needs_must_be_written(folder: str) -> None:
    assert faults(nested(folder), "kind: needy\n") == {"needy": "is missing: needy needs it"}
    assert faults(flat(folder), "kind: needy\n") == {"place": "is missing: needy needs it"}
    assert options_of(read(flat(folder), "{kind: needy, place: here}"), folder, "needy").place == "here"


def test_options_of_another_kind_are_told(folder: str) -> None:
    assert faults(flat(folder), "{kind: tuned, place: here}") == {"place": "only with needy"}
    assert faults(flat(folder), "{kind: tuned, level: 13}") == {"level": "is unlucky"}
    made = read(nested(folder), "tuning: {level: 4}\n")
    assert list(strangers(made, folder, "plain")) == [("tuning", "tuned")]


def test_a_kind_whose_library_is_missing_is_known_and_says_so(folder: str) -> None:
    kind = nested(folder)
    message = "needs the Python package nothing_of_this_name, which is not installed"
    assert faults(kind, "gone: {a: 1}\n") == {"gone": message}
    assert faults(kind, "kind: gone\n") == {"": f"gone {message}"}
    (key,) = (one for one in keys(kind) if one.name == "gone")
    assert why_unavailable(key.bare) == message


def test_without_a_default_a_section_is_only_there_where_it_is_written(folder: str) -> None:
    made = read(nested(folder, always=False), "kind: plain\n")
    assert made.tuning is None
    assert read(nested(folder, always=False), "tuning: {}\n").tuning.level == 3


def test_options_are_named_by_their_module_in_the_schema(folder: str) -> None:
    kind = nested(folder)
    (key,) = (one for one in keys(kind) if one.name == "tuning")
    assert name_of(key.bare) == "TunedOptions" and "TunedOptions" in json_schema(kind, "t")["$defs"]


def test_two_keys_of_one_name_are_a_bug(folder: str) -> None:
    with pytest.raises(TypeError, match="two keys"):

        @members(folder)
        class Thing:
            """A thing."""

            tuning: int = setting(default=1, doc="Taken.")
