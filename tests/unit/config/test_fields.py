"""Rules about fields, methods, hosts and files."""

from __future__ import annotations

import pathlib

from relayd.config.fields import (
    file_fault,
    method_fault,
    written_fields,
)


def test_fields_of_the_framing_are_written_by_relayd_alone() -> None:
    faults = dict(written_fields("set", {"Content-Length": "0", "transfer-encoding": "x", "X-Team": "a", "b c": "d"}))
    assert sorted(faults) == ["set.Content-Length", "set.b c", "set.transfer-encoding"]


def test_a_method_is_told_apart_by_case() -> None:
    assert method_fault("GET") is None
    assert "GET" in (method_fault("get") or "")
    assert method_fault("G T")


def test_a_named_file_must_be_readable_and_absolute(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.pem").write_text("x")
    assert file_fault(str(tmp_path / "a.pem")) is None
    assert "absolute" in (file_fault("a.pem") or "")
    assert "cannot be read" in (file_fault(str(tmp_path / "none")) or "")
    assert "cannot be read" in (file_fault(str(tmp_path)) or "")
