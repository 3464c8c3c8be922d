"""Reads keys of other programs for `relayd keys import`: an export of LiteLLM's table of keys, or a plain table.

    CSV with a header, or JSON: a list of objects, an object with a list under `keys`, or one object per line

Members of each entry: `key` (the key itself; only its digest is kept) or `hash` (its SHA-256 in hexadecimal), `name`,
`group`, `models`, `routes`, `expires`. LiteLLM names them otherwise: `token` (the SHA-256 of the key), `key_alias`,
`team_id`, `expires`, `models`, `blocked`, `rpm_limit`, `tpm_limit`, `max_budget` with `budget_duration`.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

from relayd.access.issued_key import digest_of
from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex

SHORTEST_KEY = 16
_HASH = lazy_regex(r"[0-9a-fA-F]{64}")
_NOT_IN_NAMES = lazy_regex(r"[^A-Za-z0-9_.\-]+")
_KNOWN = frozenset((
    "key", "hash", "token", "name", "key_alias", "group", "team_id", "models", "routes", "expires", "blocked",
    "rpm_limit", "tpm_limit", "max_budget", "budget_duration",
))
# Facts of LiteLLM that limit nothing: statistics, and names that relayd does not need.
_IGNORED = frozenset((
    "key_name", "spend", "created_at", "updated_at", "created_by", "updated_by", "budget_reset_at", "user_id",
    "metadata", "last_active", "soft_budget_cooldown", "litellm_budget_table", "config", "last_refreshed_at",
    "rotation_count", "team_alias", "user_email", "object_permission", "object_permission_id",
    "last_rotation_at", "auto_rotate", "rotation_interval", "key_rotation_at", "model_spend", "user", "team",
    "organization", "project_id", "agent_id",
))  # fmt: skip
_OFF = ("false", "f", "0")
_ALL_MODELS = frozenset(("all-team-models", "all-proxy-models", "*"))


class ImportFault(Exception):
    """The file cannot be read as a table of keys."""


@dataclass(slots=True)
class Entry:
    """One key of the file. `settings` are as in the configuration, `remarks` name omissions and changes. A
    `fault` means that the key cannot be used."""

    name: str = ""
    digest: str = ""
    expires_s: float = 0.0
    is_blocked: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    fault: str = ""


def entries(text: str) -> Iterator[Entry]:
    """The keys of a file, in its order. Raises ImportFault."""
    for number, row in enumerate(_rows(text), 1):
        entry = Entry(name=f"imported-{number}")
        try:
            _read(entry, {str(name).strip(): value for name, value in row.items() if _is_set(value)})
        except (ValueError, TypeError, OverflowError) as fault:
            entry.fault = str(fault)
        yield entry


def _rows(text: str) -> list[Mapping[str, Any]]:
    stripped = text.lstrip("\ufeff \t\r\n")
    try:
        if stripped[:1] == "[":
            found = json.loads(stripped)
        elif stripped[:1] == "{":
            lines = [line for line in stripped.splitlines() if line.strip()]
            try:
                found = json.loads(stripped)
                found = found.get("keys", [found]) if isinstance(found, dict) else found
            except ValueError:
                found = [json.loads(line) for line in lines]
        else:
            found = list(csv.DictReader(io.StringIO(stripped), strict=True))
    except (ValueError, RecursionError, csv.Error) as fault:
        raise ImportFault(f"is neither JSON nor CSV with a header: {fault}") from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ImportFault("is no table of keys")
    if found and not any(_KNOWN & {str(name) for name in row} for row in found):
        raise ImportFault("has no column `key`, `hash` or `token`")
    return found


def _is_set(value: Any) -> bool:
    return value not in (None, "", [], {}, "{}", "[]", "null", "NULL", "\\N")


def _read(entry: Entry, row: dict[str, Any]) -> None:
    """Convert one row. Raises ValueError for a key that cannot be used."""
    key, hashed = row.get("key"), row.get("hash") or row.get("token")
    name = _NOT_IN_NAMES.sub("-", str(row.get("name") or row.get("key_alias") or "")).strip("-")[:64]
    entry.name = name or entry.name
    if key is not None:
        if len(str(key)) < SHORTEST_KEY or not str(key).isascii() or not str(key).isprintable() or " " in str(key):
            raise ValueError(f"its key has less than {SHORTEST_KEY} characters, or others than visible ASCII")
        entry.digest = digest_of(str(key).encode()).hex()
    elif hashed is not None and _HASH.fullmatch(str(hashed)):
        entry.digest = str(hashed).lower()
    else:
        raise ValueError("it has neither a key nor its SHA-256")
    entry.is_blocked = str(row.get("blocked", "")).lower() in ("true", "t", "1")
    if "expires" in row:
        entry.expires_s = _time(row["expires"])
    settings = entry.settings
    if group := row.get("group") or row.get("team_id"):
        settings["group"] = str(group)
    models = _names(row.get("models"))
    if models and not _ALL_MODELS & set(models):
        settings["models"] = models
    if routes := _names(row.get("routes")):
        settings["routes"] = routes
    _read_limits(settings, row)
    unknown = sorted(name for name in row.keys() - _KNOWN - _IGNORED if str(row[name]).lower() not in _OFF)
    if unknown:
        entry.remarks.append(f"not converted: {', '.join(unknown)}")


def _read_limits(settings: dict[str, Any], row: dict[str, Any]) -> None:
    rates = [
        {measure: int(float(row[member])), "per": "1m"}
        for member, measure in (("rpm_limit", "requests"), ("tpm_limit", "tokens")) if member in row
    ]
    if rates:
        settings["rates"] = rates
    if "max_budget" in row:
        per = str(row.get("budget_duration") or "total")
        settings["budget"] = [{"amount": str(row["max_budget"]), "per": "month" if per == "1mo" else per}]


def _names(value: Any) -> list[str]:
    """A list of names: of JSON, of a text with commas, or of a PostgreSQL array (`{a,b}`)."""
    if isinstance(value, list):
        return [str(one) for one in value]
    text = str(value or "").strip()
    if text[:1] == "[":
        return _names(json.loads(text))
    text = text.removeprefix("{").removesuffix("}")
    return [name for part in next(csv.reader([text]), []) if (name := part.strip())]


def _time(value: Any) -> float:
    """A time as Unix seconds: a number, or ISO 8601 (UTC without a zone)."""
    if isinstance(value, int | float):
        return float(value)
    found = datetime.datetime.fromisoformat(str(value).strip().replace(" ", "T", 1))
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()
