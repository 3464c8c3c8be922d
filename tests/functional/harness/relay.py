"""The real daemon: started on a written configuration, watched, and ended by its process id."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.aids.ports import free_port
from tests.functional.harness.client import Client, connect
from tests.functional.harness.message import Closed, request
from tests.functional.harness.names import with_hosts

ROOT = Path(__file__).resolve().parents[3]
START_S = 60.0


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with some keys changed; lists are replaced, None takes a key away."""
    result = dict(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


class Relay:
    """One relayd process; a context manager. JSON is YAML, so configurations are written as JSON.

    `url` is the upstream's; the default has one route for everything. `change` is merged over that. `hosts` is a file
    that stands in the place of /etc/hosts for this process alone (harness/names.py); `before` are words in front of the
    command, which must become this command without another process.
    """

    def __init__(
        self, folder: Path, url: str, change: Mapping[str, Any] | None = None, *, nofile: int = 0,
        environment: Mapping[str, str] | None = None, verb: str = "run", hosts: Path | None = None,
        before: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.nofile, self.environment, self.verb = folder, nofile, dict(environment or {}), verb
        self.hosts, self.before = hosts, tuple(before)
        self.port = free_port()
        self.address: tuple[str, int] | str = ("127.0.0.1", self.port)
        self.file = folder / "relayd.yaml"
        self.access_file, self.error_file, self.out_file = folder / "access.log", folder / "stderr", folder / "stdout"
        self.admin_path = str(folder / "admin.sock")
        base: dict[str, Any] = {
            "listeners": {"public": {"address": f"127.0.0.1:{self.port}"}},
            "admin": {"address": f"unix:{self.admin_path}"},
            "upstreams": {"up": {"endpoints": [url]}},
            "routes": [{"name": "all", "match": {"prefix": "/"}, "upstream": "up"}],
            "telemetry": {"access_log": {"format": "json", "file": str(self.access_file)}, "log": {"format": "text"}},
            "daemon": {"drain_timeout": "2s", "overload": {"loop_lag": "off"}},  # a machine may be slow
        }
        self.config = merged(base, change or {})
        self.process: subprocess.Popen[bytes] | None = None
        self.expect_traceback = False
        self._shown = 0

    def write(self, change: Mapping[str, Any] | None = None) -> None:
        self.config = merged(self.config, change or {})
        self.file.write_text(json.dumps(self.config, indent=1))

    def start(self) -> Relay:
        self.write()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **self.environment}
        for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM"):
            if name not in self.environment:
                environment.pop(name, None)

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.nofile, self.nofile))

        with open(self.out_file, "ab") as out, open(self.error_file, "ab") as err:
            self.process = subprocess.Popen(
                [*self.before, *with_hosts(self.hosts), sys.executable, "-m", "relayd", self.verb, "-c", str(self.file)], stdin=subprocess.DEVNULL, stdout=out,
                stderr=err, cwd=self.folder, env=environment, preexec_fn=limit if self.nofile else None,
            )
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Until the listener takes a connection; the wait between two tries is only politeness."""
        end = time.monotonic() + START_S
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"relayd ended with {self.process.returncode}:\n{self.output().decode(errors='replace')}")
            try:
                connect(self.address, timeout_s=1).close()
                connect(self.admin_path, timeout_s=1).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self, timeout_s: float = 60.0) -> int:
        process = self.process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return process.returncode

    def ended(self, timeout_s: float = 60.0) -> int:
        """The exit status of a process that was told to end already; it gets no further signal."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def restore(self) -> bool:
        """Start it again if a test that failed left it ended or ending, which would fail its neighbours too. Returns whether."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(OSError, Closed):
                if self.admin("/ready")[0] == 200:
                    return False
        self.stop()
        self.start()
        return True

    def __enter__(self) -> Relay:
        self.start()
        LIVE.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        LIVE.remove(self)
        code = self.stop()
        self.check_output()
        if kind is None:
            assert code == 0, f"relayd ended with {code}:\n{self.output().decode(errors='replace')}"

    def output(self) -> bytes:
        """Every byte that relayd wrote: its output, its errors, its access log."""
        return b"".join(
            file.read_bytes() for file in (self.out_file, self.error_file, self.access_file) if file.exists()
        )

    def check_output(self) -> None:
        """Fail if relayd has shown an internal fault since the last call: the test that caused it fails, not all after it."""
        if not self.expect_traceback:
            text = self.output()
            shown = text.count(b"Traceback") + text.count(b"ResourceWarning")
            before, self._shown = self._shown, shown
            assert shown <= before, text.decode(errors="replace")

    def client(self, **options: Any) -> Client:
        return Client(self.address, **options)

    def records(self) -> list[dict[str, Any]]:
        if not self.access_file.exists():
            return []
        return [json.loads(line) for line in self.access_file.read_text().splitlines() if line.endswith("}")]

    def record(self, timeout_s: float = 60.0, **wanted: Any) -> dict[str, Any]:
        """The access record that has these values; waits for it, because it is written in batches."""
        end = time.monotonic() + timeout_s
        while True:
            for one in self.records()[::-1]:
                if all(one.get(key) == value for key, value in wanted.items()):
                    return one
            assert time.monotonic() < end, f"no record with {wanted} in {self.records()[-5:]}"
            time.sleep(0.02)

    def admin(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        with Client(self.admin_path) as client:
            message = client.ask(request(path.encode(), b"Connection: close", method=method.encode()))
            return message.status, message.body

    def status(self) -> dict[str, Any]:
        code, body = self.admin("/status")
        assert code == 200, body
        result: dict[str, Any] = json.loads(body)
        return result

    def wait_replaced(self, pid: int) -> None:
        """Wait until another process than this one answers. A request that arrives while the old process ends may be closed
        without an answer; it is asked again."""
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(Closed):
                if self.status()["pid"] != pid:
                    return
            assert time.monotonic() < end, f"process {pid} was not replaced"
            time.sleep(0.02)

    def exchanges(self) -> int:
        """How many exchanges are in flight."""
        found = self.status().get("exchanges", [])
        return len(found) if isinstance(found, list) else int(found.get("open", found.get("active", 0)))

    def wait_quiet(self, timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while self.exchanges():
            assert time.monotonic() < end, self.status()
            time.sleep(0.02)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss_kib(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
        return 0

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def waits(self) -> int:
        """How often the main thread has given up the processor by itself: a loop that spins never does."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

    def hup(self) -> None:
        os.kill(self.pid, signal.SIGHUP)


LIVE: list[Relay] = []


def get(address: tuple[str, int] | str, target: bytes = b"/") -> int:
    """The status of one simple request, 0 when there was no answer."""
    with contextlib.suppress(OSError, Closed), Client(address) as client:
        return client.ask(request(target, b"Connection: close")).status
    return 0
