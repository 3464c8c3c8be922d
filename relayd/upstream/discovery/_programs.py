"""Runs a program with bounds: time, output, its own process group, and almost no environment."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Mapping
from functools import partial

from relayd import process_tree
from relayd.dataclass import dataclass
from relayd.upstream.discovered import LookupFault

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ERROR_BYTES = 4096  # of the end of the error output
SHOWN = 200
OUTPUT, ERRORS = 1, 2


@dataclass(frozen=True, slots=True)
class Account:
    """The user and the groups that a program runs as."""

    user: int
    group: int
    extra_groups: tuple[int, ...]


def account(name: str) -> Account | None:
    """The account of a user; None if relayd itself runs as this user. Blocks. Raises LookupFault if it does not exist, or
    if relayd may not start a program as this user."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise LookupFault(f"there is no user {name}") from None
    if found.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise LookupFault(f"only root can start a program as {name}, and relayd runs as {pwd.getpwuid(os.geteuid()).pw_name}")
    return Account(found.pw_uid, found.pw_gid, tuple(os.getgrouplist(name, found.pw_gid)))


class _Program(asyncio.SubprocessProtocol):
    """Collects the output. `over` is done when the program has ended and its output is closed, or too large."""

    _transport: asyncio.SubprocessTransport

    def __init__(self, most_bytes: int) -> None:
        self.output, self.errors = bytearray(), bytearray()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._most_bytes = most_bytes
        self._open = {"output", "process"}
        self._is_killed = False

    @property
    def runs(self) -> bool:
        """False once the program itself has ended."""
        return "process" in self._open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == ERRORS:
            self.errors = (self.errors + data)[-ERROR_BYTES:]
        elif not self.over.done():
            self.output += data
            if len(self.output) > self._most_bytes:
                self.over.set_exception(LookupFault(f"its output is larger than {self._most_bytes >> 10} KiB"))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == OUTPUT:
            self._end("output")

    def process_exited(self) -> None:
        self._end("process")
        if self._is_killed:
            self._transport.close()

    def kill(self, mark: dict[str, str]) -> None:
        """Kill the program with all processes that it has started, and close its pipes now.

        The transport is closed when the loop knows that the program has ended: it would take the exit status from the loop.
        """
        self._is_killed = True
        process_tree.kill(self._transport.get_pid(), mark)
        for descriptor in (OUTPUT, ERRORS):
            if (pipe := self._transport.get_pipe_transport(descriptor)) is not None:
                pipe.close()
        if not self.runs:
            self._transport.close()

    def _end(self, what: str) -> None:
        self._open.discard(what)
        if not self._open and not self.over.done():
            self.over.set_result(None)

    def last_error(self) -> str:
        """The last line of the error output."""
        lines = self.errors.decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return "".join(sign if sign.isprintable() else "?" for sign in last)[:SHOWN]


_Starting = asyncio.Task[tuple[asyncio.SubprocessTransport, _Program]]
_abandoned: set[_Starting] = set()  # the loop itself keeps no reference to a task


def _kill_started(mark: dict[str, str], starting: _Starting) -> None:
    """Kill a program whose caller was cancelled while it started."""
    _abandoned.discard(starting)
    if not starting.cancelled() and starting.exception() is None:
        starting.result()[1].kill(mark)


async def run(
    argv: tuple[str, ...], timeout_s: float, most_bytes: int, environment: Mapping[str, str], user: Account | None = None
) -> bytes:
    """The output of a program that ends with status 0. Raises LookupFault otherwise. Without `user` it runs as relayd does.

    The program has no terminal and no input. After the timeout, with too much output, or if the caller is cancelled, it
    is killed with all processes that it has started.
    """
    name, mark = argv[0], process_tree.new_mark()
    # The processes exist before the call returns, so a cancellation meanwhile must not lose their group.
    loop = asyncio.get_running_loop()
    starting: _Starting = loop.create_task(loop.subprocess_exec(
        lambda: _Program(most_bytes), *argv, stdin=asyncio.subprocess.DEVNULL, cwd="/", start_new_session=True,
        env={"PATH": PATH, "LANG": "C.UTF-8", **environment, **mark}, user=user and user.user, group=user and user.group,
        extra_groups=user and user.extra_groups,
    ))  # fmt: skip
    try:
        transport, program = await asyncio.shield(starting)
    except asyncio.CancelledError:
        _abandoned.add(starting)
        starting.add_done_callback(partial(_kill_started, mark))
        raise
    except (OSError, ValueError) as error:
        raise LookupFault(f"{name} cannot be started: {getattr(error, 'strerror', None) or error}") from None
    try:
        async with asyncio.timeout(timeout_s):
            await program.over
    except TimeoutError:
        what = "it has not ended" if program.runs else "it has ended, but a process that it has started has not closed its output"
        raise LookupFault(f"{name} was killed: {what} within {timeout_s:g} s") from None
    except LookupFault as fault:
        raise LookupFault(f"{name} was killed: {fault}") from None
    finally:
        if not program.over.done() or program.over.cancelled() or program.over.exception() is not None:
            program.kill(mark)
        else:
            transport.close()
    status = transport.get_returncode()
    if status:
        how = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
        last = program.last_error()
        raise LookupFault(f"{name} {how}{f': {last}' if last else ''}")
    return bytes(program.output)
