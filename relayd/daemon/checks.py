"""Checks before a start: minimum versions of libraries, and the limit of descriptors, raised to its maximum."""

from __future__ import annotations

import re
import resource
import sys

import tornado

from relayd import __version__
from relayd.dataclass import dataclass
from relayd.upstream.transport.library import libcurl_version, pycurl_version

FLOORS = {"Python": (3, 11), "Tornado": (6, 2), "pycurl": (7, 45, 2), "libcurl": (7, 88)}


def versions() -> dict[str, str]:
    """The versions in use, in the order for display."""
    return {
        "relayd": __version__,
        "Python": ".".join(map(str, sys.version_info[:3])),
        "Tornado": tornado.version,
        "pycurl": pycurl_version(),
        "libcurl": libcurl_version(),
    }


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 7.88.1-DEV is (7, 88, 1)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def too_old(found: dict[str, str]) -> list[str]:
    """One message for each library that is older than the minimum version."""
    return [
        f"{name} {found[name]} is too old: relayd needs {'.'.join(map(str, floor))} or newer"
        for name, floor in FLOORS.items()
        if numbers(found[name]) < floor
    ]


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The limit of open files: before the change, now, and the hard limit."""

    before: int
    now: int
    hard: int


def raise_descriptors() -> Descriptors:
    """Raise the soft limit of open files to the hard one: a stream takes two descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = soft
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # an unlimited hard limit is more than the kernel grants
            pass
    return Descriptors(before, soft, hard)
