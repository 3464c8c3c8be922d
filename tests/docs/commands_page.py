"""relayd(8), generated from the declarations of the commands.

`python3 -m tests.docs.commands_page > debian/man/relayd.8` regenerates it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from relayd import registry
from relayd.cli.doctor.examination import CHECKS, all_checks
from relayd.cli.main import COMMANDS, DESCRIPTION, EXIT_CODES, help_of, parser_of, verbs

SIGNALS = (
    ("SIGUSR1", "Reopen the log files, like \\fBrelayd reopen\\fR. (To \\fBrelayd keep\\fR: see below.)"),
    ("SIGHUP", "Reopen the log files, then reload the configuration, like \\fBrelayd reload\\fR without its exit code."),
    ("SIGTERM, SIGINT", "Refuse new connections, let exchanges finish for at most \\fBdaemon.drain_timeout\\fR, then exit. "
     "A second signal ends relayd immediately."),
    ("SIGUSR2", "To \\fBrelayd keep\\fR: start a new process that takes over, like \\fBrelayd upgrade\\fR."),
    ("SIGUSR1", "To \\fBrelayd keep\\fR: the following SIGTERM is the first half of a restart. The keeper exits "
     "immediately, and the current process finishes its exchanges, for at most \\fBdaemon.handover_timeout\\fR."),
)
PAGES = (
    ("/health", "Health of the service, with the state of the breakers and the lag of the event loop: 503 and "
     "\\fBunhealthy\\fR while the breakers of an upstream with a \\fBbreaker\\fR section reject every request."),
    ("/live", "Liveness: 200 while the process and its event loop run, regardless of upstreams."),
    ("/ready", "200 while relayd serves, 503 while it starts or drains."),
    ("/ping", "Responds immediately, without any check."),
    ("/status", "The data of \\fBrelayd status\\fR, as JSON."),
    ("/upstreams", "Every endpoint with its state, breaker, health and load; the data of \\fBrelayd upstreams\\fR."),
    ("/limits", "Every rate and budget, the most used ones first; the data of \\fBrelayd limits\\fR."),
    ("/queue", "Every limit, and the waiting requests in order of admission; the data of \\fBrelayd queue\\fR."),
    ("/streams", "Every exchange in flight, oldest first; the data of \\fBrelayd streams\\fR."),
    ("/keys", "The keys of \\fBrelayd keys\\fR, without their digests: at most 1000, the valid ones first, each with its "
     "settings, and with the reason if the configuration does not accept it."),
    ("/sessions, /sessions/ID", "The sessions of clients, at most 10000, and one of them with its document; the data of "
     "\\fBrelayd sessions\\fR. Over a route only with \\fBadmin_write: true\\fR."),
    ("/sessions/forget, /sessions/import", "POST: the actions of \\fBrelayd sessions\\fR, with a JSON body."),
    ("/events", "Server-sent events: the status once a second, as events \\fBstatus\\fR, for at most 100 clients. A slow "
     "client misses some. Over a route the stream ends when a newer configuration is in force or relayd drains; "
     "a browser's EventSource reconnects."),
    ("/records", "The access records as they are written, one JSON object per line, for at most 20 clients; over a route only "
     "with \\fBadmin_write: true\\fR. A slow client misses some, and is told how many; the data of \\fBrelayd tail\\fR."),
    ("/captures, /captures/ID", "The captured exchanges, and one of them with its heads and bodies; the data of \\fBrelayd "
     "capture\\fR. Over a route only with \\fBadmin_write: true\\fR."),
    ("/captures/start, /captures/replay, /captures/delete", "POST: the actions of \\fBrelayd capture\\fR and \\fBrelayd "
     "replay\\fR, with a JSON body. A capture ends when "
     "the connection that began it is closed."),
    ("/upstreams/NAME/endpoints/ADDRESS/ACTION", "POST: \\fBdrain\\fR, \\fBdisable\\fR, \\fBenable\\fR, "
     "\\fBbreaker/open\\fR or \\fBbreaker/reset\\fR; the address percent-encoded. Kept over reloads."),
    ("/streams/ID/cancel", "POST: end an exchange, by its number (\\fB@12\\fR) or by its request id, if no other one has the "
     "same; its client gets an error or an incomplete response, and its record the "
     "code \\fBstopped\\fR."),
    ("/generations/N/compare, /generations/N/restore", "POST: what a rollback to a saved generation would change, and the "
     "rollback, which does not change the files: the next reload or start uses them. \\fBrelayd rollback\\fR changes them."),
    ("/state/show, /state/dry/CONSUMER, /state/forget/CONSUMER", "POST: what is held about consumers, and its deletion, as "
     "\\fBrelayd state\\fR does; the consumer percent-encoded."),
    ("/cache/show, /cache/dry/ROUTE, /cache/purge/ROUTE", "POST: the answers that routes keep, and their deletion, as "
     "\\fBrelayd cache\\fR does; also with /CONSUMER behind the route, all percent-encoded."),
    ("/dashboard/", "The dashboard, a page for browsers; see DASHBOARD."),
    ("/openapi.json, /api/docs, /api/redoc", "The OpenAPI 3.1 document of the admin application and of what the AI fronts of "
     "the configuration in force accept, and two pages made from it: with forms that send a request with a key, and for "
     "reading. Without \\fBallow\\fR the route shows names of routes to everybody."),
    ("/metrics", "Metrics in the text format of Prometheus, or in OpenMetrics if the client prefers it; see \\fBrelayd-metrics\\fR(7)."),
    ("/reload", "POST: reload, like \\fBrelayd reload\\fR; 200 if accepted, 422 with every fault if refused."),
    ("/diff, /reopen, /upgrade", "POST: the actions of \\fBrelayd diff\\fR, \\fBrelayd reopen\\fR and \\fBrelayd upgrade\\fR."),
    ("/api/health, /api/ping", "Health with the URL of the first upstream, and ping, for clients that use these paths."),
)
DASHBOARD = (
    "The page \\fI/dashboard/\\fR of the admin application shows, live: streams under way, endpoints with breaker, health,",
    "load, percentiles of the last 200 responses and errors by outcome, limits and queues, rates and budgets, requests,",
    "tokens and cost of the last hour, the last failures, certificates, and the generations of this process. With",
    "\\fBadmin_write: true\\fR it drains, disables and enables endpoints, resets breakers and cancels streams.",
    ".PP",
    "On a listener it needs a route with \\fBallow\\fR:",
    "\\fB{name: pages, match: {prefix: /dashboard/}, upstream: admin, allow: [ops], admin_write: true}\\fR.",
    "A browser signs in with the key of a consumer that the route allows, and gets a cookie (HttpOnly, SameSite=Strict,",
    "Secure over TLS) that is valid for eight hours. Wrong keys are counted like those in requests. The session ends with the",
    "revocation of its key, the removal of its consumer, and the end of the process; sessions are in the memory of one",
    "process, so of several instances on one port only one should have the route. Actions need a token of the session and",
    "are refused if another site has caused them. Requests with the key in a header field need no session.",
    ".PP",
    "Without a route: \\fBssh -L 8080:/run/relayd/admin.sock HOST\\fR, then \\fIhttp://localhost:8080/dashboard/\\fR. Whoever may",
    "use the socket needs no key; browsers reach it as localhost only.",
    ".PP",
    "All tabs of a browser share one event stream where the browser permits it (HTTPS or localhost). At most 50 streams are",
    "open, and 6 of one session: then the answer is 503 or 429 with Retry-After. A page that does not read misses changes and",
    "is disconnected after a minute.",
)
CAPTURE = (
    "\\fBrelayd capture\\fR keeps the exchanges that all of its filters accept: the request of the client as it arrived, the",
    "request of every attempt as it was sent to an endpoint, each response with the times at which its pieces arrived, how",
    "each attempt ended and which party was at fault, the response as the client got it, and the access record. It prints a",
    "line for each. With \\fB\\-\\-errors\\fR only failures are kept, although an exchange must be buffered until its end is known.",
    ".PP",
    "A capture is off unless this command runs. It ends after \\fB\\-\\-for\\fR, when \\fB\\-\\-max\\fR exchanges are kept, when they use",
    "\\fB\\-\\-size\\fR, when the command ends or loses its connection, and when relayd stops or is replaced. It continues over a",
    "reload. Only one capture is on at a time. Captured exchanges are in the memory of the process, never on disk and never in a",
    "log; they are deleted after \\fB\\-\\-keep\\fR, by \\fBrelayd capture delete\\fR, and with the process. Traffic is not affected: what",
    "exceeds a bound is not kept, and its size is reported. Of a body longer than \\fB\\-\\-body\\fR the beginning and the end are",
    "kept; with \\fB\\-\\-no\\-bodies\\fR only sizes and times.",
    ".PP",
    "Keys are masked: fields and parameters with secret names, cookies, and the text of every upstream key and of the client's",
    "own keys wherever it stands, in bodies too, where also the values of credentials are masked (JSON members and form",
    "parameters such as api_key, access_token, password, authorization). A compressed body in which a key stands is not kept.",
    "Other contents of bodies are kept as they are. Prompts and answers are personal data; see \\fBrelayd\\-security\\fR(7).",
    ".PP",
    "Not captured: requests that are refused before their head is parsed, the admin application, copies of \\fBmirror\\fR, and the",
    "bytes of an upgraded connection (its heads are). In a WebSocket session of the Responses API each turn is an exchange.",
    ".PP",
    "\\fBrelayd capture export\\fR writes an HTTP Archive (HAR 1.2), which the developer tools of browsers read: an entry for the",
    "client's exchange (\\fB_exchange\\fR) and one for each attempt (\\fB_attempt\\fR).",
    ".PP",
    "\\fBrelayd replay\\fR sends a captured request again, through the running relayd, to the upstream that served it or to",
    "\\fB\\-\\-upstream\\fR, with the key of that upstream and without the client's, translated if the dialects differ. It waits in the",
    "queue of the upstream, belongs to no consumer, and is in the access log with the listener \\fBreplay\\fR and the member",
    "\\fBreplay_of\\fR. Status, media type and content decide if the response is the same. The content of an AI response is its",
    "text, reasoning, tool calls and end; ids, times and how a stream was cut do not count. A request whose body was not kept",
    "as a whole cannot be sent again.",
)
ENVIRONMENT = (
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Readiness, reloads, status and watchdog messages for the service manager; see "
     "\\fBsd_notify\\fR(3)."),
    ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", "Sockets of the service manager, for listeners with \\fBaddress: "
     "systemd:NAME\\fR. Sockets that no listener names are closed."),
    ("RUNTIME_DIRECTORY", "The runtime folder of this service or instance, with the admin socket unless the "
     "configuration sets another path."),
    ("STATE_DIRECTORY", "The folder in which the last accepted configurations are saved, for \\fBrelayd rollback\\fR; "
     "without it none are saved."),
    ("CREDENTIALS_DIRECTORY", "The folder with the systemd credentials that the configuration names."),
    ("RELAYD_KEEPER", "The descriptor that is connected to the keeper; set by \\fBrelayd keep\\fR."),
    ("XDG_RUNTIME_DIR", "The folder of the admin socket if \\fI/run/relayd\\fR is not writable and the "
     "configuration sets no other path."),
    ("NO_COLOR", "Disables colours."),
)
FILES = (
    ("/etc/relayd.yaml", "The configuration; see \\fBrelayd.yaml\\fR(5)."),
    ("/etc/relayd.d/", "Drop-ins: further files, which the installed /etc/relayd.yaml includes."),
    ("/etc/relayd/keys/", "Keys, one per file, readable by the group relayd."),
    ("/etc/relayd.tests.yaml", "Requests and expectations for \\fBrelayd test\\fR."),
    ("/run/relayd/admin.sock", "The admin socket; of an instance \\fI/run/relayd-NAME/admin.sock\\fR."),
    ("/var/lib/relayd/ledger.sqlite", "The sums of \\fBrelayd spend\\fR, written every second: a relayd that is killed loses "
     "at most this second. A file that cannot be read "
     "is renamed with the time and never deleted. Several processes add to one file."),
    ("/var/lib/relayd/keys/", "The key store of \\fBrelayd keys\\fR: digests, no keys. All instances share it."),
    ("/var/lib/relayd/generations/", "The last accepted configurations; of an instance below "
     "\\fI/var/lib/relayd/NAME\\fR."),
    ("/usr/share/doc/relayd/handbook.md.gz", "The operator's handbook: first minute, reload, upgrade, sizing, "
     "troubleshooting."),
)


def escaped(text: str) -> str:
    """Plain text as roff, with control characters of the formatter escaped."""
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
    """The exit codes in the docstring of a command, as one line."""
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
        "A configuration with faults never replaces a working one: \\fBrelayd reload\\fR and SIGHUP check it first,",
        "and report every fault with its file, line and column.",
        ".SH COMMANDS",
    ]
    for verb in verbs():
        lines += command(verb)
    checks = tuple((name, escaped(" ".join(registry.entry(CHECKS, name).split()))) for name in all_checks())
    lines += listed("CHECKS OF RELAYD DOCTOR", checks)
    lines += listed("SIGNALS", SIGNALS)
    lines += [
        ".SH ADMIN APPLICATION",
        "Served on the admin socket, and by routes with \\fBupstream: admin\\fR: the same pages, and with",
        "\\fBadmin_write: true\\fR the same actions (POST; a body is ignored). An action runs once its request is",
        "complete, and is completed even if its client leaves.",
    ]
    for name, meaning in PAGES:
        lines += [".TP", f"\\fB{name}\\fR", meaning]
    lines += [".SH DASHBOARD", *DASHBOARD, ".SH CAPTURE", *CAPTURE, ".SH EXIT STATUS"]
    for code, meaning in EXIT_CODES:
        lines += [".TP", f"\\fB{code}\\fR", escaped(sentence(meaning))]
    lines += listed("ENVIRONMENT", ENVIRONMENT)
    lines += listed("FILES", FILES)
    others = ("relayd.yaml(5)", "relayd-protocols(7)", "relayd-metrics(7)", "relayd-sessions(7)", "relayd-cache(7)", "relayd-migration(7)", "systemctl(1)")
    lines += [".SH SEE ALSO", ", ".join("\\fB" + other.replace("(", "\\fR(") for other in others)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
