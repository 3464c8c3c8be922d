"""A store that cannot keep says so: in the answer, in the log, in a metric; and nobody waits for it."""

from __future__ import annotations

import contextlib
import json
import resource
import sqlite3
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.dialects.gateway import Gateway, gateway
from tests.functional.harness.dialects.said import Asked, Reply, Say
from tests.functional.harness.faults import metric, until
from tests.functional.harness.message import Message, request


def brain(asked: Asked) -> Reply:
    return Say(("I heard ", str(len(asked.said))))


@contextlib.contextmanager
def running_on(folder: Path, path: Path, **store: Any) -> Iterator[Gateway]:
    with gateway(folder, {"store": {"kind": "sqlite", "path": str(path), **store}}) as running:
        running.backs["openai_chat"].brain = brain
        yield running


def create(running: Gateway, text: str, stream: bool = False, **members: Any) -> dict[str, Any]:
    """The finished response object, as the client gets it."""
    message = running.post("/v1/responses", {"model": "openai_chat", "input": text, "stream": stream, **members})
    assert message.status == 200, message.body
    if not stream:
        whole: dict[str, Any] = json.loads(message.body)
        return whole
    events = [json.loads(line[6:]) for line in message.body.decode().splitlines() if line.startswith("data: {")]
    (last,) = [event["response"] for event in events if event["type"] == "response.completed"]
    found: dict[str, Any] = last
    return found


def continued(running: Gateway, response: dict[str, Any]) -> Message:
    return running.post("/v1/responses", {"model": "openai_chat", "input": "more", "previous_response_id": response["id"]})


def is_told(running: Gateway, response: dict[str, Any], why: str) -> None:
    """The answer, what comes later, the log and the metric say the same."""
    assert response["store"] is False and response["status"] == "completed"
    for refused in (running.send("GET", f"/v1/responses/{response['id']}"), continued(running, response)):
        error = json.loads(refused.body)["error"]
        assert refused.status in (400, 404) and "not found" in error["message"] and why in error["message"], error


def is_logged(running: Gateway, cause: str, cure: str) -> None:
    relay = running.relay
    until(lambda: metric(relay, "relayd_store_failed_total", cause=cause) > 0, what="the count")
    lines = [line for line in relay.error_file.read_text().splitlines() if "store_failed" in line and f"cause={cause}" in line]
    assert len(lines) == 1 and cure in lines[0] and "warning" in lines[0], lines


@pytest.mark.parametrize("how", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_file_that_another_program_holds_is_told_and_delays_nobody(how: str, folder: Path) -> None:
    path = folder / "store.sqlite"
    with running_on(folder / "r", path) as running:
        before = create(running, "before")
        assert before["store"] is True
        other = sqlite3.connect(path, isolation_level=None)
        other.execute(how)
        lost = [create(running, "while it is held", stream) for stream in (False, True, False)]
        for response in lost:
            is_told(running, response, "locked by another program")
        assert continued(running, before).status == 200  # what is there can still be read
        stop, spans = threading.Event(), [0.0]

        def bystander() -> None:
            while not stop.is_set():
                began = time.monotonic()
                with running.relay.client() as client:
                    assert client.ask(request(b"/nothing")).status == 404
                spans.append(time.monotonic() - began)

        thread = threading.Thread(target=bystander)
        thread.start()
        count = 0
        while count < 30 or len(spans) <= 30:
            create(running, "while it is held")
            count += 1
        stop.set()
        thread.join()
        # To wait for the lock would take a quarter of a second for each value, of which a response has several: each
        # request of others would wait for one at least. A busy machine makes some of the spans long.
        assert statistics.median(spans) < 0.25, spans
        is_logged(running, "locked", f"fuser -v {path}")
        assert running.send("DELETE", f"/v1/responses/{before['id']}").status == 200
        assert running.send("GET", f"/v1/responses/{before['id']}").status == 404
        other.execute("ROLLBACK")
        other.close()
        # The writer learns of the end of a lock with its next try.
        after = until(lambda: one if (one := create(running, "afterwards"))["store"] is True else None, what="a stored response")
        assert continued(running, after).status == 200
        until(lambda: sqlite3.connect(path).execute("SELECT count(*) FROM entries WHERE key = ?", (f"response:{before['id']}",)).fetchone() == (0,),
              what="the deletion")  # fmt: skip


def test_a_full_disk_is_told(folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        with running_on(folder / "r", disk / "store.sqlite") as running:
            kept = create(running, "x" * 1000)
            assert kept["store"] is True
            for _ in range(60):
                response = create(running, "x" * 30_000)
                if not response["store"]:
                    break
            is_told(running, response, "store is full")
            assert create(running, "x" * 30_000, stream=True)["store"] is False
            assert continued(running, kept).status == 200
            is_logged(running, "full", f"Free space on the disk of {disk}")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_that_may_not_grow_is_told(folder: Path) -> None:
    path = folder / "store.sqlite"
    with running_on(folder / "r", path) as running:
        kept = create(running, "x" * 1000)
        running.relay.write({})
        size = max(file.stat().st_size for file in (path, path.with_name(path.name + "-wal"), running.relay.access_file))
        resource.prlimit(running.relay.pid, resource.RLIMIT_FSIZE, (size + 100_000, size + 100_000))
        for _ in range(30):
            response = create(running, "x" * 30_000)
            if not response["store"]:
                break
        is_told(running, response, "cannot be written")
        assert continued(running, kept).status == 200
        is_logged(running, "failed", "Check the disk")


def test_a_damaged_file_is_replaced_and_told(folder: Path) -> None:
    path = folder / "store.sqlite"
    with running_on(folder / "r", path) as running:
        made = [create(running, "x" * 400_000) for _ in range(20)]
        assert running.relay.stop() == 0
        running.relay.start()
        with path.open("r+b") as file:  # behind the first page, which says what the file is
            size = file.seek(0, 2)
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        answers = [running.send("GET", f"/v1/responses/{one['id']}") for one in made]
        assert all(answer.status == 404 for answer in answers)
        until(lambda: path.with_name(path.name + ".unusable").exists(), what="a new file")
        after = create(running, "afterwards")
        assert after["store"] is True and continued(running, after).status == 200
        until(lambda: "store_notice" in running.relay.error_file.read_text(), what="the notice")


def test_a_response_that_is_too_large_is_told(folder: Path) -> None:
    for kind in ("sqlite", "memory"):
        store = {"kind": kind, "path": str(folder / "s.sqlite")} if kind == "sqlite" else {"kind": kind}
        with gateway(folder / kind, {"store": {**store, "size": "200KiB"}}) as running:
            running.backs["openai_chat"].brain = brain
            assert create(running, "x" * 1000)["store"] is True
            is_told(running, create(running, "x" * 100_000), "a quarter of the gateway's store")
            assert create(running, "x" * 100_000, store=False)["store"] is False
            is_logged(running, "too_large", "raise `store: size`")
