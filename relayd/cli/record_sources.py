"""Sources of access records for `relayd tail`: the admin socket, the journal, a file. Each yields records as dicts.

A source waits for the next record; it ends with its process or file only if that cannot come back.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator

from relayd.cli.admin_client import UnixConnection, Unreachable, socket_paths
from relayd.telemetry.record_filter import JsonRecord

RECORDS = "/records"
CONNECT_S = 5.0
RETRY_S = 0.5
POLL_S = 0.2
LONGEST_LINE = 1 << 20
NUMBERS = ("status", "attempts", "generation", "bytes_in", "bytes_out")
EVENT = "request_completed"

Pause = Callable[[float], object]
Notify = Callable[[str], object]


def from_socket(arguments: argparse.Namespace, notify: Notify, pause: Pause) -> Iterator[JsonRecord]:
    """The records of the running relayd, also of its successors. Raises Unreachable if none runs at the start.

    `notify` gets messages: that records were dropped because this reader is slow, that the stream was interrupted.
    """
    stream: RecordStream | None = connect(arguments)
    while True:
        if stream is not None:
            with contextlib.closing(stream):
                for record in stream.records():
                    if record.get("event") == "records_dropped":
                        notify(f"{record.get('count')} records were dropped: this reader is too slow")
                    elif record.get("event") == EVENT:
                        yield record
            notify("the stream ended: relayd stops or is replaced; waiting for it")
        pause(RETRY_S)
        try:
            stream = connect(arguments)
        except Unreachable:
            stream = None


class RecordStream:
    """An open stream of records."""

    def __init__(self, connection: UnixConnection, response: http.client.HTTPResponse) -> None:
        self._connection, self._response = connection, response

    def records(self) -> Iterator[JsonRecord]:
        """Every line, until the stream ends or breaks."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            while line := self._response.readline(LONGEST_LINE):
                if (record := parsed(line)) is not None:
                    yield record

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def connect(arguments: argparse.Namespace) -> RecordStream:
    """Open the stream. Raises Unreachable."""
    failures = []
    for path in socket_paths(arguments):
        connection = UnixConnection(path, CONNECT_S)
        try:
            connection.connect()
            sock = connection.sock  # http.client drops it if the response announces no further one
            connection.request("GET", RECORDS)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            failures.append(f"{path}: {getattr(error, 'strerror', None) or error}")
            continue
        stream = RecordStream(connection, response)
        if response.status == 200:
            sock.settimeout(None)
            return stream
        stream.close()
        raise Unreachable(f"{path}: the running relayd answers {response.status}; it may be an older one")
    raise Unreachable("; ".join(failures))


def parsed(line: bytes | str) -> JsonRecord | None:
    """A line of JSON as a record; None for anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def from_file(path: str, pause: Pause, *, follow: bool) -> Iterator[JsonRecord]:
    """The records of an access log with JSON lines. With `follow` only new ones, also after a rotation or truncation.

    Raises OSError if the file cannot be opened.
    """
    file = open(path, "rb")  # noqa: SIM115 - replaced after a rotation, and closed below
    try:
        if follow:
            file.seek(0, os.SEEK_END)
        pending = b""
        while True:
            piece = file.readline(LONGEST_LINE)
            if piece.endswith(b"\n") or len(piece) >= LONGEST_LINE:
                if (record := parsed(pending + piece)) is not None and record.get("event") == EVENT:
                    yield record
                pending = b""
                continue
            pending = (pending + piece)[:LONGEST_LINE]
            if not follow:
                if (record := parsed(pending)) is not None and record.get("event") == EVENT:
                    yield record  # the last line has no end
                return
            pause(POLL_S)
            if (fresh := _reopened(path, file.fileno(), file.tell())) >= 0:
                file.close()
                file, pending = os.fdopen(fresh, "rb"), b""
    finally:
        file.close()


def _reopened(path: str, descriptor: int, position: int) -> int:
    """A descriptor of the new file of this path, -1 if it is the same file as before."""
    try:
        now, old = os.stat(path), os.fstat(descriptor)
        if (now.st_dev, now.st_ino) == (old.st_dev, old.st_ino) and now.st_size >= position:
            return -1
        return os.open(path, os.O_RDONLY)
    except OSError:  # it is being rotated
        return -1


def from_journal(unit: str) -> Iterator[JsonRecord]:
    """The records that a service writes into the journal, in native fields or as JSON. Raises OSError."""
    command = ["journalctl", "-u", unit, "-f", "-n", "0", "-o", "json", "--all"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                entry = parsed(line)
                if entry is not None and (record := record_of(entry)) is not None:
                    yield record
        finally:
            process.terminate()


def record_of(entry: JsonRecord) -> JsonRecord | None:
    """The access record of a journal entry; None if it is another message."""
    if entry.get("RELAYD_EVENT") != EVENT:
        message = entry.get("MESSAGE")
        record = parsed(message) if isinstance(message, str) and message.startswith("{") else None
        return record if record is not None and record.get("event") == EVENT else None
    prefix = "RELAYD_"
    record = {name.removeprefix(prefix).lower(): value for name, value in entry.items() if name.startswith(prefix)}
    for name, value in record.items():
        if (name in NUMBERS or name.endswith("_ms") or name.startswith("tokens_")) and isinstance(value, str):
            record[name] = _number(value)
    stamp = entry.get("__REALTIME_TIMESTAMP")
    if isinstance(stamp, str) and stamp.isdigit():
        moment_s = int(stamp) / 1e6
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment_s))
        record["time"] = f"{seconds}.{int(moment_s % 1 * 1000):03d}Z"
    return record


def _number(text: str) -> float | int | str:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text
