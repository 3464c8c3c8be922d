"""The generated documents stand in the repository as they are generated, and tell of every key."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
from typing import Any

import pytest

from relayd.config.documents import EXAMPLE, manual_text, sample_text, schema_text
from relayd.config.load import load, load_text
from relayd.config.model import Config
from relayd.errors import ConfigError
from relayd.schema.describe import keys, name_of, sections_below

TOP = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize(("file", "text"), [
    ("conf/relayd.schema.json", schema_text()), ("conf/relayd.full.yaml", sample_text()), ("debian/man/relayd.yaml.5", manual_text()),
])
def test_the_file_in_the_repository_is_the_generated_one(file: str, text: str) -> None:
    assert (TOP / file).read_text(encoding="utf-8") == text, "run: make docs"


def test_every_key_of_every_section_is_in_all_three() -> None:
    schema, sample, page = json.loads(schema_text()), sample_text(), manual_text()
    for path, section in sections_below(Config):
        described = schema if section is Config else schema["$defs"][name_of(section)]
        assert sorted(described["properties"]) == sorted(key.name for key in keys(section)), path
        for key in keys(section):
            assert f"\\fB{key.name}:\\fR" in page
            assert key.name in sample


def test_every_word_of_the_sample_is_known() -> None:
    lines = [line[1:] for line in sample_text().splitlines() if line.startswith("#") and not line.startswith("##")]
    with pytest.raises(ConfigError) as caught:
        load_text("\n".join(lines), "sample")
    # Its key files and its drop-ins are not there, and it shows what excludes each other side by side.
    expected = ("cannot be read", "cannot be run", "/etc/relayd.d does not exist", "only one of path, prefix and regex", "not in force yet", "only with protocol: simple_chat", "exactly one of command", "exactly one of file and url", "exactly one of requests and tokens", "exactly one of jwks and secret", "remove endpoints")
    assert [str(one) for one in caught.value.findings if not any(word in one.message for word in expected)] == []


def test_the_manual_s_example_is_accepted_once_its_keys_are_there(tmp_path: pathlib.Path) -> None:
    for name in ("openai", "team"):
        (tmp_path / name).write_text(f"sk-{name}")
        (tmp_path / name).chmod(0o600)
    path = tmp_path / "relayd.yaml"
    path.write_text(EXAMPLE.replace("/etc/relayd/keys", str(tmp_path)))
    assert load(str(path)).warnings == ()


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_manual_is_rendered_without_a_warning() -> None:
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww"], input=manual_text(), capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_no_reference_of_the_schema_is_left_open() -> None:
    schema = json.loads(schema_text())

    def references(part: Any) -> set[str]:
        if isinstance(part, dict):
            own = {part["$ref"].rpartition("/")[2]} if "$ref" in part else set()
            return own.union(*(references(value) for value in part.values()))
        return set().union(*map(references, part)) if isinstance(part, list) else set()

    assert references(schema) == set(schema["$defs"])
