"""`relayd keys`: keys of consumers, issued and revoked without a change of the configuration.

    create NAME     issue a key; it is printed once, relayd keeps only its digest
    list            all keys, with their state and last use
    show NAME       one key with its settings
    revoke NAME     refuse a key from the next request on, on every instance of this machine; with `store: redis` on
                    other machines about a second later
    rotate NAME     issue a new key for the same consumer; the old one is accepted for the time of --overlap
    import FILE     take over keys of another program: CSV or JSON with keys or their SHA-256, LiteLLM's table

Changes are in force for the next request, without a reload. A key is a consumer of its name: `allow` of a route
accepts it through its group, or --routes names the routes. The commands need root or the user of the service, and work
while relayd is stopped. Exit codes: 0 done, 1 refused or failed (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from relayd import clock
from relayd.access.issued_key import SHOWN_CHARACTERS, digest_of, new_key
from relayd.access.key_journal import JournalFault, KeyJournal
from relayd.access.key_record import KeyRecord
from relayd.access.key_store import KeyStore
from relayd.cli import key_import
from relayd.cli.config_file import add_config_option, config_file
from relayd.cli.key_settings import (
    Refused,
    add_setting_options,
    config_cautions,
    config_faults,
    expiry_of,
    known_config,
    require_settings,
    settings_of,
)
from relayd.cli.output import err, file_fault, out, paint, plain, span, table
from relayd.config.model import Config
from relayd.daemon.generations import SYSTEM_STATE
from relayd.daemon.state_dir import KEYS, keys_folder
from relayd.schema.files import FileFault, read_file
from relayd.schema.units import UnitError, parse_duration

HELP = "issue, list, revoke, rotate or import keys of consumers, in force at once"
COLUMNS = ("NAME", "ID", "KEY", "GROUP", "STATE", "EXPIRES", "LAST USE", "CREATED")
COLOURS = {"revoked": "dim", "expired": "yellow"}
MAX_FILE_BYTES = 64 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("create", "list", "show", "revoke", "rotate", "import"),
        help="create: issue a key; list: show all keys; show: show one; revoke: refuse it from now on; "
        "rotate: replace it; import: take over keys from FILE",
    )
    parser.add_argument("argument", nargs="?", metavar="NAME|FILE", help="the name or id of the key, or the file")
    add_setting_options(parser)
    parser.add_argument(
        "--overlap", metavar="TIME", default="24h", help="rotate: how long the old key is accepted (default 24h)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--state", metavar="DIR", help=f"relayd's state directory (default {SYSTEM_STATE})")
    add_config_option(parser, "the configuration with which new keys are compared")


def run(arguments: argparse.Namespace) -> int:
    if (arguments.action == "list") == bool(arguments.argument):
        needs = "takes no name" if arguments.argument else "needs the name of a " + (
            "file" if arguments.action == "import" else "key")
        err(f"relayd: keys {arguments.action} {needs}")
        return 2
    journal = KeyJournal(os.path.join(arguments.state, KEYS) if arguments.state else keys_folder())
    try:
        return ACTIONS[arguments.action](arguments, journal)
    except (Refused, JournalFault, key_import.ImportFault) as failed:
        err(f"relayd: {failed}")
    except OSError as failed:
        err(f"relayd: {file_fault(failed)}")
    return 1


# ---- changes


def create(arguments: argparse.Namespace, journal: KeyJournal) -> int:
    name, settings = arguments.argument, settings_of(arguments)
    require_settings(name, settings)
    key, now_s = new_key(), clock.wall()
    record = KeyRecord(
        secrets.token_hex(6), name, digest_of(key.encode()).hex(), key[:SHOWN_CHARACTERS], created_s=now_s,
        expires_s=expiry_of(arguments.expires), settings=settings,
    )
    compare(arguments, record)
    with journal.locked():
        store = journal.read()
        if any(one.name == name and not one.revoked_s for one in store.records()):
            raise Refused(f"there is a key {name} already; revoke or rotate it, or choose another name")
        journal.append(store, [record], now_s)
    return issued(arguments, record, key)


def rotate(arguments: argparse.Namespace, journal: KeyJournal) -> int:
    try:
        overlap_s = parse_duration(arguments.overlap)
    except UnitError as fault:
        raise Refused(f"--overlap: {fault}") from None
    key, now_s = new_key(), clock.wall()
    with journal.locked():
        store = journal.read()
        old = named(store, arguments.argument)
        if old.state(now_s) == "expired" and arguments.expires is None:
            raise Refused(f"{old.name} has expired; state a new end with --expires")
        record = dataclasses.replace(
            old, digest=digest_of(key.encode()).hex(), start=key[:SHOWN_CHARACTERS], rotated_s=now_s,
            previous=old.digest if overlap_s else "", previous_until_s=now_s + overlap_s if overlap_s else 0.0,
            expires_s=old.expires_s if arguments.expires is None else expiry_of(arguments.expires),
        )
        journal.append(store, [record], now_s)
    if overlap_s:
        err(f"relayd: the old key is accepted for another {span(overlap_s)}")
    return issued(arguments, record, key)


def issued(arguments: argparse.Namespace, record: KeyRecord, key: str) -> int:
    """Print a new key, alone on standard output, so that a script can store it."""
    if arguments.json:
        out(json.dumps({**facts(record, {}), "key": key}, indent=2))
        return 0
    out(key)
    err(f"relayd: key {record.name} ({record.id}) is in force; it is shown only now")
    return 0


def revoke(arguments: argparse.Namespace, journal: KeyJournal) -> int:
    now_s = clock.wall()
    with journal.locked():
        store = journal.read()
        record = dataclasses.replace(named(store, arguments.argument), revoked_s=now_s, previous="")
        journal.append(store, [record], now_s)
    if arguments.json:
        out(json.dumps(facts(record, {}), indent=2))
    else:
        out(f"{record.name} ({record.id}): revoked")
    return 0


def take_over(arguments: argparse.Namespace, journal: KeyJournal) -> int:
    """Import the keys of a file. All that can be used are imported; the others are listed with the reason."""
    try:
        text = read_file(arguments.argument, MAX_FILE_BYTES)[0].decode("utf-8")
        found = list(key_import.entries(text))
    except (FileFault, UnicodeDecodeError, key_import.ImportFault) as fault:
        raise Refused(f"{arguments.argument}: {fault}") from None
    config, _ = known_config(config_file(arguments))
    defaults, now_s, skipped = settings_of(arguments), clock.wall(), 0
    with journal.locked():
        store = journal.read()
        names = {one.name for one in store.records() if not one.revoked_s}
        digests = {digest for one in store.records() for digest in (one.digest, one.previous) if digest}
        records: list[KeyRecord] = []
        for entry in found:
            record = KeyRecord(
                secrets.token_hex(6), free_name(entry.name, names), entry.digest, created_s=now_s,
                expires_s=entry.expires_s, settings=defaults | entry.settings,
            )
            reason = entry.fault or reason_to_skip(entry, record, digests, now_s)
            faults = [] if reason or config is None else list(config_faults(record, config))
            for remark in (*entry.remarks, *faults):
                err(f"{plain(entry.name)}: {plain(remark)}")
            if reason:
                skipped += 1
                err(f"{plain(entry.name)}: not imported: {plain(reason)}")
                continue
            names.add(record.name)
            digests.add(record.digest)
            records.append(record)
        if records:
            journal.append(store, records, now_s)
    if config is not None:
        for caution, count in cautions_of(records, config).items():
            err(f"relayd: {count} of these keys: {caution}")
    out(f"{len(records)} keys imported, {skipped} not")
    return 1 if skipped and not records else 0


def cautions_of(records: Iterable[KeyRecord], config: Config) -> Counter[str]:
    """How many of these keys a caution concerns. Keys with the same settings are compared once."""
    alike: dict[str, list[KeyRecord]] = {}
    for record in records:
        alike.setdefault(json.dumps(record.settings, sort_keys=True), []).append(record)
    found: Counter[str] = Counter()
    for same in alike.values():
        for caution in config_cautions(same[0], config):
            found[caution] += len(same)
    return found


def reason_to_skip(entry: key_import.Entry, record: KeyRecord, digests: set[str], now_s: float) -> str:
    """Why an entry of a file is not imported; empty if it is."""
    if entry.is_blocked:
        return "it is blocked"
    if entry.digest in digests:
        return "this key is known already"
    if entry.expires_s and entry.expires_s <= now_s:
        return "it has expired"
    try:
        require_settings(record.name, record.settings)
    except Refused as refused:
        return str(refused)
    return ""


def free_name(name: str, taken: set[str]) -> str:
    """The name, with a number if it is taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name[:56]}-{number}"
    return free


