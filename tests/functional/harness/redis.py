"""Real Redis servers for tests: one, with TLS or ACL, a replica with Sentinels, a Cluster. Processes end by their ids.

RELAYD_REDIS_SERVER names another program than redis-server, such as valkey-server (`make test-valkey`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from relayd.stores._resp import ErrorReply, ReplyParser, encode_command
from tests.aids.ports import free_port

WANTED = os.environ.get("RELAYD_REDIS_SERVER", "")
PROGRAM = shutil.which(WANTED) if WANTED else shutil.which("redis-server") or shutil.which("valkey-server")
START_S = 60.0


def missing() -> str:
    """Why Redis cannot be used on this machine; empty if it can."""
    if not PROGRAM:
        return f"{WANTED or 'redis-server'} is not installed (apt install redis-server)"
    return "" if importlib.util.find_spec("redis") is not None else "python3-redis is not installed"


def needs_redis() -> pytest.MarkDecorator:
    """Skips tests on a machine without the server or the library."""
    return pytest.mark.skipif(bool(missing()), reason=missing())


class Redis:
    """One server on a free port of 127.0.0.1, which keeps nothing on disk; a context manager.

    `tls`: paths of certificate, key and authority; the port then speaks TLS only. `options`: further settings of redis.conf.
    """

    def __init__(
        self, folder: Path, *options: str, tls: tuple[str, str, str] | None = None, password: str = "", port: int = 0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self.tls, self.password = folder, port or free_port(), tls, password
        self._options = list(options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until commands are answered."""
        plain, secure = (0, self.port) if self.tls else (self.port, 0)
        words = ["--port", str(plain), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder), "--loglevel", "notice"]
        if self.tls:
            cert, key, ca = self.tls
            words += ["--tls-port", str(secure), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca]
            words += ["--tls-auth-clients", "no"]
        if self.password:
            words += ["--requirepass", self.password, "--masterauth", self.password]
        self._run(*words, *self._options)
        self._await()

    def _run(self, *words: str) -> None:
        assert PROGRAM is not None
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen([PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)

    def _await(self) -> None:
        end_s = time.monotonic() + START_S
        while True:
            assert self._process is not None and self._process.poll() is None, (self.folder / "log").read_text()
            try:
                if self.ask("PING") in (b"PONG", None):
                    return
            except (OSError, RuntimeError):
                pass
            assert time.monotonic() < end_s, (self.folder / "log").read_text()
            time.sleep(0.02)

    def kill(self, how: int = signal.SIGKILL) -> None:
        """End the server at once."""
        if self._process is not None:
            self._process.send_signal(how)
            if how != signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)  # a paused server would not end; a killed one must do no more work
            self._process.wait(START_S)
            self._process = None

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def ask(self, *words: str | int | bytes, user: tuple[str, ...] = ()) -> Any:
        """The reply to one command, on a connection of its own. Raises RuntimeError for an error, OSError."""
        login = user or ((self.password,) if self.password else ())
        found: list[Any] = []
        parser = ReplyParser()
        with self._connection() as sock:
            for command in [("AUTH", *login), words] if login else [words]:
                sock.sendall(encode_command(command))
                got = len(found)
                while len(found) == got:
                    data = sock.recv(65536)
                    if not data:
                        raise ConnectionError("closed")
                    found += parser.parse(data)
                if isinstance(found[-1], ErrorReply):
                    raise RuntimeError(found[-1].text)
        return found[-1]

    def _connection(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=START_S)
        if not self.tls:
            return plain
        try:
            return ssl.create_default_context(cafile=self.tls[2]).wrap_socket(plain, server_hostname="127.0.0.1")
        except BaseException:
            plain.close()
            raise

    def keys(self, pattern: str = "*") -> list[str]:
        """The names of the keys of the server, sorted."""
        return sorted(key.decode() for key in self.ask("KEYS", pattern))

    def __enter__(self) -> Redis:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()


