"""`relayd version`: the versions of relayd and of its libraries. Exit code: 0."""

from __future__ import annotations

import argparse
import os

from relayd.cli.output import out, table
from relayd.daemon.checks import versions

HELP = "show the versions of relayd and of what it runs on"


def configure(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(arguments: argparse.Namespace) -> int:
    for line in table([(name, version) for name, version in versions().items()]):
        out(line)
    return os.EX_OK
