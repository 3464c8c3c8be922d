"""Client of the admin socket of the running relayd, based on http.client."""

from __future__ import annotations

import argparse
import http.client
import os
import pwd
import re
import socket

from relayd.cli.config_file import add_config_option, config_file
from relayd.daemon import admin_socket_path
from relayd.dataclass import dataclass

UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Unreachable(Exception):
    """No daemon responds. The text lists the sockets that were tried, and the errors."""


@dataclass(frozen=True, slots=True)
class AdminResponse:
    """One response of the admin application."""

    status: int
    body: bytes


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(self._path)


def add_socket_options(parser: argparse.ArgumentParser) -> None:
    """Add the options with which every command finds the daemon."""
    add_config_option(parser, "the configuration of the running relayd, which names its admin socket")
    parser.add_argument("--instance", metavar="NAME", help="the instance relayd@NAME.service")
    parser.add_argument("--socket", metavar="PATH", help="path of the admin socket, instead of searching for it")


def seconds(text: str) -> float:
    """Parse a duration argument: `20s`, `500ms`, `1m`, `2h` or plain seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write for example 20s")
    return float(found[1]) * UNITS[found[2]]


def socket_paths(arguments: argparse.Namespace) -> list[str]:
    """The paths of the admin socket to try, in order."""
    if arguments.socket:
        return [str(arguments.socket).removeprefix("unix:")]
    if getattr(arguments, "instance", None):
        return [f"{admin_socket_path.SYSTEM_FOLDER}-{arguments.instance}/admin.sock"]
    path = config_file(arguments)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        text = ""  # the daemon may still use the default path
    return admin_socket_path.candidates(path, text)


def user_name() -> str:
    """The name of the user who runs this command."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def send_request(
    arguments: argparse.Namespace, method: str, target: str, timeout_s: float, body: bytes = b""
) -> AdminResponse:
    """Send one request to the first socket that accepts a connection. Raises Unreachable."""
    failures, denied = [], False
    for path in socket_paths(arguments):
        connection = UnixConnection(path, timeout_s)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            failures.append(f"{path}: {error.strerror or error}")
            denied = denied or isinstance(error, PermissionError)
            continue
        try:
            connection.request(method, target, body or None)
            response = connection.getresponse()
            return AdminResponse(response.status, response.read())
        except TimeoutError as error:
            raise Unreachable(f"{path}: no answer within {timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{path}: {error}") from error
        finally:
            connection.close()
    is_named = arguments.socket or getattr(arguments, "instance", None)
    names = [] if is_named else admin_socket_path.running_instances()
    suggestion = "is relayd running, and may this user open its socket?" if os.getuid() else "is relayd running?"
    if denied:
        suggestion = f"this user may not open the socket: adduser {user_name()} relayd-admin, then log in again"
    elif names:
        suggestion = f"name the instance: {', '.join(f'--instance {name}' for name in names)}"
    raise Unreachable("; ".join(failures) + f" ({suggestion})")