def compare(arguments: argparse.Namespace, record: KeyRecord) -> None:
    """Compare a new key with the configuration. Raises Refused."""
    config, why = known_config(config_file(arguments))
    if config is None:
        err(f"relayd: not compared with the configuration: {why}")
        return
    for fault in config_faults(record, config):
        raise Refused(fault)
    for caution in config_cautions(record, config):
        err(f"relayd: {caution}")


def named(store: KeyStore, name: str, *, revoked: bool = False) -> KeyRecord:
    """The key of this name or id; a revoked one only if `revoked` permits it and no other has the name. Raises
    Refused."""
    present = sorted((one for one in store.records() if revoked or not one.revoked_s), key=lambda one: one.revoked_s)
    for found in (*(one for one in present if one.name == name), *(one for one in present if one.id == name)):
        return found
    raise Refused(f"there is no key {name}; `relayd keys list` shows all")


# ---- views


def show_list(arguments: argparse.Namespace, journal: KeyJournal) -> int:
    store, used = journal.read(), journal.read_used()
    found = [facts(record, used) for record in store.records()]
    if arguments.json:
        out(json.dumps({"keys": found, "fault": store.problem}, indent=2))
        return 0
    if store.problem:
        err(f"relayd: {store.problem}")
    if not found:
        out("no key was issued")
        return 0
    for line in table([COLUMNS, *map(row, found)]):
        out(line)
    return 0


