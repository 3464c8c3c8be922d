"""The record of one key of the key store, as a line of JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex

_DIGEST = lazy_regex(r"[0-9a-f]{64}")
_ID = lazy_regex(r"[0-9a-f]{12}")
_NAME = lazy_regex(r"[A-Za-z0-9_.\-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key. Times are Unix seconds; 0 means never.

    `id` never changes, `name` is unique among the keys that are not revoked. `digest` is the SHA-256 of the key in
    hexadecimal, `start` the beginning of the key for lists (empty if unknown). `previous` is the digest before the last
    rotation, accepted until `previous_until_s`. `settings` are `group`, `routes`, `models`, `rates` and `budget`, as in
    the configuration.
    """

    id: str
    name: str
    digest: str
    start: str = ""
    created_s: float = 0.0
    expires_s: float = 0.0
    revoked_s: float = 0.0
    rotated_s: float = 0.0
    previous: str = ""
    previous_until_s: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def state(self, now_s: float) -> str:
        """`revoked`, `expired` or `valid` at this time (Unix seconds)."""
        if self.revoked_s:
            return "revoked"
        return "expired" if self.expires_s and now_s >= self.expires_s else "valid"

    def digests(self) -> list[tuple[bytes, float]]:
        """The digests that identify this key, each with the time until which it does (infinite without an end)."""
        if self.revoked_s:
            return []
        end_s = self.expires_s or math.inf
        found = [(bytes.fromhex(self.digest), end_s)]
        if self.previous:
            found.append((bytes.fromhex(self.previous), min(end_s, self.previous_until_s)))
        return found

    def line(self) -> bytes:
        """The record as a line of the journal."""
        members = {
            name: value for name in self.__slots__
            if (value := getattr(self, name)) or name in ("id", "name", "digest")
        }
        return json.dumps(members, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> KeyRecord:
        """Read a line. Raises ValueError if it is damaged."""
        try:
            members = json.loads(line)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        if not isinstance(members, dict):
            raise ValueError("is no object")
        unknown = members.keys() - set(cls.__slots__)
        if unknown:
            raise ValueError(f"has an unknown member {min(unknown)[:40]!r}")
        try:
            record = cls(**members)
        except TypeError as error:
            raise ValueError("lacks a member") from error
        record.require_valid()
        return record

    def require_valid(self) -> None:
        """Raises ValueError if a member has a wrong type or form."""
        texts: tuple[object, ...] = (self.id, self.name, self.digest, self.start, self.previous)
        times: tuple[object, ...] = (
            self.created_s, self.expires_s, self.revoked_s, self.rotated_s, self.previous_until_s
        )
        settings: object = self.settings
        if not all(isinstance(one, str) for one in texts) or not isinstance(settings, dict):
            raise ValueError("has a member of a wrong type")
        if not all(isinstance(one, int | float) and math.isfinite(one) and one >= 0 for one in times):
            raise ValueError("has a time that is no number")
        if _ID.fullmatch(self.id) is None or _NAME.fullmatch(self.name) is None:
            raise ValueError("has a wrong id or name")
        if _DIGEST.fullmatch(self.digest) is None or (self.previous and _DIGEST.fullmatch(self.previous) is None):
            raise ValueError("has a wrong digest")
