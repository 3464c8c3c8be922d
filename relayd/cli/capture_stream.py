"""The stream of a capture: begun over the admin socket, one event per captured exchange, ended by leaving."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

from relayd.cli.admin_client import UnixConnection, Unreachable, socket_paths

START = "/captures/start"
LONGEST_LINE = 1 << 20
CONNECT_S = 5.0


class NotStarted(Exception):
    """The running relayd refused the capture; the text gives its reason."""


def events(arguments: argparse.Namespace, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Begin a capture, and yield its events until it ends or relayd leaves. Raises Unreachable, NotStarted."""
    failures = []
    for path in socket_paths(arguments):
        connection = UnixConnection(path, CONNECT_S)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            why = error.strerror or str(error)
            failures.append(f"{path}: {why}")
            continue
        with contextlib.closing(connection):
            yield from _events(path, connection, settings)
        return
    raise Unreachable("; ".join(failures) + " (is relayd running, and may this user open its socket?)")


def _events(path: str, connection: UnixConnection, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        sock = connection.sock
        connection.request("POST", START, json.dumps(settings).encode())
        response = connection.getresponse()
        if response.status != 200:
            raise NotStarted(reason_of(response.status, response.read()))
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{path}: {error}") from error
    sock.settimeout(None)
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):  # relayd has left, maybe within a line
        while line := response.readline(LONGEST_LINE):
            yield json.loads(line)


def reason_of(status: int, body: bytes) -> str:
    """The message of an error of the admin application."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"it answers {status}; it may be an older one"
