"""Settings of all tests: nothing here but what holds everywhere."""

from __future__ import annotations

import os

# What the shell of whoever runs the tests says must not decide where relayd logs, notifies or connects.
for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY"):
    os.environ.pop(name, None)
for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)
