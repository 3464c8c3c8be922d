"""The keeper: a small parent process that holds relayd's listening sockets while one process takes over from another.

    service manager <-> keeper <-> relayd run (current), relayd run (successor), relayd run (leaving) ...

It speaks sd_notify(3) and sd_listen_fds(3) with the service manager and with `relayd run`, so relayd is the same with
and without it. Reason: streams cannot move to another process, and systemd restarts a service only after its main
process has ended. The keeper is that main process; the process that it leaves behind finishes its streams.

1. A successor takes over only after it has sent READY=1. If it ends before that, nothing changes. It may serve clients
   before that, and so drains at a stop as the others do.
2. A process that starts or reloads has sockets that the keeper does not hold yet. A successor or a restart waits for
   its READY=1, and a reload waits for a successor: only one change runs at a time.
3. Before a restart (SIGUSR1, then SIGTERM) the keeper exits immediately, and its process finishes beside the next one.
   At a stop (SIGTERM alone) it signals every process of the service, waits for all of them, and kills those that
   exceed the drain timeout.
4. It imports no server and no Tornado, makes no decision about requests, and reads no configuration.
5. Its messages to `relayd run` are stable between versions, because a keeper starts newer versions of relayd.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import field

from relayd import clock
from relayd.daemon.descriptors import close_all, connect_manager, identity, inherited_descriptors, renumbered
from relayd.daemon.processes import describe_exit, exit_by_signal, log, service_processes
from relayd.dataclass import dataclass

MESSAGE_BYTES = 64 * 1024
MAX_DESCRIPTORS = 253  # SCM_MAX_FD
READY_TIMEOUT_S = 30.0
DRAIN_S = 90.0  # until the current process reports its drain timeout
GRACE_S = 5.0  # in addition to the drain
POLL_S = 0.2
KEEPER_VARIABLE = "RELAYD_KEEPER"
SUCCESSOR_VARIABLE = "RELAYD_SUCCESSOR"  # set for a successor: the current process continues if it does not start
HANDLED = (
    signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGABRT,
)


@dataclass(slots=True)
class Worker:
    """One `relayd run` process started by the keeper. Owned by the keeper."""

    pid: int
    control: socket.socket
    since: float
    ready: bool = False  # it sent READY=1 and got no command since: the keeper holds its sockets
    disconnected: bool = False  # it has closed its end; SIGCHLD follows
    killed: bool = False  # its READY=1 may arrive all the same, and must not make it the current process
    deferred: list[tuple[bytes, list[int]]] = field(default_factory=list)  # messages of a successor before its READY=1

    def send_command(self, command: str) -> None:
        """Send one command. A process that has ended is noticed by SIGCHLD."""
        with contextlib.suppress(OSError):
            self.control.send(command.encode())

    def discard(self) -> None:
        for _, descriptors in self.deferred:
            close_all(descriptors)
        self.deferred.clear()


class Keeper:
    """Owns the sockets, the processes and the notify socket. One per process; one thread, no event loop."""

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
        self.wait_status: int | None = None  # of the current process, once it has ended
        self._wakeup = socket.socketpair()
        for end in self._wakeup:
            end.setblocking(False)

    # ---- the loop

    def run(self) -> int:
        """Run until stopped, or until the current process ends. Returns the exit status."""
        signal.set_wakeup_fd(self._wakeup[1].fileno(), warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)  # a parent may have blocked some
        self.current = self.start()
        while True:
            if self.wait_status is not None and (not self.stops or not self.other_pids()):
                return self.propagate_exit(self.wait_status)
            self.step()
            if self.may_exit_for_restart():
                return self.exit_for_restart()

    def step(self) -> None:
        """Wait for signals and messages, and handle them."""
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
            slow.since, slow.killed = float("inf"), True
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
        # SIGCHLD and SIGUSR1 first: a decision needs to know which processes have ended, and the reason of a stop.
        # The order of the bytes does not matter: of two pending signals, the handler of the second runs first.
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
            # The watchdog of the service manager: the current process hangs and must be killed.
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
            abandoned = self.abandon_successor()
            if not self.restart_pending:
                self.signal_others(signal.SIGTERM)
            elif abandoned is not None:
                os.kill(abandoned.pid, signal.SIGTERM)

    # ---- one change at a time

    def request_upgrade(self) -> None:
        """Request a successor. Has no effect while one starts."""
        self.upgrade_requested = self.successor is None and not self.stops
        self.start_pending()

    def start_pending(self) -> None:
        """Start a requested change unless another one is running."""
        current = self.current
        if current is None or self.successor is not None:
            return
        if self.reload_requested and (current.ready or self.stops):  # a draining process sends no READY=1
            self.reload_requested = current.ready = False
            current.send_command("reload")
        elif self.upgrade_requested and current.ready and not self.stops:
            self.upgrade_requested = False
            log("info", "starting a new process to take over")
            self.successor = self.start()

    def may_exit_for_restart(self) -> bool:
        """True if a restart was requested and the service manager holds the sockets for the next process."""
        current = self.current
        settled = current is None or current.ready or self.stops > 1
        return self.restart_pending and self.stops > 0 and settled

    def signal_others(self, number: int) -> None:
        """Signal the leaving processes, which a stop ends too."""
        for pid in self.other_pids():
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    # ---- processes

    def start(self) -> Worker:
        """Start one relayd with the held sockets, named as in sd_listen_fds(3)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        named = [(name, number) for name, numbers in self.held.items() for number in numbers]
        pid = os.fork()  # safe: one thread, no event loop
        if pid == 0:
            self._exec_worker(named, theirs.fileno())
        theirs.close()
        ours.setblocking(False)
        return Worker(pid, ours, clock.monotonic())

    def _exec_worker(self, named: list[tuple[str, int]], control: int) -> None:
        """In the child: arrange the descriptors and execute relayd. Does not return."""
        try:
            os.setpgid(0, 0)  # only the keeper gets Ctrl-C of the terminal; it forwards the stop
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
        except BaseException as error:  # rescue door: a failed child must not run on as a second keeper
            log("error", f"cannot start {self.command[0]}: {error}")
        os._exit(127)

    def reap(self) -> None:
        """Collect the child processes that have ended."""
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
        """Make the ready successor the current process. The old one leaves and finishes its exchanges."""
        old = self.current
        self.successor, self.current, worker.ready = None, worker, True
        for message, descriptors in worker.deferred:
            self.forward(message, descriptors)
        worker.deferred = []
        # A ready process is alive. Its own first WATCHDOG=1 follows after half of the watchdog interval, and the last
        # one of its predecessor may be as old: without this one a quick series of upgrades would look like a hang.
        self.notify_manager(b"WATCHDOG=1")
        if old is not None:
            old.send_command("leave")
            self.leaving[old.pid] = old
            log("info", f"pid {worker.pid} has taken over; pid {old.pid} finishes its exchanges")
        self.start_pending()

    def abandon_successor(self) -> Worker | None:
        """The service stops during an upgrade: make the successor a leaving process, which the caller signals."""
        worker, self.successor = self.successor, None
        if worker is not None:
            worker.discard()
            self.leaving[worker.pid] = worker
            if self.current is not None:
                self.current.send_command("refused the service stops")
        return worker

    def successor_failed(self, worker: Worker, status: int) -> None:
        """The successor ended before it was ready: the current process continues."""
        self.successor = None
        worker.discard()
        worker.control.close()
        log("error", f"the new process ended with {describe_exit(status)}; the old one continues to serve")
        if self.current is not None:
            self.current.send_command(f"refused {describe_exit(status)}")
        self.start_pending()

    def propagate_exit(self, status: int) -> int:
        """End as the current process did: by the same signal, or with its exit status."""
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number:
            log("error", f"relayd ended with {describe_exit(status)}")
            exit_by_signal(number)
        return os.waitstatus_to_exitcode(status) if not number else 128 + number

    def exit_for_restart(self) -> int:
        """Exit for a restart: the service manager stores the sockets, and the current process leaves."""
        if self.current is not None:
            self.current.send_command("leave")
        return 0

    def other_pids(self) -> list[int]:
        """The leaving processes of this service, started by this keeper or an earlier one."""
        ours = {os.getpid(), *(worker.pid for worker in (self.current, self.successor) if worker is not None)}
        found = service_processes() if self.environment.get("INVOCATION_ID") else []
        return [pid for pid in dict.fromkeys([*self.leaving, *found]) if pid not in ours]

    # ---- messages

    def receive(self, worker: Worker) -> None:
        """Receive the messages of a process: assignments of sd_notify(3), some with sockets to store."""
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(worker.control, MESSAGE_BYTES, MAX_DESCRIPTORS)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = b"", []
            for number in descriptors:  # a child process inherits only the sockets it is given
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
                if b"READY=1" in lines and not worker.killed:
                    self.promote(worker)
            else:
                close_all(descriptors)

    def forward(self, message: bytes, descriptors: list[int]) -> None:
        """Store or remove sockets, and forward the message to the service manager, which stores them over a restart."""
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
