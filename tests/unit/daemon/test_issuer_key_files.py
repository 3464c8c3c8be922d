"""Key documents of issuers in the state directory."""

from __future__ import annotations

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from relayd.daemon.issuer_key_files import LONGEST_KEPT_S, path_of, read_document, write_document

URL, OTHER = "https://issuer.example/keys?tenant=7", "https://issuer.example/keys?tenant=8"


def aged(path: str, age_s: float) -> None:
    os.utime(path, (time.time() - age_s,) * 2)


def test_a_document_is_kept_for_its_url_and_its_time(tmp_path: Path) -> None:
    assert write_document(str(tmp_path), URL, b"first") == ""
    assert write_document(str(tmp_path), URL, b"keys") == ""
    path = path_of(str(tmp_path), URL)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600 and "tenant" not in path
    aged(path, 100)
    data, age_s = read_document(str(tmp_path), URL, 200) or (b"", 0.0)
    assert data == b"keys" and 99 < age_s < 199
    assert read_document(str(tmp_path), URL, 50) is None
    assert read_document(str(tmp_path), OTHER, 200) is None


def test_old_documents_are_removed(tmp_path: Path) -> None:
    write_document(str(tmp_path), OTHER, b"old")
    aged(path_of(str(tmp_path), OTHER), LONGEST_KEPT_S + 60)
    write_document(str(tmp_path), URL, b"keys")
    assert os.listdir(os.path.dirname(path_of(str(tmp_path), URL))) == [os.path.basename(path_of(str(tmp_path), URL))]


def test_a_folder_that_cannot_be_written_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "issuer_keys").write_text("a file")
    assert "issuer_keys" in write_document(str(tmp_path), URL, b"keys")


def test_writers_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    documents = [bytes([number]) * 200_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert set(pool.map(lambda data: write_document(str(tmp_path), URL, data), documents)) == {""}
    data, _ = read_document(str(tmp_path), URL, 200) or (b"", 0.0)
    assert data in documents
    assert os.listdir(os.path.dirname(path_of(str(tmp_path), URL))) == [os.path.basename(path_of(str(tmp_path), URL))]
