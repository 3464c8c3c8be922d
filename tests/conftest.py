"""Settings of all tests: nothing here but what holds everywhere."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Iterator

import pytest
import tornado
from hypothesis import HealthCheck, settings

# What the shell of whoever runs the tests says must not decide where relayd logs, notifies or connects.
for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY"):
    os.environ.pop(name, None)
for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)

# A shell that runs the tests in the background lets them, and all programs that they start, ignore the interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more of the machine than of relayd; tests of cost are in tests/aids/growth.py.
settings.register_profile("new", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A run judges the change in front of it: the same examples every time. RELAYD_EXAMPLES=new (`make fuzz` has it) looks for
# counterexamples that nobody has seen yet; each that it finds becomes a test of its own.
settings.register_profile("same", settings.get_profile("new"), derandomize=True)
settings.load_profile(os.environ.get("RELAYD_EXAMPLES", "same"))


def pytest_collection_finish() -> None:
    """Exclude the collected tests, hundreds of megabytes, from all garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def spare_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One loop that lies ready for whoever asks for the current one."""
    loop = asyncio.new_event_loop()
    if tornado.version_info < (6, 3):
        asyncio.set_event_loop(loop)  # else the first who asks is given a new one, which nobody closes
    yield loop
    loop.close()


@pytest.fixture(autouse=True)
def _a_current_loop(spare_loop: asyncio.AbstractEventLoop) -> None:
    """Tornado before 6.3 does not make the loop that pytest-tornasync asks for once an asyncio.run() has taken it away."""
    if tornado.version_info < (6, 3):
        policy = asyncio.get_event_loop_policy()
        try:
            policy.get_event_loop()
        except RuntimeError:
            policy.set_event_loop(spare_loop)
