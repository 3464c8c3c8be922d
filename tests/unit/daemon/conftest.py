"""Fixtures of the tests of the daemon."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from relayd.daemon.signals import HANDLED


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Restore the handlers of signals, which a daemon that ends ignores: programs that other tests start would inherit that."""
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
