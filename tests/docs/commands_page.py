"""relayd(8), made from the declarations of the commands themselves.

`python3 -m tests.docs.commands_page > debian/man/relayd.8` writes it anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from relayd import registry
from relayd.cli.main import COMMANDS, DESCRIPTION, EXIT_CODES, help_of, parser_of, verbs

SIGNALS = (
    ("SIGUSR1", "Open log files again, as \\fBrelayd reopen\\fR does. (To \\fBrelayd keep\\fR: a restart comes.)"),
    ("SIGHUP", "Open log files again, then reload as \\fBrelayd reload\\fR does, without an exit code."),
    ("SIGTERM, SIGINT", "Accept nothing new, let exchanges finish for at most \\fBdaemon.drain_timeout\\fR, then end. "
     "A second one ends at once."),
    ("SIGUSR2", "To \\fBrelayd keep\\fR: start a new process that takes over, as \\fBrelayd upgrade\\fR does."),
    ("SIGUSR1", "To \\fBrelayd keep\\fR: the SIGTERM that follows is the first half of a restart. The keeper ends at "
     "once, and the process that serves finishes what it has, for at most \\fBdaemon.handover_timeout\\fR."),
)
PAGES = (
    ("/health", "Whether requests can be served, with the state of the breakers and the delay of the loop: 503 and "
     "\\fBunhealthy\\fR while the breakers of an upstream that has a \\fBbreaker\\fR section refuse everything."),
    ("/live", "Liveness: the process runs and its event loop turns, whatever its upstreams do."),
    ("/ready", "200 while relayd serves, 503 while it starts or drains."),
    ("/ping", "Answers at once."),
    ("/status", "Everything that \\fBrelayd status\\fR shows, as JSON."),
    ("/upstreams", "Every endpoint with its state, breaker, health and load; what \\fBrelayd upstreams\\fR shows."),
    ("/queue", "Every limit, and who waits in the order of the turns to come; what \\fBrelayd queue\\fR shows."),
    ("/streams", "Every exchange in flight, the oldest first; what \\fBrelayd streams\\fR shows."),
    ("/events", "Server-sent events: the status once a second, as events \\fBstatus\\fR, for at most 100 clients. A client "
     "that is behind misses some. Over a route the stream ends when a newer configuration is in force or relayd drains; "
     "a browser's EventSource opens it anew."),
    ("/upstreams/NAME/endpoints/ADDRESS/ACTION", "POST: \\fBdrain\\fR, \\fBdisable\\fR, \\fBenable\\fR, "
     "\\fBbreaker/open\\fR or \\fBbreaker/reset\\fR; the address percent-encoded. Kept over reloads."),
    ("/metrics", "Metrics in the text format of Prometheus; see \\fBrelayd-metrics\\fR(7)."),
    ("/reload", "POST: what \\fBrelayd reload\\fR does; 200 when accepted, 422 with every fault when refused."),
    ("/diff, /reopen, /upgrade", "POST: what \\fBrelayd diff\\fR and \\fBrelayd upgrade\\fR do, and opening log files again."),
    ("/api/health, /api/ping", "Health with the address of the first upstream, and ping, for clients that ask there."),
)
ENVIRONMENT = (
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Readiness, reloads, status and signs of life for the service manager; see "
     "\\fBsd_notify\\fR(3)."),
    ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", "Sockets of the service manager, for listeners with \\fBaddress: "
     "systemd:NAME\\fR. What no listener names is closed."),
    ("RUNTIME_DIRECTORY", "The folder of this service or instance, where the admin socket is put unless the "
     "configuration names another place."),
    ("STATE_DIRECTORY", "The folder in which the last accepted configurations are kept, for \\fBrelayd rollback\\fR; "
     "without it none are."),
    ("CREDENTIALS_DIRECTORY", "Where systemd put the credentials that the configuration names."),
    ("RELAYD_KEEPER", "The number of the descriptor that leads to the keeper; set by \\fBrelayd keep\\fR."),
    ("XDG_RUNTIME_DIR", "Where the admin socket is put when \\fI/run/relayd\\fR cannot be written and the "
     "configuration names no other place."),
    ("NO_COLOR", "No colours, whatever the terminal."),
)
FILES = (
    ("/etc/relayd.yaml", "The configuration; see \\fBrelayd.yaml\\fR(5)."),
    ("/etc/relayd.d/", "Drop-ins: further files, included by the one above as it comes."),
    ("/etc/relayd/keys/", "Keys, one to a file, readable for the group relayd."),
    ("/etc/relayd.tests.yaml", "Requests and expectations for \\fBrelayd test\\fR."),
    ("/run/relayd/admin.sock", "The admin socket; of an instance \\fI/run/relayd-NAME/admin.sock\\fR."),
    ("/var/lib/relayd/generations/", "The last accepted configurations; of an instance below "
     "\\fI/var/lib/relayd/NAME\\fR."),
    ("/usr/share/doc/relayd/handbook.md.gz", "The operator's handbook: first minute, reload, upgrade, sizing, "
     "troubleshooting."),
)


def escaped(text: str) -> str:
    """Plain text as roff: nothing in it is an order to the formatter."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def flags(action: argparse.Action) -> str:
    """`-c, --config FILE` with the argument in italics."""
    names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in action.option_strings)
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return f"\\fI{escaped(metavar)}\\fR"
    if action.nargs == "?":
        return f"{names} [\\fI{escaped(metavar)}\\fR]"
    return names if action.nargs == 0 else f"{names} \\fI{escaped(metavar)}\\fR"