class Sentinels:
    """A master, a replica and three Sentinels, which fail over after two seconds: a master of a busy machine may be silent
    for a shorter time. A context manager."""

    MASTER = "shared"

    def __init__(self, folder: Path) -> None:
        self.servers = [Redis(folder / "master"), Redis(folder / "replica")]
        self.servers[1]._options += ["--replicaof", "127.0.0.1", str(self.servers[0].port), "--repl-diskless-sync-delay", "0"]
        self.sentinels = [Redis(folder / f"sentinel-{number}") for number in range(3)]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", one.port) for one in self.sentinels]

    def __enter__(self) -> Sentinels:
        try:
            for server in self.servers:
                server.start()
            until(lambda: b"master_link_status:up" in self.servers[1].ask("INFO", "replication"))
            for sentinel in self.sentinels:
                file = sentinel.folder / "sentinel.conf"
                file.write_text(
                    f"port {sentinel.port}\nbind 127.0.0.1\ndir {sentinel.folder}\nprotected-mode no\n"
                    f"sentinel monitor {self.MASTER} 127.0.0.1 {self.servers[0].port} 2\n"
                    f"sentinel down-after-milliseconds {self.MASTER} 2000\nsentinel failover-timeout {self.MASTER} 3000\n"
                )
                sentinel._run(str(file), "--sentinel")
                sentinel._await()
            until(lambda: all(self._sees_all(one) for one in self.sentinels))
        except BaseException:
            self._end()
            raise
        return self

    def _sees_all(self, sentinel: Redis) -> bool:
        reply = sentinel.ask("SENTINEL", "MASTER", self.MASTER)
        known = dict(zip(reply[::2], reply[1::2], strict=True))
        return bool(known[b"num-slaves"] == b"1" and known[b"num-other-sentinels"] == b"2")

    def master(self) -> Redis:
        """The server that a Sentinel names as the master now."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.MASTER)
        return next(one for one in self.servers if one.port == int(port))

    def cut_replica(self) -> Redis:
        """End the replication, so that the replica lacks what follows. It can be promoted for five seconds."""
        replica = next(one for one in self.servers if one is not self.master())
        replica.ask("CONFIG", "SET", "masterauth", "wrong")
        replica.ask("CLIENT", "KILL", "TYPE", "master")
        until(lambda: b"master_link_status:down" in replica.ask("INFO", "replication"))
        return replica

    def _end(self) -> None:
        for one in (*self.sentinels, *self.servers):
            one.kill()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()


class Cluster:
    """Three masters with a third of the slots each; a context manager."""

    def __init__(self, folder: Path) -> None:
        # The port of the cluster bus is given, because the default is 10,000 above.
        self.nodes = [
            Redis(folder / f"node-{number}", "--cluster-enabled", "yes", "--cluster-port", str(free_port())) for number in range(3)
        ]

    def __enter__(self) -> Cluster:
        try:
            for node in self.nodes:
                node.start()
            share = 16384 // 3 + 1
            for number, node in enumerate(self.nodes):
                node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min(16383, (number + 1) * share - 1))
                node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for node in self.nodes[1:]:
                bus = node._options[3]
                self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
            until(lambda: all(b"cluster_state:ok" in one.ask("CLUSTER", "INFO") for one in self.nodes))
            until(lambda: all(len(one.ask("CLUSTER", "SLOTS")) == 3 for one in self.nodes))
        except BaseException:
            self._end()
            raise
        return self

    def owner(self, slot: int) -> Redis:
        """The node of a slot."""
        for first, last, master, *_ in self.nodes[0].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(one for one in self.nodes if one.port == master[1])
        raise LookupError(slot)

    def move(self, slot: int, target: Redis) -> None:
        """Move an empty or small slot to another node."""
        source = self.owner(slot)
        ids = {one.port: one.ask("CLUSTER", "MYID").decode() for one in (source, target)}
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for one in (target, source):
            one.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])

    def _end(self) -> None:
        for node in self.nodes:
            node.kill()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()


def until(holds: Callable[[], Any], timeout_s: float = START_S) -> Any:
    """Wait until it holds; errors of the server count as not yet."""
    end_s = time.monotonic() + timeout_s
    while True:
        try:
            found = holds()
        except (OSError, RuntimeError):
            found = None
        if found:
            return found
        assert time.monotonic() < end_s, "it has not come true"
        time.sleep(0.02)

