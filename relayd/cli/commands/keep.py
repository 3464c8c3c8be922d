"""`relayd keep`: `relayd run` under a keeper, so that a restart or an upgrade ends no stream.

The keeper is a small process that holds the listening sockets. SIGUSR2 (or `relayd upgrade`) starts a new process that
takes over, SIGHUP reloads, SIGTERM stops. Exit codes: those of `relayd run`.
"""

from __future__ import annotations

import argparse
import os
import sys

from relayd.cli.config_file import add_config_option, config_file
from relayd.daemon.keeper import Keeper

HELP = "serve like run, under a small parent that lets a new process take over without losing a stream"


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> int:
    return Keeper(command(sys.orig_argv, config_file(arguments))).run()


def command(argv: list[str], config: str) -> list[str]:
    """The command line of `relayd run`, with the interpreter and the relayd of the keeper's own command line."""
    index = max(number for number, argument in enumerate(argv) if argument == "keep")
    return [sys.executable, *argv[1:index], "run", "-c", os.path.abspath(config)]