def command(verb: str) -> Iterator[str]:
    """One command and its options."""
    parser = parser_of(verb)
    yield f".SS relayd {verb}"
    yield escaped(sentence(help_of(verb)))
    for action in parser._actions:  # argparse has no public way to its own declarations
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        yield from (".TP", flags(action), escaped(sentence((action.help or "") % vars_of(action))))
    if codes := exit_codes(verb):
        yield ".PP"
        yield escaped(codes)


def exit_codes(verb: str) -> str:
    """What the module of a command says of its exit codes, as one line."""
    text = (registry.load(COMMANDS, verb).__doc__ or "").partition("Exit codes:")[2].partition("\n\n")[0]
    return f"Exit codes: {' '.join(text.split())}" if text else ""


def vars_of(action: argparse.Action) -> dict[str, object]:
    return {"default": action.default, "metavar": action.metavar, "dest": action.dest}


def sentence(text: str) -> str:
    text = text.strip()
    if text.partition(" ")[0].strip(",;").isalpha():  # names of files and forms of URLs keep their case
        text = text[:1].upper() + text[1:]
    return text if not text or text.endswith(".") else text + "."


def listed(title: str, entries: tuple[tuple[str, str], ...]) -> Iterator[str]:
    yield f".SH {title}"
    for name, meaning in entries:
        yield from (".TP", f"\\fB{name}\\fR", meaning)


def page() -> str:
    """The whole page."""
    lines = [
        '.\\" Generated by tests.docs.commands_page; do not edit.',
        '.TH RELAYD 8 "" relayd "relayd manual"',
        ".SH NAME",
        "relayd \\- AI gateway and reverse proxy in one process",
        ".SH SYNOPSIS",
        "\\fBrelayd\\fR \\fICOMMAND\\fR [\\fIoptions\\fR]",
        ".SH DESCRIPTION",
        escaped(DESCRIPTION),
        ".PP",
        "A configuration that has faults never replaces one that works: \\fBrelayd reload\\fR and SIGHUP check it",
        "first, and tell every fault with its file, line and column.",
        ".SH COMMANDS",
    ]
    for verb in verbs():
        lines += command(verb)
    lines += listed("SIGNALS", SIGNALS)
    lines += [
        ".SH ADMIN APPLICATION",
        "Served on the admin socket, and by routes with \\fBupstream: admin\\fR: the same pages, and with",
        "\\fBadmin_write: true\\fR the same actions (POST, with or without a body, which says nothing). An action is",
        "done when its request is whole, and finished also when its client leaves.",
    ]
    for name, meaning in PAGES:
        lines += [".TP", f"\\fB{name}\\fR", meaning]
    lines += [".SH EXIT STATUS"]
    for code, meaning in EXIT_CODES:
        lines += [".TP", f"\\fB{code}\\fR", escaped(sentence(meaning))]
    lines += listed("ENVIRONMENT", ENVIRONMENT)
    lines += listed("FILES", FILES)
    others = ("relayd.yaml(5)", "relayd-protocols(7)", "relayd-metrics(7)", "systemctl(1)")
    lines += [".SH SEE ALSO", ", ".join("\\fB" + other.replace("(", "\\fR(") for other in others)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
