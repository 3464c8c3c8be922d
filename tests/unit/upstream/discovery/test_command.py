"""`discovery: {command: ...}`: the contract, and programs that hang, flood, fork, crash and print nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.schema import Duration
from relayd.upstream.discovered import Address, LookupFault
from relayd.upstream.discovery import _programs
from tests.unit.config.section_case import accepted, faults
from tests.unit.upstream.discovery.contract import WAIT_S, Contract, Source


class Program(Source):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "where-is"
        self.script("exit 0")

    def script(self, text: str) -> None:
        beside = self.folder / "new"
        beside.write_text(f"#!/bin/sh\n{text}\n")
        beside.chmod(0o755)
        os.rename(beside, self.path)

    def options(self) -> dict[str, Any]:
        return {"argv": (str(self.path), "ai"), "interval": Duration(0.05), "timeout": Duration(10)}

    async def set(self, *urls: str) -> None:
        self.script("\n".join(f"echo '{url}'" for url in urls))

    async def fail(self) -> None:
        self.script("echo first >&2; echo there is no app called $1 >&2; exit 3")


def processes_with(word: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            if word.encode() in Path(f"/proc/{int(name)}/cmdline").read_bytes().split(b"\0"):
                found.append(int(name))
    return found


async def none_left(word: str) -> None:
    """Wait until no process has this argument."""
    async with asyncio.timeout(60):
        while processes_with(word):
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def killed_at_the_end(words: list[str]) -> Iterator[None]:
    """What a failed test has left."""
    try:
        yield
    finally:
        for word in words:
            for pid in processes_with(word):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter. The one of pytest is below a folder that each start of pytest closes to others."""
    with tempfile.TemporaryDirectory(prefix="relayd-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


class TestCommand(Contract):
    kind = "command"

    @contextlib.asynccontextmanager
    async def source(self, folder: Path) -> AsyncIterator[Program]:
        yield Program(folder)

    @pytest.mark.parametrize("text", [
        "echo '# found'; echo; echo '  http://a:1/v1  '; echo b.internal:2; echo '[::1]:3'",
        "echo '[\"http://a:1/v1\", \"http://b.internal:2\", {\"url\": \"http://[::1]:3\"}]'",
        "printf 'http://a:1/v1\\r\\nb.internal:2\\r\\n[::1]:3'",
    ])
    async def test_lines_and_json(self, tmp_path: Path, text: str) -> None:
        source = Program(tmp_path)
        source.script(text)
        async with self.at_work(source) as reports:
            await reports.until_found("http://a:1/v1", "http://b.internal:2", "http://[::1]:3")

    async def test_json_has_weights(self, tmp_path: Path) -> None:
        source = Program(tmp_path)
        source.script(f"echo '{json.dumps({'endpoints': [{'url': 'http://a:1', 'weight': 7, 'priority': 2}]})}'")
        async with self.at_work(source) as reports:
            await reports.until_count(1)
            assert reports.addresses == (Address("http://a:1", 7, 2),)

    @pytest.mark.parametrize(("script", "fault"), [
        ("echo one >&2; echo two >&2; exit 3", "ended with status 3: two"),
        ("kill -9 $$", "was ended by signal 9"),
        ("exec 1>&-; printf '\\033[31mred\\007' >&2; exit 1", "ended with status 1: ?[31mred?"),
        ("yes http://a:1", "was killed: its output is larger than 64 KiB"),
        ("yes >&2", "was killed: it has not ended within 0.3 s"),
        ("sleep 60 & echo http://a:1", "was killed: it has ended, but a process that it has started has not closed its output within 0.3 s"),
        ("sleep 60", "was killed: it has not ended within 0.3 s"),
        ("trap '' TERM INT HUP; while :; do sleep 60; done", "was killed: it has not ended within 0.3 s"),
        ("echo http://a:1; echo wherever", "where-is:2: is neither a URL nor host:port"),
        ("echo http://a:1; echo http://u:secret@b:2", "contains user information"),
        ("echo '[\"http://a:1\"'", "output of"),
        ("echo \"http://a'b:1\"", "output of"),
        ("head -c 1000 /dev/urandom", "output of"),
    ])
    async def test_what_goes_wrong_is_named_and_the_old_addresses_stay(self, tmp_path: Path, script: str, fault: str) -> None:
        source = Program(tmp_path)
        await source.set("http://a:1")
        async with self.at_work(source, timeout=Duration(0.3)) as reports:
            await reports.until_found("http://a:1")
            source.script(script)
            reason = await reports.until_failed(fault)
            assert "secret" not in reason and reason.isprintable() and len(reason) < 500
            assert reports.found_last == ("http://a:1",)

    async def test_the_loop_learns_the_end_of_each_killed_program(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Otherwise asyncio logs each of them: its exit status was read by another party."""
        source = Program(tmp_path)
        source.script("exec head -c 200000 /dev/zero")
        for _ in range(30):
            with pytest.raises(LookupFault, match="larger than 1 KiB"):
                await _programs.run((str(source.path),), WAIT_S, 1024, {})
        await none_left(str(source.path))
        assert caplog.text == ""

    @pytest.mark.parametrize("options", [{"argv": ("/nowhere/at-all",)}, {"argv": ("/etc/passwd",)}])
    async def test_a_program_that_cannot_be_started_is_a_fault(self, tmp_path: Path, options: dict[str, Any]) -> None:
        source = Program(tmp_path)
        assert len(list(self.made(source, **options).cautions())) == 1
        async with self.at_work(source, **options) as reports:
            assert "cannot be started" in await reports.until_failed()

    async def test_children_are_killed_with_the_program(self, tmp_path: Path) -> None:
        source = Program(tmp_path)
        unique = f"7{os.getpid()}77"
        source.script(f"sleep {unique} & sleep {unique}")
        async with self.at_work(source, timeout=Duration(0.3)) as reports:
            await reports.until_failed("was killed")
            source.script("exit 0")
            await reports.until_found()
            await none_left(unique)

    @pytest.mark.parametrize("start", ["setsid sleep {0} &", "(setsid sleep {0} >/dev/null 2>&1 &)", "setsid sh -c 'setsid sleep {0} & exec sleep {0}' &"])
    async def test_processes_in_sessions_of_their_own_are_killed_with_the_program(self, tmp_path: Path, start: str) -> None:
        source = Program(tmp_path)
        unique = f"6{os.getpid()}66"
        source.script(f"{start.format(unique)}\nsleep 60")
        async with self.at_work(source, timeout=Duration(5)) as reports:
            while not processes_with(unique):
                await asyncio.sleep(0.01)
            await reports.until_failed("was killed")
            source.script("exit 0")
            await reports.until_found()
            await none_left(unique)

    async def test_the_end_kills_a_running_program(self, tmp_path: Path) -> None:
        source = Program(tmp_path)
        unique = f"8{os.getpid()}88"
        source.script(f"sleep {unique} & sleep {unique}")
        async with self.at_work(source):
            while len(processes_with(unique)) < 2:
                await asyncio.sleep(0.01)
        await none_left(unique)

    async def test_a_cancellation_at_any_moment_leaves_no_process(self, tmp_path: Path) -> None:
        source = Program(tmp_path)
        words = [f"9{os.getpid()}{turns}99" for turns in range(12)]
        with killed_at_the_end([str(source.path), *words]):
            for turns, unique in enumerate(words):
                source.script(f"sleep {unique} & sleep {unique}")
                running = asyncio.create_task(_programs.run((str(source.path),), 60.0, 1024, {}))
                for _ in range(turns):
                    await asyncio.sleep(0)
                end = time.monotonic() + WAIT_S
                while processes_with(str(source.path)) and len(processes_with(unique)) < 2:
                    assert time.monotonic() < end, "the program starts its children, while the loop does nothing"
                running.cancel()
                await asyncio.wait({running}, timeout=WAIT_S)
                assert running.cancelled()
                await none_left(str(source.path))
                await none_left(unique)

    async def test_environment_and_arguments_are_what_was_configured(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET_KEY", "sk-1")
        source = Program(tmp_path)
        source.script(f'env >{tmp_path}/env; pwd >>{tmp_path}/env; ps -o sid= -p $$ >>{tmp_path}/env; echo "http://$1:1"')
        async with self.at_work(source, environment={"APP": "ai"}, argv=(str(source.path), "a$(id)b")) as reports:
            await reports.until_failed("output of")  # no shell has replaced $(id)
        text = (tmp_path / "env").read_text()
        assert "APP=ai" in text and "SECRET_KEY" not in text and "\n/\n" in text and "HOME=" not in text

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    async def test_root_runs_the_program_as_its_user_with_the_groups_of_the_user(self, open_folder: Path) -> None:
        source = Program(open_folder)
        source.script('echo "http://$(id -un):1"; for group in $(id -G); do echo "http://g$group:1"; done')
        groups = sorted(os.getgrouplist("games", pwd.getpwnam("games").pw_gid))
        async with self.at_work(source, user="games") as reports:
            await reports.until_count(1)
            assert reports.found_last[0] == "http://games:1"
            assert sorted(reports.found_last[1:]) == sorted(f"http://g{group}:1" for group in groups)
            assert list(self.made(source, user="games").faults()) == []

    async def test_a_user_that_relayd_cannot_become_is_a_fault_of_the_check_and_of_a_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = Program(tmp_path)
        ((key, fault),) = self.made(source, user="nobody-at-all").faults()
        assert key == "user" and "there is no user nobody-at-all" in fault
        own = pwd.getpwuid(os.geteuid()).pw_name
        assert list(self.made(source, user=own).faults()) == []
        monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("daemon").pw_uid)
        ((key, fault),) = self.made(source, user="games").faults()
        assert key == "user" and "only root can start a program as games, and relayd runs as daemon" in fault
        assert "relayd endpoint set" in fault
        async with self.at_work(source, user="games") as reports:
            assert "only root" in await reports.until_failed()


def test_the_options_of_the_issue_and_their_faults() -> None:
    config, _ = accepted(upstreams="{u: {discovery: {command: {argv: [/usr/local/bin/where-is, ai], interval: 10s, timeout: 5s}}}}")
    assert config.upstreams["u"].discovery.command.argv == ("/usr/local/bin/where-is", "ai")  # type: ignore[union-attr]
    found = faults(upstreams="""{
      a: {discovery: {command: {argv: []}}}, b: {discovery: {command: {argv: [where-is]}}},
      c: {discovery: {command: {argv: [/bin/true], environment: {"a b": x}}}}}""")
    assert list(found) == [
        "upstreams.a.discovery.command.argv", "upstreams.b.discovery.command.argv[0]",
        "upstreams.c.discovery.command.environment.a b"]
