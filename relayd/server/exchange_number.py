"""Names of exchanges that are relayd's own: the request id may be the client's (X-Request-ID), and not be unique.

A number is given at its first use, so that an exchange of which nobody asks costs nothing. The first one of a process
is random: a number that a page of the previous process shows names no exchange of this one.
"""

from __future__ import annotations

import itertools
import secrets

from relayd.proxy.exchange import Exchange

MARK = "@"  # not a character of a request id
NUMBERS = itertools.count(secrets.randbits(40))


def number_of(exchange: Exchange) -> str:
    """The name of an exchange, unique as long as it is in flight."""
    try:
        number = exchange.number
    except AttributeError:
        number = exchange.number = next(NUMBERS)
    return f"{MARK}{number}"
