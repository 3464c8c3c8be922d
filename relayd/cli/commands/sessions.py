"""`relayd sessions`: the sessions of clients that the running relayd has stored.

    list            every session: the digest of its id, its consumer, its size, when it expires
    show ID         one session with its document; this counts as a use of it
    forget ID       delete a session; --consumer deletes all of a consumer, --all every one
    import          take over the sessions of another program from its Redis: string values with JSON

ID is the digest that `list` and the access log (`session`) show, or the beginning of it, or the id of a client itself.
An imported session belongs to the consumer of --consumer, without it to routes that need no key. Its id is what its key
has after the part of --pattern before the first special character (or after --strip). It lives for `sessions.ttl` from
the import on. A session that exists is not replaced. Nothing is changed in the other Redis. Exit codes: 0 done, 1
failed (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from relayd.cli.action import add_daemon_options, post, request
from relayd.cli.output import err, out, plain, span, table
from relayd.cli.session_import import run_import
from relayd.lazy_regex import lazy_regex
from relayd.proxy.client_session import SHOWN_CHARS, key_of

HELP = "list, show, delete or import the sessions of clients"
COLUMNS = ("SESSION", "CONSUMER", "BYTES", "EXPIRES IN")
_DIGEST = lazy_regex("[0-9a-f]{6,32}")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("list", "show", "forget", "import"),
        help="list: show all sessions; show: show one; forget: delete; import: take over those of another program",
    )
    parser.add_argument("session", nargs="?", metavar="ID", help="the digest of the session, or the id itself")
    parser.add_argument("--consumer", metavar="NAME", help="list, forget: those of a consumer; import: their consumer")
    parser.add_argument("--all", action="store_true", help="forget: every session")
    parser.add_argument("--redis", metavar="URL", help="import: the Redis of the other program, as redis://HOST:PORT/DB")
    parser.add_argument("--password-file", metavar="FILE", help="import: a file with the password of that Redis")
    parser.add_argument("--pattern", metavar="GLOB", help="import: the keys of sessions, as session:*")
    parser.add_argument("--strip", metavar="TEXT", help="import: what a key has before the id")
    parser.add_argument("--dry-run", action="store_true", help="import: only say what would be imported")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_daemon_options(parser)


def run(arguments: argparse.Namespace) -> int:
    if fault := usage_fault(arguments):
        err(f"relayd: sessions {arguments.action}: {fault}")
        return 2
    if arguments.action == "import":
        return run_import(arguments)
    actions = {"list": list_all, "show": show, "forget": forget}
    return actions[arguments.action](arguments)


def usage_fault(arguments: argparse.Namespace) -> str:
    """Why these arguments do not belong together; empty if they do."""
    action, named = arguments.action, arguments.session is not None
    if action == "show" and not named:
        return "needs the ID of a session"
    if action in ("list", "import") and named:
        return "takes no ID"
    if action == "forget" and named + (arguments.consumer is not None) + arguments.all != 1:
        return "needs either the ID of a session, --consumer or --all"
    if action == "import" and not (arguments.redis and arguments.pattern):
        return "needs --redis and --pattern"
    return ""


def list_all(arguments: argparse.Namespace) -> int:
    data = request(arguments, "GET", "sessions")
    if data is None:
        return 1
    if arguments.consumer is not None:
        data["sessions"] = [one for one in data["sessions"] if one["consumer"] == arguments.consumer]
    for line in [json.dumps(data, indent=2)] if arguments.json else lines(data):
        out(line)
    return 0


def lines(data: dict[str, Any]) -> Iterator[str]:
    """One line for each session, the next to expire first."""
    found = sorted(data["sessions"], key=lambda one: float(one["expires_in_s"]))
    if not found:
        yield "no sessions"
        return
    yield from table([COLUMNS, *map(row, found)])
    if data["omitted"]:
        yield f"... {data['omitted']} more"


def row(one: dict[str, Any]) -> tuple[str, ...]:
    return one["id"][:SHOWN_CHARS], plain(one["consumer"]) or "-", str(one["size_bytes"]), span(one["expires_in_s"])


def keys_of(text: str) -> list[str]:
    """The digests that an ID may mean, the most likely one first."""
    digest = key_of(text.encode("utf-8", "surrogateescape"))
    return [text, digest] if _DIGEST.fullmatch(text) else [digest]


def show(arguments: argparse.Namespace) -> int:
    data = None
    for key in keys_of(arguments.session):
        data = request(arguments, "GET", "sessions", key, quiet=key != keys_of(arguments.session)[-1])
        if data is not None:
            break
    if data is None:
        return 1
    if arguments.json:
        out(json.dumps(data, indent=2))
        return 0
    out(f"session    {data['id']}")
    out(f"consumer   {plain(data['consumer']) or '-'}")
    out(f"expires in {span(data['expires_in_s'])}")
    for name, label in data["endpoints"].items():
        out(f"endpoint   {plain(name)}: {plain(label)}")
    out(json.dumps(data["document"], indent=2))
    return 0


def forget(arguments: argparse.Namespace) -> int:
    if arguments.session is None:
        asked = [{"all": True} if arguments.all else {"consumer": arguments.consumer}]
    else:
        asked = [{"key": key} for key in keys_of(arguments.session)]
    for one in asked:
        reply = post(arguments, "/sessions/forget", one, quiet=one is not asked[-1])
        if reply is not None:
            out(json.dumps(reply) if arguments.json else f"{reply['forgotten']} deleted")
            return 0
    return 1
