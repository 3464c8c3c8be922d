"""Where records come from: a file that is rotated, the journal's two forms, the stream of the admin socket."""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relayd.cli.admin_client import Unreachable
from relayd.cli.record_sources import from_file, from_journal, from_socket, record_of


def written(number: int) -> str:
    return json.dumps({"event": "request_completed", "id": number}) + "\n"


def test_a_file_is_followed_over_rotation_truncation_and_halves_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text(written(0) + "no JSON\n" + json.dumps({"event": "other"}) + "\n[1]\n")

    def append(text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    steps: list[Callable[[], object]] = [
        lambda: append(written(1)[:9]), lambda: append(written(1)[9:]), lambda: os.rename(path, tmp_path / "access.log.1"),
        lambda: path.write_text(written(2)), lambda: path.write_text(""), lambda: append(written(3)),
    ]
    followed = from_file(str(path), lambda _: steps.pop(0)(), follow=True)
    assert [next(followed)["id"] for _ in range(3)] == [1, 2, 3]
    followed.close()  # type: ignore[attr-defined]
    assert list(from_file(str(path), lambda _: 0, follow=False)) == [{"event": "request_completed", "id": 3}]
    with pytest.raises(FileNotFoundError):
        next(from_file(str(tmp_path / "gone"), lambda _: 0, follow=True))


def test_an_entry_of_the_journal_is_a_record_in_both_forms() -> None:
    native = {
        "RELAYD_EVENT": "request_completed", "RELAYD_STATUS": "503", "RELAYD_TOTAL_MS": "12.5", "RELAYD_ROUTE": "llm",
        "RELAYD_TOKENS_INPUT": "7", "MESSAGE": "x", "__REALTIME_TIMESTAMP": "1700000000500000", "RELAYD_QUEUE_MS": "x",
    }
    assert record_of(native) == {
        "event": "request_completed", "status": 503, "total_ms": 12.5, "route": "llm", "tokens_input": 7, "queue_ms": "x",
        "time": "2023-11-14T22:13:20.500Z",
    }
    assert record_of({"MESSAGE": written(1)}) == {"event": "request_completed", "id": 1}
    for message in ("started", "{", '{"event": "other"}', [1, 2]):
        assert record_of({"MESSAGE": message}) is None


def test_the_journal_is_followed_by_its_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = json.dumps({"MESSAGE": written(5)})
    (tmp_path / "journalctl").write_text(f"#!/bin/sh\necho 'junk'\nprintf '%s\\n' '{entry}'\nexec sleep 60\n")
    (tmp_path / "journalctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    followed = from_journal("relayd.service")
    assert next(followed)["id"] == 5
    followed.close()  # type: ignore[attr-defined]  # ends the program too


class Streams:
    """An admin socket that sends each client the next of its responses."""

    def __init__(self, folder: Path, *responses: bytes) -> None:
        self.path, self._responses = str(folder / "admin.sock"), list(responses)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        with self._listener:
            for response in self._responses:
                client, _ = self._listener.accept()
                with client:
                    client.recv(65536)
                    client.sendall(response)


def stream(*lines: dict[str, Any]) -> bytes:
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def test_a_stream_is_followed_to_the_next_process_and_losses_are_told(tmp_path: Path) -> None:
    record = {"event": "request_completed", "id": 1}
    served = Streams(
        tmp_path, stream({"event": "records_follow"}, record, {"event": "records_dropped", "count": 4}),
        b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", stream({**record, "id": 2}),
    )
    told: list[str] = []
    arguments = argparse.Namespace(socket=served.path)
    records = from_socket(arguments, told.append, lambda _: None)
    assert [next(records)["id"] for _ in range(2)] == [1, 2]
    assert told[0] == "4 records were dropped: this reader is too slow" and "the stream ended" in told[1]
    served.thread.join(60)


def test_no_relayd_and_an_older_one(tmp_path: Path) -> None:
    arguments = argparse.Namespace(socket=str(tmp_path / "admin.sock"))
    with pytest.raises(Unreachable, match="No such file"):
        next(from_socket(arguments, print, lambda _: None))
    served = Streams(tmp_path, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(Unreachable, match="answers 404"):
        next(from_socket(arguments, print, lambda _: None))
    served.thread.join(60)
