"""The file that a command works on: the one that -c names, else /etc/relayd.yaml, else that of the source tree.

The source tree's file counts only where /etc/relayd.yaml does not exist, so that an installed relayd comes first.
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
    """The option -c, with the same default everywhere."""
    text = f"{meaning} (default {INSTALLED})" if meaning else f"default {INSTALLED}"
    parser.add_argument("-c", "--config", default=INSTALLED, metavar="FILE", help=text)


def config_file(arguments: argparse.Namespace) -> str:
    """The path, as it was named."""
    named: str = arguments.config
    if named != INSTALLED:
        return named
    return SOURCE_FILE if not os.path.exists(DEFAULT_FILE) and os.path.exists(SOURCE_FILE) else DEFAULT_FILE


def show(findings: Iterable[Finding], path: str, named: str) -> None:
    """Findings on standard error. Where nobody named the file and it is missing, the option is named."""
    for finding in findings:
        err(str(hinted(finding, path, named)))


def hinted(finding: Finding, path: str, named: str) -> Finding:
    """The finding, with the option beside a missing file that nobody named."""
    missing = named == INSTALLED and finding.file == path and not finding.line and not os.path.exists(path)
    return replace(finding, hint=HINT) if missing and not finding.hint else finding
