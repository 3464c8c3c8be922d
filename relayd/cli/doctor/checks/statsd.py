"""The statsd daemon of the configuration: its name resolves, and nothing rejects a datagram.

Sends a counter of 0 with the configured prefix, `doctor`. UDP gives no receipt: silence is the best result.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from typing import Any

from relayd.cli.diagnosis import Finding, failure, fine
from relayd.cli.doctor.examination import Context
from relayd.config.telemetry import sinks_of

NEEDS_CONFIGURATION = True
WAIT_S = 0.5


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    options: Any = sinks_of(context.config.telemetry).get("statsd")
    if options is None:
        yield fine("statsd", "is not configured")
    else:
        yield await context.in_thread(judge, options.address, options.prefix)


def judge(address: str, prefix: str) -> Finding:
    """Send one datagram, and wait for its rejection. Blocks."""
    host, _, port = address.rpartition(":")
    subject = f"statsd {address}"
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
    except OSError as error:
        return failure(subject, f"its name cannot be resolved: {error.strerror}", "correct telemetry.statsd.address")
    try:
        with socket.socket(found[0], found[1]) as sock:
            sock.settimeout(WAIT_S)
            sock.connect(found[4])
            sock.send(".".join(part for part in (prefix.strip("."), "doctor") if part).encode() + b":0|c")
            sock.recv(1)
    except TimeoutError:
        pass
    except ConnectionRefusedError:
        return failure(subject, "no daemon receives there: metrics are lost", "start statsd, or correct the address")
    except OSError as error:
        return failure(subject, f"cannot be sent to: {error.strerror}", "check the route and the firewalls between")
    return fine(subject, "nothing rejects datagrams")
