"""What a command says, and where: results on standard output, complaints on standard error."""

from __future__ import annotations

import sys


def out(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")


def err(text: str) -> None:
    """A line about the work itself, or a fault."""
    sys.stderr.write(text + "\n")
