"""Settings of all tests: nothing here but what holds everywhere."""

from __future__ import annotations

import asyncio
import os

import pytest
import tornado

# What the shell of whoever runs the tests says must not decide where relayd logs, notifies or connects.
for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY"):
    os.environ.pop(name, None)
for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)


@pytest.fixture(autouse=True)
def _a_current_loop() -> None:
    """Tornado before 6.3 does not make the loop that pytest-tornasync asks for once an asyncio.run() has taken it away."""
    if tornado.version_info < (6, 3):
        policy = asyncio.get_event_loop_policy()
        try:
            policy.get_event_loop()
        except RuntimeError:
            policy.set_event_loop(policy.new_event_loop())
