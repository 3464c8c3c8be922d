"""Why an operation of Redis failed, and whether it may have been executed nevertheless."""

from __future__ import annotations

from typing import Literal

from relayd.errors import RelaydError
from relayd.lazy_regex import lazy_regex
from relayd.stores._resp import ErrorReply

Cause = Literal[
    "connect", "lost", "timeout", "auth", "permission", "read_only", "full", "loading", "no_master", "not_saved",
    "busy", "cluster", "overloaded", "script", "protocol", "closed",
]  # fmt: skip

# The first words of errors that the server replies before it has changed anything.
_CAUSES: dict[str, Cause] = {
    "READONLY": "read_only", "OOM": "full", "LOADING": "loading", "MASTERDOWN": "no_master", "MISCONF": "not_saved",
    "NOREPLICAS": "not_saved", "NOAUTH": "auth", "WRONGPASS": "auth", "NOPERM": "permission", "BUSY": "busy",
    "CLUSTERDOWN": "cluster", "TRYAGAIN": "cluster", "MOVED": "cluster", "ASK": "cluster", "CROSSSLOT": "script",
}  # fmt: skip
# Before version 7, the error of a command inside a script is a part of the text.
_INNER = lazy_regex(r"-(READONLY|OOM|MISCONF|NOREPLICAS|NOPERM) ")
LIMITING: frozenset[Cause] = frozenset(("overloaded", "script"))  # do not make the server unavailable

CURES: dict[Cause, str] = {
    "connect": "Check that Redis runs at the address of `store: url`, and the firewalls between.",
    "lost": "Redis closed the connection; see its log.",
    "timeout": "Redis does not reply in time; see `store: timeout`, and its SLOWLOG.",
    "auth": "Correct `store: username` and `password`, or the ACL of Redis.",
    "permission": "Permit relayd's user the commands and keys in the ACL of Redis: +@all ~{PREFIX}* ~PREFIX:*.",
    "read_only": "The server is a replica. Name the master, or use `store: sentinel`.",
    "full": "Redis has reached maxmemory. Raise it, or lower `store: size`.",
    "loading": "Redis loads its data; wait.",
    "no_master": "No master can be reached; see the log of Redis and of the Sentinels.",
    "not_saved": "Redis refuses writes because it cannot save or replicate them; see its log.",
    "busy": "A script blocks Redis; see its log.",
    "cluster": "The cluster does not serve all slots; see `redis-cli --cluster check`.",
    "overloaded": "More operations wait for Redis than relayd permits.",
    "script": "Redis reported an error in a script; report this as a fault of relayd.",
    "protocol": "What answers at the address is not Redis, or is damaged.",
    "closed": "A reload has replaced the store.",
}


class RedisFailure(RelaydError):
    """The result of a failed operation. `unknown`: it may have been executed; otherwise it certainly was not."""

    def __init__(self, cause: Cause, text: str, unknown: bool = False) -> None:
        super().__init__(text)
        self.cause, self.text, self.unknown = cause, text, unknown

    @property
    def is_server_failure(self) -> bool:
        """True if the server is unavailable, false if only this operation failed."""
        return self.cause not in LIMITING


def failure_of(reply: ErrorReply) -> RedisFailure:
    """The failure that an error reply states."""
    cause = _CAUSES.get(reply.code)
    if cause is None and (inner := _INNER.search(reply.text)) is not None:
        cause = _CAUSES[inner[1]]
    if cause is None:
        if "max number of clients" in reply.text:
            return RedisFailure("connect", reply.text)
        return RedisFailure("script", reply.text, unknown=True)  # a script may have written before its error
    return RedisFailure(cause, reply.text, unknown=cause == "permission")
