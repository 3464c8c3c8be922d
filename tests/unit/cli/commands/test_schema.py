"""`relayd schema` prints the generated documents."""

from __future__ import annotations

import argparse

import pytest

from relayd.cli.commands import schema
from relayd.config.documents import manual_text, sample_text, schema_text


@pytest.mark.parametrize(("arguments", "text"), [
    ([], schema_text()), (["--json"], schema_text()), (["--man"], manual_text()), (["--sample"], sample_text()),
])
def test_each_form_is_printed_whole(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    schema.configure(parser)
    assert schema.run(parser.parse_args(arguments)) == 0
    assert capsys.readouterr().out == text


def test_two_forms_at_once_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    schema.configure(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--json", "--man"])
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
