"""The settings of a key from the options of `relayd keys`, checked by the rules of the configuration."""

from __future__ import annotations

import argparse
import datetime
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from relayd import clock
from relayd.access.key_record import KeyRecord
from relayd.cli.service_environment import as_installed
from relayd.config.access import IssuedKey
from relayd.config.load import load, load_section_text, load_tree
from relayd.config.model import NAME, Config
from relayd.errors import ConfigError
from relayd.limits.ledger import Ledger
from relayd.plan.identities import Identities
from relayd.schema import nodes
from relayd.schema.units import UnitError, parse_duration


class Refused(Exception):
    """The key cannot be issued like this; the message says why."""


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a new key."""
    parser.add_argument("--group", metavar="NAME", help="the group of the key, an entry of groups in the configuration")
    parser.add_argument(
        "--models", action="append", metavar="LIST", help="patterns of the models that may be used, separated by commas"
    )
    parser.add_argument(
        "--routes", action="append", metavar="LIST",
        help="names of the routes that may be used, separated by commas; without it, routes that allow the group",
    )
    for name in ("rates", "budget"):
        parser.add_argument(
            f"--{name}", action="append", metavar="YAML",
            help=f"an entry of {name} as in the configuration, for example "
            + ("'{requests: 60, per: 1m}'" if name == "rates" else "'{amount: 5, per: day}'"),
        )
    parser.add_argument("--expires", metavar="TIME", help="a duration as 30d, or a date as 2027-01-31 (UTC)")


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that the options state. Raises Refused."""
    settings: dict[str, Any] = {}
    if arguments.group is not None:
        settings["group"] = arguments.group
    for name in ("models", "routes"):
        if (lists := getattr(arguments, name)) is not None:
            settings[name] = [part.strip() for text in lists for part in text.split(",")]
    for name in ("rates", "budget"):
        if (texts := getattr(arguments, name)) is not None:
            settings[name] = [entry for text in texts for entry in entries_of(name, text)]
    return settings


def entries_of(name: str, text: str) -> list[Any]:
    """The entries that a text in YAML has: one, or a list. Raises Refused."""
    try:
        value = plain(load_tree(f"{name}: {text}", f"--{name}").entries[0][1])
    except ConfigError as error:
        raise Refused(f"--{name}: {'; '.join(finding.message for finding in error.findings)}") from None
    return value if isinstance(value, list) else [value]


def plain(node: nodes.Node) -> Any:
    """A node as JSON: numbers and booleans as such, other scalars as text."""
    if isinstance(node, nodes.Mapping):
        return {key.text: plain(value) for key, value in node.entries}
    if isinstance(node, nodes.Sequence):
        return [plain(item) for item in node.items]
    if node.null:
        return None
    try:
        value = json.loads(node.text) if node.plain else node.text
    except ValueError:
        return node.text
    return value if isinstance(value, int | float) and math.isfinite(value) else node.text


def require_settings(name: str, settings: Mapping[str, Any]) -> IssuedKey:
    """Check a key by the rules of the configuration. Raises Refused."""
    if NAME.fullmatch(name) is None:
        raise Refused("a name has letters, digits, _ . - only, at most 64")
    try:
        made: IssuedKey = load_section_text(json.dumps(settings), f"key {name}", IssuedKey)
    except ConfigError as error:
        texts = (f"{one.path}: {one.message}" if one.path else one.message for one in error.findings)
        raise Refused("; ".join(texts)) from None
    return made


def expiry_of(text: str | None) -> float:
    """The end of validity as Unix seconds; 0 without one. Raises Refused."""
    if text is None:
        return 0.0
    try:
        return clock.wall() + parse_duration(text)
    except UnitError:
        pass
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise Refused(f"--expires: {text!r} is neither a duration as 30d nor a date as 2027-01-31") from None
    at = (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()
    if at <= clock.wall():
        raise Refused(f"--expires: {text} is in the past")
    return at


def known_config(path: str) -> tuple[Config | None, str]:
    """The configuration with which new keys are compared, or None and the reason why it cannot be read."""
    try:
        with as_installed(path):
            return load(path).config, ""
    except ConfigError as error:
        return None, str(error.findings[0])


def config_faults(record: KeyRecord, config: Config) -> Iterable[str]:
    """Why this configuration does not accept a key."""
    if record.name in config.consumers or record.name in config.groups:
        yield f"{record.name} is the name of a consumer or group of the configuration"
    group, routes = record.settings.get("group"), {route.name for route in config.routes}
    if group is not None and group not in config.groups:
        yield f"the configuration has no group {group}"
    for route in record.settings.get("routes", ()):
        if route not in routes:
            yield f"the configuration has no route {route}"


def config_cautions(record: KeyRecord, config: Config) -> Iterable[str]:
    """Settings without effect on a key that this configuration accepts."""
    if not opens_a_route(record, config):
        yield "no route accepts this key: name its group in `allow` of a route, or name routes with --routes"
    if record.settings.get("budget") and config.prices is None:
        yield "its budget is never used, because nothing costs anything without prices"


def opens_a_route(record: KeyRecord, config: Config) -> bool:
    """True if the key is accepted by any route that needs a key."""
    identity = Identities(config, {}, {}, Ledger()).of_key(record)
    return identity is not None and any(
        identity.may_enter(route.name, frozenset(route.allow) if route.allow else None)
        for route in config.routes if route.allow or identity.routes is not None
    )