def show_one(arguments: argparse.Namespace, journal: KeyJournal) -> int:
    store = journal.read()
    found = facts(named(store, arguments.argument, revoked=True), journal.read_used())
    if arguments.json:
        out(json.dumps(found, indent=2))
        return 0
    for name, value in shown(found):
        out(f"{name:12} {plain(value)}")
    return 0


def facts(record: KeyRecord, used: dict[str, float]) -> dict[str, Any]:
    """A key as data, without its digest."""
    now_s = clock.wall()
    return {
        "id": record.id, "name": record.name, "start": record.start, "state": record.state(now_s),
        "created_at": record.created_s, "expires_at": record.expires_s, "revoked_at": record.revoked_s,
        "rotated_at": record.rotated_s,
        "old_key_until": record.previous_until_s if record.previous and now_s < record.previous_until_s else 0,
        "last_used": used.get(record.id, 0), **record.settings,
    }


def row(one: dict[str, Any]) -> tuple[str, ...]:
    state = one["state"]
    return (
        one["name"], one["id"], f"{one['start']}..." if one["start"] else "-", plain(str(one.get("group", "-"))),
        paint(state, COLOURS[state]) if state in COLOURS else state,
        day(one["expires_at"]), moment(one["last_used"]), day(one["created_at"]),
    )


def shown(one: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts about a key as text."""
    for name, value in one.items():
        if name.endswith(("_at", "_until")) or name == "last_used":
            yield name, moment(value)
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)


def day(at: float) -> str:
    return moment(at)[:10]


def moment(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at else "-"


ACTIONS = {
    "create": create, "list": show_list, "show": show_one, "revoke": revoke, "rotate": rotate, "import": take_over,
}
