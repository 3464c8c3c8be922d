"""The relayd command: finds its verbs in the folder of commands, loads the requested one and runs it.

1. A verb is a file of relayd/cli/commands with HELP, configure(parser) and run(arguments) -> exit code.
2. Only the chosen verb is imported: `relayd reload` and `relayd version` do not load a server.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import importlib.util
import os
import sys
from collections.abc import Sequence

from relayd import __version__, registry
from relayd.cli.output import err

COMMANDS = "relayd.cli.commands"
ORDER = (
    "run", "keep", "check", "test", "explain", "import", "schema", "diff", "reload", "reopen", "rollback", "upgrade",
    "status", "top", "upstreams", "keys", "certs", "queue", "limits", "streams", "sessions", "tail", "capture",
    "replay", "spend", "state", "cache", "prices", "probe", "doctor", "endpoint", "breaker", "version",
)
DESCRIPTION = "An AI gateway and reverse proxy in one process: one YAML file, reloaded without dropping a stream."
EXIT_CODES = (
    (0, "done"),
    (1, "failed or refused; the reason is on standard error"),
    (2, "wrong usage"),
    (78, "the configuration has faults (EX_CONFIG); the unit does not restart relayd then"),
)
INTERRUPTED = 130


def verbs() -> list[str]:
    """All verbs: the usual ones in the order of use, then the others."""
    found = registry.kinds(COMMANDS)
    return [verb for verb in ORDER if verb in found] + [verb for verb in found if verb not in ORDER]


def help_of(verb: str) -> str:
    """The HELP of a command, read from its source, so that the list of commands imports none of them."""
    spec = importlib.util.find_spec(f"{COMMANDS}.{verb}")
    if spec is None or spec.origin is None:
        return ""
    with open(spec.origin, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(name) for name in node.targets] == ["HELP"]:
            return str(ast.literal_eval(node.value))
    return ""


def frame() -> argparse.ArgumentParser:
    """The parser of `relayd` itself, without the options of its verbs."""
    codes = "\n".join(f"  {code:<3} {meaning}" for code, meaning in EXIT_CODES)
    listed = "\n".join(f"  {verb:<9} {help_of(verb)}" for verb in verbs())
    parser = argparse.ArgumentParser(
        prog="relayd", usage="relayd COMMAND [options]", description=DESCRIPTION, add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"commands (each with --help):\n{listed}\n\nexit codes:\n{codes}\n\nmanual: relayd(8), relayd.yaml(5)",
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and exit")
    parser.add_argument("-V", "--version", action="store_true", help="show the version and exit")
    return parser


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb. Raises KeyError for an unknown one."""
    gc.disable()  # imports create no garbage; collections during imports would cost a start some 10 ms
    try:
        module = registry.load(COMMANDS, verb)
    finally:
        gc.freeze()  # nor would later collections find any among what modules hold
        gc.enable()
    parser = argparse.ArgumentParser(prog=f"relayd {verb}", description=module.HELP)
    module.configure(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = argv[0] if argv else ""
    if verb in ("-V", "--version"):
        sys.stdout.write(f"relayd {__version__}\n")
        return os.EX_OK
    if verb in ("", "-h", "--help", "help"):
        (sys.stdout if verb else sys.stderr).write(frame().format_help())
        return os.EX_OK if verb else 2
    if verb not in verbs():
        matches = difflib.get_close_matches(verb, verbs(), 1)
        suggestion = f"did you mean {matches[0]}?" if matches else f"commands: {', '.join(verbs())}"
        err(f"relayd: no such command: {verb}; {suggestion}")
        return 2
    arguments = parser_of(verb).parse_intermixed_args(argv[1:])  # options may stand between the others
    try:
        return int(registry.load(COMMANDS, verb).run(arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `relayd status | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return os.EX_OK
