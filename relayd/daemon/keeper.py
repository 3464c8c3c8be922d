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
from relayd.daemon.descriptors import close_all, connected, identity, inherited, rearranged
from relayd.daemon.processes import end_by, say, service_processes, told

MESSAGE_BYTES = 64 * 1024
MOST_DESCRIPTORS = 253  # SCM_MAX_FD
READY_TIMEOUT_S = 30.0
DRAIN_S = 90.0  # until the process that serves says how long it is
PATIENCE_S = 5.0  # beyond that
LOOK_AGAIN_S = 0.2
VARIABLE = "RELAYD_KEEPER"
SUCCESSOR = "RELAYD_SUCCESSOR"  # another process serves and goes on if this one does not start
HEARD = (
    signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGABRT,
)


@dataclass(slots=True)
class Worker:
    """One relayd that the keeper started. Owned by the keeper."""

    pid: int
    control: socket.socket
    since: float
    ready: bool = False  # it has said so, nothing was ordered since, and the keeper holds its sockets
    silent: bool = False  # it has closed its end: SIGCHLD will tell the rest
    held_back: list[tuple[bytes, list[int]]] = field(default_factory=list)  # what a successor said before READY=1

    def order(self, word: str) -> None:
        """Say one word. One that is gone hears nothing, which its end will tell."""
        with contextlib.suppress(OSError):
            self.control.send(word.encode())

    def discard(self) -> None:
        for _, descriptors in self.held_back:
            close_all(descriptors)
        self.held_back.clear()


