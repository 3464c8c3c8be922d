"""`relayd version`."""

from __future__ import annotations

import pytest

from relayd import __version__
from relayd.cli.main import main


def test_every_library_is_named_with_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == ["relayd", "Python", "Tornado", "pycurl", "libcurl"]
    assert lines[0][1] == __version__
