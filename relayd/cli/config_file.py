"""The configuration file of a command: the one of -c, else /etc/relayd.yaml, else the one of the source tree.

The file of the source tree is used only if /etc/relayd.yaml does not exist, so an installed relayd takes precedence.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from dataclasses import replace

import relayd
from relayd.cli.output import err
from relayd.daemon.admin_socket_path import DEFAULT_FILE as INSTALLED
from relayd.errors import Finding

DEFAULT_FILE = INSTALLED
SOURCE_FILE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(relayd.__file__))), "conf", "relayd.yaml")
HINT = "name the configuration with -c FILE"


def add_config_option(parser: argparse.ArgumentParser, meaning: str = "") -> None:
    """Add the option -c, with the same default in all commands."""
    text = f"{meaning} (default {INSTALLED})" if meaning else f"default {INSTALLED}"
    parser.add_argument("-c", "--config", default=INSTALLED, metavar="FILE", help=text)


def config_file(arguments: argparse.Namespace) -> str:
    """The path of the configuration file."""
    named: str = arguments.config
    if named != INSTALLED:
        return named
    return SOURCE_FILE if not os.path.exists(DEFAULT_FILE) and os.path.exists(SOURCE_FILE) else DEFAULT_FILE


def show(findings: Iterable[Finding], path: str, named: str) -> None:
    """Print findings to standard error. If the default file is missing, the option -c is suggested."""
    for finding in findings:
        err(str(completed(finding, path, named)))


def completed(finding: Finding, path: str, named: str) -> Finding:
    """The finding, with the option -c as a suggestion if the default file is missing."""
    missing = named == INSTALLED and finding.file == path and not finding.line and not os.path.exists(path)
    return replace(finding, suggestion=HINT) if missing and not finding.suggestion else finding