class Keeper:
    """Owns the sockets, the processes and the line to the service manager. One per process; one thread, no loop."""

    def __init__(self, command: Sequence[str], environment: MutableMapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.environment = os.environ if environment is None else environment
        self.held = inherited(self.environment)
        self.manager = connected(self.environment.pop("NOTIFY_SOCKET", ""))
        self.current: Worker | None = None
        self.successor: Worker | None = None
        self.leaving: dict[int, Worker] = {}
        self.reload_asked = self.upgrade_asked = False
        self.restart_comes = False
        self.stops = 0
        self.drain_s, self.patience_ends = DRAIN_S, float("inf")
        self.ended: int | None = None  # the wait status of the current process
        self._wakeup = socket.socketpair()
        for end in self._wakeup:
            end.setblocking(False)

    # ---- the loop

    def run(self) -> int:
        """Serve until told to stop, or until the process that serves ends. Its exit status."""
        signal.set_wakeup_fd(self._wakeup[1].fileno(), warn_on_full_buffer=False)
        for number in HEARD:
            signal.signal(number, lambda *_: None)
        self.current = self.start()
        while True:
            if self.ended is not None and (not self.stops or not self.others()):
                return self.finished(self.ended)
            self.turn()
            if self.may_leave_behind():
                return self.left_behind()

    def turn(self) -> None:
        """Wait for signals and messages, and answer them."""
        both = [worker for worker in (self.current, self.successor) if worker is not None and not worker.silent]
        workers = {worker.control.fileno(): worker for worker in both}
        poll = select.poll()
        for number in (self._wakeup[0].fileno(), *workers):
            poll.register(number, select.POLLIN)
        waiting = self.successor is not None or self.ended is not None
        events = poll.poll(LOOK_AGAIN_S * 1000 if waiting else None)
        for number, _ in events:
            if number in workers:
                self.listen(workers[number])
        for number in self.signals():
            self.on_signal(number)
        late = self.successor
        if late is not None and clock.monotonic() - late.since > READY_TIMEOUT_S:
            say("warning", f"pid {late.pid} was not ready within {READY_TIMEOUT_S:g} s")
            os.kill(late.pid, signal.SIGKILL)
            late.since = float("inf")
        if clock.monotonic() > self.patience_ends:
            self.patience_ends = float("inf")
            self.signal_others(signal.SIGKILL)
        if self.ended is not None:
            self.tell(b"EXTEND_TIMEOUT_USEC=5000000\nSTATUS=waiting for older processes to finish")

    def signals(self) -> list[int]:
        try:
            heard = list(self._wakeup[0].recv(4096))
        except BlockingIOError:
            return []
        # Who is gone, and why a stop comes, is known before anything is decided. Of two signals that wait, the handler
        # of the second runs first: their order tells nothing.
        return sorted(heard, key=lambda number: (number != signal.SIGCHLD, number != signal.SIGUSR1))

    def on_signal(self, number: int) -> None:
        current = self.current
        if number == signal.SIGCHLD:
            self.reap()
        elif number == signal.SIGUSR1:
            self.restart_comes = True
        elif number == signal.SIGUSR2:
            self.ask_upgrade()
        elif number == signal.SIGABRT:
            # The service manager's watchdog: the process behind hangs, and only its end helps.
            for worker in (self.current, self.successor):
                if worker is not None:
                    os.kill(worker.pid, signal.SIGKILL)
            end_by(signal.SIGABRT)
        elif number == signal.SIGHUP:
            self.reload_asked = True
            self.go_on()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self.stops += 1
            if current is not None and not self.restart_comes:
                current.order("stop" if self.stops == 1 else "end")
            if self.successor is not None:
                os.kill(self.successor.pid, signal.SIGKILL)
            if not self.restart_comes:
                self.signal_others(signal.SIGTERM)

    # ---- one change at a time

    def ask_upgrade(self) -> None:
        """A successor is wanted; asking again while one starts changes nothing."""
        self.upgrade_asked = self.successor is None and not self.stops
        self.go_on()

    def go_on(self) -> None:
        """Begin what was asked for, as soon as nothing else is under way."""
        current = self.current
        if current is None or self.successor is not None:
            return
        if self.reload_asked and (current.ready or self.stops):  # one that drains says READY=1 no more
            self.reload_asked = current.ready = False
            current.order("reload")
        elif self.upgrade_asked and current.ready and not self.stops:
            self.upgrade_asked = False
            say("info", "starting a new process to take over")
            self.successor = self.start()

    def may_leave_behind(self) -> bool:
        """Whether a restart was asked for, and the sockets are where the next process finds them."""
        current = self.current
        settled = current is None or current.ready or self.stops > 1
        return self.restart_comes and self.stops > 0 and settled

    def signal_others(self, number: int) -> None:
        """To those that still finish: a stop is one for them too."""
        for pid in self.others():
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    # ---- processes

    def start(self) -> Worker:
        """Start one relayd with the sockets held so far, named as sd_listen_fds(3) says."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        named = [(name, number) for name, numbers in self.held.items() for number in numbers]
        pid = os.fork()  # one thread, no loop: nothing is lost by it
        if pid == 0:
            self._become(named, theirs.fileno())
        theirs.close()
        ours.setblocking(False)
        return Worker(pid, ours, clock.monotonic())

    def _become(self, named: list[tuple[str, int]], control: int) -> None:
        """In the child: put the descriptors where they are looked for, and become relayd. Does not return."""
        try:
            os.setpgid(0, 0)  # an interrupt from the terminal is for the keeper, who passes it on
            numbers = rearranged([number for _, number in named] + [control])
            environment = {**self.environment, VARIABLE: str(numbers[-1])}
            environment |= {SUCCESSOR: "1"} if self.current is not None else {}
            if named:
                environment |= {
                    "LISTEN_FDS": str(len(named)), "LISTEN_PID": str(os.getpid()),
                    "LISTEN_FDNAMES": ":".join(name for name, _ in named),
                }
            if "WATCHDOG_USEC" in environment:
                environment["WATCHDOG_PID"] = str(os.getpid())
            os.execve(self.command[0], self.command, environment)
        except BaseException as error:  # rescue door: a child that is not relayd must not live on as a second keeper
            say("error", f"cannot start {self.command[0]}: {error}")
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
                self.listen(self.current)
                self.current.control.close()
                self.current, self.ended = None, status
                self.patience_ends = clock.monotonic() + self.drain_s + PATIENCE_S
            elif self.successor is not None and pid == self.successor.pid:
                self.failed(self.successor, status)
            elif pid in self.leaving:
                self.leaving.pop(pid).control.close()

    def taken_over(self, worker: Worker) -> None:
        """The successor is ready: it is the one that serves, and the other one finishes what it has."""
        old = self.current
        self.successor, self.current, worker.ready = None, worker, True
        for message, descriptors in worker.held_back:
            self.passed_on(message, descriptors)
        worker.held_back = []
        # Who has become ready is alive. Its own next sign comes after half of the watchdog's time, and the last one of
        # those before it may be as old: processes that follow each other quickly would look like one that hangs.
        self.tell(b"WATCHDOG=1")
        if old is not None:
            old.order("leave")
            self.leaving[old.pid] = old
            say("info", f"pid {worker.pid} has taken over; pid {old.pid} finishes what it has")
        self.go_on()

    def failed(self, worker: Worker, status: int) -> None:
        """The successor ended before it was ready: nothing has changed."""
        self.successor = None
        worker.discard()
        worker.control.close()
        say("error", f"the new process ended with {told(status)}; the old one goes on serving")
        if self.current is not None:
            self.current.order(f"refused {told(status)}")
        self.go_on()

    def finished(self, status: int) -> int:
        """The process that served has ended: so does the keeper, in the same way."""
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number:
            say("error", f"relayd ended with {told(status)}")
            end_by(number)
        return os.waitstatus_to_exitcode(status) if not number else 128 + number

    def left_behind(self) -> int:
        """A restart: the sockets are in the service manager's store, the process finishes, the keeper is gone."""
        if self.current is not None:
            self.current.order("leave")
        return 0

    def others(self) -> list[int]:
        """Further processes of this service: those that still finish, started by this keeper or an earlier one."""
        ours = {os.getpid(), *(worker.pid for worker in (self.current, self.successor) if worker is not None)}
        found = service_processes() if self.environment.get("INVOCATION_ID") else []
        return [pid for pid in dict.fromkeys([*self.leaving, *found]) if pid not in ours]

    # ---- messages

    def listen(self, worker: Worker) -> None:
        """Take what a process says: words of sd_notify(3), some with sockets to keep."""
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(worker.control, MESSAGE_BYTES, MOST_DESCRIPTORS)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = b"", []
            for number in descriptors:  # a process of the service gets what it is given, not a copy of everything
                os.set_inheritable(number, False)
            if not message:
                close_all(descriptors)
                worker.silent = True
                return
            lines = message.split(b"\n")
            if b"UPGRADE=1" in lines:
                close_all(descriptors)
                self.ask_upgrade()
            elif lines[0].startswith(b"RELAYD_DRAIN_S="):
                close_all(descriptors)
                self.drain_s = float(lines[0].partition(b"=")[2])
            elif worker is self.current:
                self.passed_on(message, descriptors)
                if b"READY=1" in lines or b"RELOADING=1" in lines:
                    worker.ready = b"READY=1" in lines
                    self.go_on()
            elif worker is self.successor:
                worker.held_back.append((message, descriptors))
                if b"READY=1" in lines:
                    self.taken_over(worker)
            else:
                close_all(descriptors)

    def passed_on(self, message: bytes, descriptors: list[int]) -> None:
        """Keep sockets, forget them, and tell the service manager, which keeps them over a restart."""
        words = dict(line.split("=", 1) for line in message.decode("utf-8", "replace").split("\n") if "=" in line)
        name = words.get("FDNAME", "")
        if words.get("FDSTORE") == "1" and name:
            self.tell(message, descriptors)
            there = [identity(number) for number in self.held.get(name, ())]
            for number in descriptors:
                if identity(number) in there:
                    os.close(number)
                else:
                    self.held.setdefault(name, []).append(number)
            return
        if words.get("FDSTOREREMOVE") == "1":
            close_all(self.held.pop(name, []))
        close_all(descriptors)
        self.tell(message)

    def tell(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        if self.manager is not None:
            with contextlib.suppress(OSError):
                if descriptors:
                    socket.send_fds(self.manager, [message], list(descriptors))
                else:
                    self.manager.send(message)
