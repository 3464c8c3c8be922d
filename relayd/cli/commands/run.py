"""`relayd run`: serve in the foreground until told to stop.

Exit codes: 0 stopped as asked, 1 cannot start here (a port in use, a library too old), 2 wrong usage, 78 configuration.
"""

from __future__ import annotations

import argparse
import os

from relayd.cli.output import err
from relayd.daemon.lifecycle import StartError
from relayd.daemon.lifecycle import run as live
from relayd.daemon.place import DEFAULT_FILE
from relayd.errors import ConfigError

HELP = "serve in the foreground; SIGHUP reloads, SIGTERM drains and stops, a second one stops at once"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", default=DEFAULT_FILE, metavar="FILE", help=f"default {DEFAULT_FILE}")


def run(arguments: argparse.Namespace) -> int:
    try:
        return live(arguments.config)
    except ConfigError as refused:
        for finding in refused.findings:
            err(str(finding))
        err(f"relayd: not started: {arguments.config} has faults")
        return os.EX_CONFIG
    except StartError as failed:
        for line in failed.lines:
            err(f"relayd: not started: {line}")
        return 1
