"""Signals in the first moment in which a client could know of relayd: its sockets listen, and it is not ready yet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.functional.harness.faults import until
from tests.functional.harness.relay import ROOT, Relay

# relayd itself, but for one thing: as soon as its sockets listen it sends the signal, to itself or to its keeper, and
# gives that one the time to do what it should not. Only the first process does so.
PROGRAM = """
import os, signal, sys, time
from relayd.server.listener import ListenerSet
from relayd.cli.main import main

prepare, once = ListenerSet.prepare, sys.argv.pop(1)

def and_a_signal(*arguments):
    prepared = prepare(*arguments)
    if not os.path.exists(once):
        number = int(open(once + ".signal").read())
        open(once, "w").close()
        os.kill(os.getppid() if number < 0 else os.getpid(), abs(number))
        time.sleep(0.2)
    return prepared

ListenerSet.prepare = and_a_signal
sys.exit(main())
"""

Begin = Callable[..., Relay]
BLOCK = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})\n"


@pytest.fixture
def begin(folder: Path) -> Iterator[Begin]:
    """Start relayd by this verb, after some code; a negative signal is for the parent of the process that serves."""
    made: list[Relay] = []

    def start(verb: str, number: int, before: str = "") -> Relay:
        program, once = folder / "program.py", folder / "once"
        program.write_text(before + PROGRAM)
        Path(f"{once}.signal").write_text(str(number))
        relay = Relay(folder, "http://127.0.0.1:1")
        relay.write()
        with open(relay.out_file, "ab") as out, open(relay.error_file, "ab") as err:
            relay.process = subprocess.Popen(
                [sys.executable, str(program), str(once), verb, "-c", str(relay.file)], stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        made.append(relay)
        return relay

    yield start
    for relay in made:
        relay.stop()
        relay.check_output()


def said(relay: Relay, text: bytes) -> bool:
    assert relay.process is not None
    return text in relay.output() or relay.process.poll() is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("verb", "sign"), [("run", 1), ("keep", -1), ("keep", 1)], ids=["run", "keeper", "kept"])
def test_an_early_stop_is_a_clean_one(verb: str, sign: int, number: int, begin: Begin) -> None:
    relay = begin(verb, sign * number)
    assert relay.process is not None
    assert relay.process.wait(60) == 0, relay.output()
    assert b"stopped" in relay.output()
    assert not os.path.exists(relay.admin_path)


@pytest.mark.parametrize(("verb", "sign"), [("run", 1), ("keep", -1), ("keep", 1)], ids=["run", "keeper", "kept"])
def test_an_early_reload_is_done(verb: str, sign: int, begin: Begin) -> None:
    relay = begin(verb, sign * signal.SIGHUP)
    until(lambda: said(relay, b"reloaded"))
    assert relay.status()["phase"] == "serving"


def test_an_early_upgrade_is_done(begin: Begin) -> None:
    relay = begin("keep", -signal.SIGUSR2)
    until(lambda: said(relay, b"has taken over"))
    assert b"in use" not in relay.output()
    until(lambda: relay.status()["phase"] == "serving")


def test_signals_that_the_parent_has_blocked_are_handled(begin: Begin) -> None:
    relay = begin("keep", -signal.SIGUSR2, BLOCK)
    until(lambda: said(relay, b"has taken over"))
    assert relay.stop() == 0
