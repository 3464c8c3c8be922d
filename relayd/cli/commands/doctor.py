"""`relayd doctor`: finds faults of this installation, and names the cause and the cure of each finding.

Checks the configuration, files, the service, the running relayd, listeners, domains, upstreams, statsd, the clock,
resources and libraries; all of them concurrently, each within its time limit. It works without a running relayd and
without root, and lists what could then not be checked. It changes nothing, sends no prompt and shows no secret. Each
endpoint gets one GET request, as from `relayd probe`.

Exit codes: 0 nothing has failed (warnings do not count), 1 something has failed, 2 wrong usage, 78 the configuration
has faults.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import sys
from collections.abc import Iterator

from relayd import registry
from relayd.cli.admin_client import add_socket_options, seconds
from relayd.cli.config_file import config_file
from relayd.cli.diagnosis import COLOURS, FAILURE, LEVELS, WARNING, Finding, masked, worst
from relayd.cli.doctor.examination import CHECKS, Context, Result, all_checks, examine
from relayd.cli.output import err, json_text, out, paint
from relayd.cli.service_environment import as_installed
from relayd.config.load import Loaded, load
from relayd.daemon.admin_socket_path import DEFAULT_FILE
from relayd.daemon.preflight import secrets_of
from relayd.errors import ConfigError

HELP = "find what is wrong with configuration, service, network and machine, with cause and cure"
CONFIGURATION = "configuration"
CLEAR_LINE = "\r\033[K"


def configure(parser: argparse.ArgumentParser) -> None:
    add_socket_options(parser)
    parser.add_argument("--json", action="store_true", help="all findings as one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="failures and warnings only")
    parser.add_argument(
        "--timeout", type=seconds, default="20s", metavar="TIME", help="how long the checks may take (default 20s)"
    )
    parser.add_argument("--list", action="store_true", help="list the checks and what each of them does")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="run these checks only (default: all)")


def run(arguments: argparse.Namespace) -> int:
    known = all_checks()
    if arguments.list:
        for name in known:
            out(f"{name:<14}{registry.summary(CHECKS, name)}")
        return os.EX_OK
    strangers = [name for name in arguments.checks if name not in known]
    if strangers:
        err(f"relayd doctor: there is no check {strangers[0]}; the checks are: {', '.join(known)}")
        return 2
    path = os.path.abspath(config_file(arguments))
    with as_installed(path):
        loaded = loaded_or_none(path)
        context = Context(path, arguments, loaded, os.geteuid() == 0, path == DEFAULT_FILE)
        names = [name for name in known if not arguments.checks or name in arguments.checks]
        with Progress(names) as progress:
            results = asyncio.run(examine(context, names, arguments.timeout, progress.on_done))
    secrets = [] if loaded is None else [secret.reveal() for _, secret in secrets_of(loaded.config)]
    text = as_json(results) if arguments.json else "\n".join(lines(results, quiet=arguments.quiet))
    out(masked(text, secrets))
    return exit_code(results)


def loaded_or_none(path: str) -> Loaded | None:
    """The configuration, None if this user cannot load it. The check `configuration` reports the reason."""
    try:
        return load(path)
    except ConfigError:
        return None


class Progress:
    """The checks that still run, in one line on standard error; nothing if that is not a terminal."""

    def __init__(self, names: list[str]) -> None:
        self._running, self._is_shown = list(names), sys.stderr.isatty()

    def __enter__(self) -> Progress:
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()

    def on_done(self, result: Result) -> None:
        """A check has ended."""
        self._running.remove(result.check)
        self._show()

    def _show(self) -> None:
        if self._is_shown:
            sys.stderr.write(f"{CLEAR_LINE}checking: {', '.join(self._running)}"[:79])
            sys.stderr.flush()


def lines(results: list[Result], *, quiet: bool) -> Iterator[str]:
    """The findings as text, the most severe last, where they are seen first on a terminal."""
    found = [finding for result in results for finding in result.findings]
    for level in reversed(LEVELS):
        for finding in found:
            if finding.level == level and (not quiet or level in (FAILURE, WARNING)):
                yield f"{paint(f'{level:<12}', COLOURS[level])}{finding.subject}: {finding.cause}"
                if finding.cure:
                    yield f"{'':<12}{paint('cure:', 'bold')} {finding.cure}"
    summary = (f"{count} {level}{plural(level, count)}" for level, count in counted(found))
    yield paint(", ".join(summary), COLOURS[worst(found)])


def plural(level: str, count: int) -> str:
    return "s" if count != 1 and level in (FAILURE, WARNING) else ""


def counted(found: list[Finding]) -> list[tuple[str, int]]:
    """The number of findings of each level."""
    return [(level, sum(one.level == level for one in found)) for level in LEVELS]


def as_json(results: list[Result]) -> str:
    """All results as JSON."""
    found = [finding for result in results for finding in result.findings]
    return json_text({
        "ok": worst(found) != FAILURE, "counts": dict(counted(found)), "checks": [
            {"check": one.check, "took_s": round(one.took_s, 3), "findings": list(map(_plain, one.findings))}
            for one in results
        ],
    }, indent=2)  # fmt: skip


def _plain(finding: Finding) -> dict[str, object]:
    return {name: value or None for name, value in dataclasses.asdict(finding).items()}


def exit_code(results: list[Result]) -> int:
    """The exit code: a faulty configuration before other failures."""
    failed = {result.check for result in results if worst(result.findings) == FAILURE}
    return os.EX_CONFIG if CONFIGURATION in failed else int(bool(failed))
