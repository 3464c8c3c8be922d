"""`relayd run`: serve in the foreground until stopped.

Exit codes: 0 stopped on request, 1 cannot start here (port in use, library too old), 2 wrong usage, 78 configuration.
"""

from __future__ import annotations

import argparse
import os

from relayd.cli.config_file import add_config_option, config_file, show
from relayd.cli.output import err
from relayd.daemon.lifecycle import run as live
from relayd.daemon.start_error import StartError
from relayd.errors import ConfigError

HELP = "serve in the foreground; SIGHUP reloads, SIGTERM drains and stops, a second one stops at once"


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument(
        "--watch", action="store_true", help="for development: reload when the file, or a file it includes, has changed"
    )


def run(arguments: argparse.Namespace) -> int:
    path = config_file(arguments)
    try:
        return live(path, watch=arguments.watch)
    except ConfigError as refused:
        show(refused.findings, path, arguments.config)
        err(f"relayd: not started: {path} has faults")
        return os.EX_CONFIG
    except StartError as failed:
        for line in failed.lines:
            err(f"relayd: not started: {line}")
        return 1
