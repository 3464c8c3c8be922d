"""The keeper: a small parent that holds relayd's listening sockets while one process takes over from another.

    service manager <-> keeper <-> relayd run (current), relayd run (successor), relayd run (leaving) ...

It speaks sd_notify(3) and sd_listen_fds(3) upwards and downwards, so that relayd itself is the same process with it and
without it. Why it exists: streams cannot change their process, and a service manager does not start a service again
before its main process is gone. The keeper is that main process; what it leaves behind finishes its streams.

1. A successor takes over only when it has said READY=1; one that ends before changes nothing.
2. A process that starts or reloads has sockets that the keeper does not hold yet. Whatever needs them (a successor, a
   restart) waits for its READY=1, and a reload waits for a successor: there is one change at a time.
3. Before a restart (SIGUSR1, then SIGTERM) the keeper is gone at once, and its process finishes beside the next one.
   Before a stop (SIGTERM alone) it tells every process of the service, waits until all have gone, and ends those that
   stay longer than a drain may take.
4. It loads no server and nothing of Tornado, decides nothing about requests, and reads no configuration.
5. What it says downwards stays as it is from version to version: a keeper starts newer relayds than itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field

from relayd import clock
from relayd.daemon.descriptors import close_all, connect_manager, identity, inherited_descriptors, renumbered
from relayd.daemon.processes import describe_exit, exit_by_signal, log, service_processes

MESSAGE_BYTES = 64 * 1024
MAX_DESCRIPTORS = 253  # SCM_MAX_FD
READY_TIMEOUT_S = 30.0
DRAIN_S = 90.0  # until the process that serves says how long it is
GRACE_S = 5.0  # beyond that
POLL_S = 0.2
KEEPER_VARIABLE = "RELAYD_KEEPER"
SUCCESSOR_VARIABLE = "RELAYD_SUCCESSOR"  # another process serves and goes on if this one does not start
HANDLED = (
    signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGABRT,
)


@dataclass(slots=True)
class Worker:
    """One relayd that the keeper started. Owned by the keeper."""

    pid: int
    control: socket.socket
    since: float
    ready: bool = False  # it has said so, nothing was ordered since, and the keeper holds its sockets
    disconnected: bool = False  # it has closed its end: SIGCHLD will tell the rest
    deferred: list[tuple[bytes, list[int]]] = field(default_factory=list)  # what a successor said before READY=1

    def send_command(self, command: str) -> None:
        """Say one word. One that is gone hears nothing, which its end will tell."""
        with contextlib.suppress(OSError):
            self.control.send(command.encode())

    def discard(self) -> None:
        for _, descriptors in self.deferred:
            close_all(descriptors)
        self.deferred.clear()


class Keeper:
    """Owns the sockets, the processes and the line to the service manager. One per process; one thread, no loop."""

    def __init__(self, command: Sequence[str], environment: MutableMapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.environment = os.environ if environment is None else environment
        self.held = inherited_descriptors(self.environment)
        self.manager = connect_manager(self.environment.pop("NOTIFY_SOCKET", ""))
        self.current: Worker | None = None
        self.successor: Worker | None = None
        self.leaving: dict[int, Worker] = {}
        self.reload_requested = self.upgrade_requested = False
        self.restart_pending = False
        self.stops = 0
        self.drain_s, self.kill_at = DRAIN_S, float("inf")
        self.wait_status: int | None = None  # the wait status of the current process
        self._wakeup = socket.socketpair()
        for end in self._wakeup:
            end.setblocking(False)

    # ---- the loop

    def run(self) -> int:
        """Serve until told to stop, or until the process that serves ends. Its exit status."""
        signal.set_wakeup_fd(self._wakeup[1].fileno(), warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, lambda *_: None)
        self.current = self.start()
        while True:
            if self.wait_status is not None and (not self.stops or not self.other_pids()):
                return self.exit_like(self.wait_status)
            self.step()
            if self.may_exit_for_restart():
                return self.exit_for_restart()

    def step(self) -> None:
        """Wait for signals and messages, and answer them."""
        active = [worker for worker in (self.current, self.successor) if worker is not None and not worker.disconnected]
        workers = {worker.control.fileno(): worker for worker in active}
        poll = select.poll()
        for number in (self._wakeup[0].fileno(), *workers):
            poll.register(number, select.POLLIN)
        waiting = self.successor is not None or self.wait_status is not None
        events = poll.poll(POLL_S * 1000 if waiting else None)
        for number, _ in events:
            if number in workers:
                self.receive(workers[number])
        for number in self.signals():
            self.on_signal(number)
        slow = self.successor
        if slow is not None and clock.monotonic() - slow.since > READY_TIMEOUT_S:
            log("warning", f"pid {slow.pid} was not ready within {READY_TIMEOUT_S:g} s")
            os.kill(slow.pid, signal.SIGKILL)
            slow.since = float("inf")
        if clock.monotonic() > self.kill_at:
            self.kill_at = float("inf")
            self.signal_others(signal.SIGKILL)
        if self.wait_status is not None:
            self.notify_manager(b"EXTEND_TIMEOUT_USEC=5000000\nSTATUS=waiting for older processes to finish")

    def signals(self) -> list[int]:
        try:
            received = list(self._wakeup[0].recv(4096))
        except BlockingIOError:
            return []
        # Who is gone, and why a stop comes, is known before anything is decided. Of two signals that wait, the handler
        # of the second runs first: their order tells nothing.
        return sorted(received, key=lambda number: (number != signal.SIGCHLD, number != signal.SIGUSR1))

    def on_signal(self, number: int) -> None:
        current = self.current
        if number == signal.SIGCHLD:
            self.reap()
        elif number == signal.SIGUSR1:
            self.restart_pending = True
        elif number == signal.SIGUSR2:
            self.request_upgrade()
        elif number == signal.SIGABRT:
            # The service manager's watchdog: the process behind hangs, and only its end helps.
            for worker in (self.current, self.successor):
                if worker is not None:
                    os.kill(worker.pid, signal.SIGKILL)
            exit_by_signal(signal.SIGABRT)
        elif number == signal.SIGHUP:
            self.reload_requested = True
            self.start_pending()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self.stops += 1
            if current is not None and not self.restart_pending:
                current.send_command("stop" if self.stops == 1 else "end")
            if self.successor is not None:
                os.kill(self.successor.pid, signal.SIGKILL)
            if not self.restart_pending:
                self.signal_others(signal.SIGTERM)

    # ---- one change at a time

    def request_upgrade(self) -> None:
        """A successor is wanted; asking again while one starts changes nothing."""
        self.upgrade_requested = self.successor is None and not self.stops
        self.start_pending()

    def start_pending(self) -> None:
        """Begin what was asked for, as soon as nothing else is under way."""
        current = self.current
        if current is None or self.successor is not None:
            return
        if self.reload_requested and (current.ready or self.stops):  # one that drains says READY=1 no more
            self.reload_requested = current.ready = False
            current.send_command("reload")
        elif self.upgrade_requested and current.ready and not self.stops:
            self.upgrade_requested = False
            log("info", "starting a new process to take over")
            self.successor = self.start()

    def may_exit_for_restart(self) -> bool:
        """Whether a restart was asked for, and the sockets are where the next process finds them."""
        current = self.current
        settled = current is None or current.ready or self.stops > 1
        return self.restart_pending and self.stops > 0 and settled

    def signal_others(self, number: int) -> None:
        """To those that still finish: a stop is one for them too."""
        for pid in self.other_pids():
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    # ---- processes

    def start(self) -> Worker:
        """Start one relayd with the sockets held so far, named as sd_listen_fds(3) says."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        named = [(name, number) for name, numbers in self.held.items() for number in numbers]
        pid = os.fork()  # one thread, no loop: nothing is lost by it
        if pid == 0:
            self._exec_worker(named, theirs.fileno())
        theirs.close()
        ours.setblocking(False)
        return Worker(pid, ours, clock.monotonic())

    def _exec_worker(self, named: list[tuple[str, int]], control: int) -> None:
        """In the child: put the descriptors where they are looked for, and become relayd. Does not return."""
        try:
            os.setpgid(0, 0)  # an interrupt from the terminal is for the keeper, who passes it on
            numbers = renumbered([number for _, number in named] + [control])
            environment = {**self.environment, KEEPER_VARIABLE: str(numbers[-1])}
            environment |= {SUCCESSOR_VARIABLE: "1"} if self.current is not None else {}
            if named:
                environment |= {
                    "LISTEN_FDS": str(len(named)), "LISTEN_PID": str(os.getpid()),
                    "LISTEN_FDNAMES": ":".join(name for name, _ in named),
                }
            if "WATCHDOG_USEC" in environment:
                environment["WATCHDOG_PID"] = str(os.getpid())
            os.execve(self.command[0], self.command, environment)
        except BaseException as error:  # rescue door: a child that is not relayd must not live on as a second keeper
            log("error", f"cannot start {self.command[0]}: {error}")
        os._exit(127)

    def reap(self) -> None:
        """See who has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.current is not None and pid == self.current.pid:
                self.receive(self.current)
                self.current.control.close()
                self.current, self.wait_status = None, status
                self.kill_at = clock.monotonic() + self.drain_s + GRACE_S
            elif self.successor is not None and pid == self.successor.pid:
                self.successor_failed(self.successor, status)
            elif pid in self.leaving:
                self.leaving.pop(pid).control.close()

    def promote(self, worker: Worker) -> None:
        """The successor is ready: it is the one that serves, and the other one finishes what it has."""
        old = self.current
        self.successor, self.current, worker.ready = None, worker, True
        for message, descriptors in worker.deferred:
            self.forward(message, descriptors)
        worker.deferred = []
        # Who has become ready is alive. Its own next sign comes after half of the watchdog's time, and the last one of
        # those before it may be as old: processes that follow each other quickly would look like one that hangs.
        self.notify_manager(b"WATCHDOG=1")
        if old is not None:
            old.send_command("leave")
            self.leaving[old.pid] = old
            log("info", f"pid {worker.pid} has taken over; pid {old.pid} finishes what it has")
        self.start_pending()

    def successor_failed(self, worker: Worker, status: int) -> None:
        """The successor ended before it was ready: nothing has changed."""
        self.successor = None
        worker.discard()
        worker.control.close()
        log("error", f"the new process ended with {describe_exit(status)}; the old one goes on serving")
        if self.current is not None:
            self.current.send_command(f"refused {describe_exit(status)}")
        self.start_pending()

    def exit_like(self, status: int) -> int:
        """The process that served has ended: so does the keeper, in the same way."""
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number:
            log("error", f"relayd ended with {describe_exit(status)}")
            exit_by_signal(number)
        return os.waitstatus_to_exitcode(status) if not number else 128 + number

    def exit_for_restart(self) -> int:
        """A restart: the sockets are in the service manager's store, the process finishes, the keeper is gone."""
        if self.current is not None:
            self.current.send_command("leave")
        return 0

    def other_pids(self) -> list[int]:
        """Further processes of this service: those that still finish, started by this keeper or an earlier one."""
        ours = {os.getpid(), *(worker.pid for worker in (self.current, self.successor) if worker is not None)}
        found = service_processes() if self.environment.get("INVOCATION_ID") else []
        return [pid for pid in dict.fromkeys([*self.leaving, *found]) if pid not in ours]

    # ---- messages

    def receive(self, worker: Worker) -> None:
        """Take what a process says: words of sd_notify(3), some with sockets to keep."""
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(worker.control, MESSAGE_BYTES, MAX_DESCRIPTORS)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = b"", []
            for number in descriptors:  # a process of the service gets what it is given, not a copy of everything
                os.set_inheritable(number, False)
            if not message:
                close_all(descriptors)
                worker.disconnected = True
                return
            lines = message.split(b"\n")
            if b"UPGRADE=1" in lines:
                close_all(descriptors)
                self.request_upgrade()
            elif lines[0].startswith(b"RELAYD_DRAIN_S="):
                close_all(descriptors)
                self.drain_s = float(lines[0].partition(b"=")[2])
            elif worker is self.current:
                self.forward(message, descriptors)
                if b"READY=1" in lines or b"RELOADING=1" in lines:
                    worker.ready = b"READY=1" in lines
                    self.start_pending()
            elif worker is self.successor:
                worker.deferred.append((message, descriptors))
                if b"READY=1" in lines:
                    self.promote(worker)
            else:
                close_all(descriptors)

    def forward(self, message: bytes, descriptors: list[int]) -> None:
        """Keep sockets, forget them, and tell the service manager, which keeps them over a restart."""
        assignments = dict(line.split("=", 1) for line in message.decode("utf-8", "replace").split("\n") if "=" in line)
        name = assignments.get("FDNAME", "")
        if assignments.get("FDSTORE") == "1" and name:
            self.notify_manager(message, descriptors)
            known = [identity(number) for number in self.held.get(name, ())]
            for number in descriptors:
                if identity(number) in known:
                    os.close(number)
                else:
                    self.held.setdefault(name, []).append(number)
            return
        if assignments.get("FDSTOREREMOVE") == "1":
            close_all(self.held.pop(name, []))
        close_all(descriptors)
        self.notify_manager(message)

    def notify_manager(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        if self.manager is not None:
            with contextlib.suppress(OSError):
                if descriptors:
                    socket.send_fds(self.manager, [message], list(descriptors))
                else:
                    self.manager.send(message)
