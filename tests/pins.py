"""The file of pinned versions: what relayd's libraries and the tools of its tests were when everything was green.

    pins.py write           pin what this interpreter has installed (make pins, after all tests)
    pins.py tools           print the pins without those of relayd's own libraries (for Debian's and the newest ones)
    pins.py differ          print what this interpreter has and the pins have not; exit status 1 when there is anything
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

PINS = Path(__file__).with_name("constraints.txt")
OF_RELAYD = "# Libraries of relayd itself, and what they need."
OF_TOOLS = "# Tools of tests, style, types and bench."
NOT_PINNED = {"relayd", "pip", "setuptools", "wheel"}


def plain(name: str) -> str:
    """A name as all its spellings are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    found = {plain(one.metadata["Name"]): one.version for one in metadata.distributions()}
    return {name: version for name, version in sorted(found.items()) if name not in NOT_PINNED}


def needed_by(name: str, seen: set[str]) -> Iterator[str]:
    """The names of what a distribution needs, without its extras, and of what those need."""
    for line in metadata.requires(name) or []:
        requirement, _, marker = line.partition(";")
        needed = plain(re.split(r"[^A-Za-z0-9._-]", requirement.strip())[0])
        if "extra ==" not in marker and needed not in seen:
            seen.add(needed)
            yield needed
            try:
                yield from needed_by(needed, seen)
            except metadata.PackageNotFoundError:  # for another system or another Python
                pass


def pinned() -> tuple[list[str], list[str]]:
    """The lines of relayd's libraries and those of the tools."""
    own, _, tools = PINS.read_text(encoding="utf-8").partition(OF_TOOLS)
    parts = [[line for line in part.splitlines() if "==" in line] for part in (own, tools)]
    return parts[0], parts[1]


def main(word: str) -> int:
    versions = installed()
    if word == "write":
        own = {"acme", *needed_by("relayd", set()), *needed_by("acme", set())}  # python3-acme is optional
        lines = [f"# Written by `make pins` with Python {sys.version_info.major}.{sys.version_info.minor}.", OF_RELAYD]
        lines += [f"{name}=={version}" for name, version in versions.items() if name in own]
        lines += [OF_TOOLS]
        lines += [f"{name}=={version}" for name, version in versions.items() if name not in own]
        PINS.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return 0
    own_lines, tool_lines = pinned()
    if word == "tools":
        print("\n".join(tool_lines))
        return 0
    other = [f"{name}=={version}" for name, version in versions.items() if f"{name}=={version}" not in own_lines + tool_lines]
    print("\n".join(other))
    return int(bool(other))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
