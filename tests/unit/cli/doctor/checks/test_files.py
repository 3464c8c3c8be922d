"""Rights of files: a key that everybody can read, a file that everybody can change, one that is not visible."""

from __future__ import annotations

from pathlib import Path

from relayd.cli.diagnosis import FINE, UNKNOWN, WARNING
from relayd.cli.doctor.checks import files
from tests.aids.certificates import made
from tests.unit.cli.doctor.cases import context_of, findings, written


def test_rights_that_are_too_wide(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-1")
    key.chmod(0o644)
    pair = made(tmp_path, "own", "a.test")
    Path(pair.key).chmod(0o644)
    path = written(
        tmp_path, upstreams={"up": {"endpoints": ["http://127.0.0.1:1"], "auth": {"bearer": {"file": str(key)}}}},
        listeners={"web": {"address": "127.0.0.1:1", "tls": {"certificates": [{"cert": pair.cert, "key": pair.key}]}}},
    )
    Path(path).chmod(0o666)
    found = findings(files, context_of(path))
    warned = {one.subject: one.cure for one in found if one.level == WARNING}
    assert warned == {
        path: f"chmod o-w {path}", str(key): f"chgrp relayd {key} && chmod 0640 {key}",
        pair.key: f"chgrp relayd {pair.key} && chmod 0640 {pair.key}",
    }
    for one in (path, str(key), pair.key):
        Path(one).chmod(0o640)
    assert [one.level for one in findings(files, context_of(path))] == [FINE]


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    assert files.faults(str(tmp_path / "gone"), True)[0].level == UNKNOWN
