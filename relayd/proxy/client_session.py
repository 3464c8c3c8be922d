"""The session of a request: its id, the cookie and the header field that carry it, and its place in the store.

1. An id is a secret of its client: it is never logged, shown or stored. `key`, a digest of it, is used instead.
2. An id that is not in the store is never adopted: the client gets a new random one.
3. A consumer finds its own sessions only: each consumer has its own space.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from relayd.config.sessions import OFF, Sessions
from relayd.lazy_regex import lazy_regex
from relayd.proxy.account import more_of
from relayd.stores._space import Space
from relayd.telemetry.outcome import Record
from relayd.upstream.lease import Lease
from relayd.wire.http1 import RequestHead
from relayd.wire.json_steps import Steps
from relayd.wire.response import ResponseHead

SPACE = "session:"
"""The beginning of the names of the spaces that hold documents by `key`."""

ENDPOINTS = "session-endpoints:"
"""The beginning of the names of the spaces that hold the endpoint of each upstream by `key`."""

ID_BYTES, MAX_ID_CHARS, KEY_CHARS, SHOWN_CHARS = 24, 128, 32, 16
_ID = lazy_regex(rb"[!#-+\--:<-\[\]-~]{1,%d}" % MAX_ID_CHARS)  # the characters of a cookie (RFC 6265 4.1.1)


class SessionCounts:
    """The number of sessions that this process has created; owned by the gateway."""

    __slots__ = ("created",)

    def __init__(self) -> None:
        self.created = 0


class ClientSession:
    """Owned by its exchange. `key` is the digest of the id; `is_new` is true if the store did not have it, `is_stored`
    if it has it now. `is_uncertain`: the client's id is not known, but the store cannot be asked. `text` is the
    document as found. `endpoints` has the endpoint of each upstream with `affinity: session`. `result` is for the
    upstream `sessions`."""

    __slots__ = (
        "_by_cookie", "_counts", "_endpoint_space", "_id", "_is_secure", "_may_begin", "_settings", "endpoints",
        "is_new", "is_stored", "is_uncertain", "key", "result", "space", "text",
    )

    def __init__(
        self, settings: Sessions, space: Space, endpoint_space: Space, counts: SessionCounts, *, is_secure: bool,
        may_begin: bool,
    ) -> None:
        """A session with a new id. `is_secure` is true if the client's connection is TLS. `may_begin` is true if a
        response of an endpoint may create the session."""
        self._settings, self.space, self._endpoint_space, self._counts = settings, space, endpoint_space, counts
        self._is_secure, self._may_begin = is_secure, may_begin
        self.is_stored = self.is_uncertain = False
        self._by_cookie = False
        self._id = secrets.token_hex(ID_BYTES).encode()  # begins with no dash, so it can be an argument of a command
        self.key = key_of(self._id)
        self.is_new = True
        self.text: str | None = None
        self.endpoints: dict[str, str] = {}
        self.result: Any = None

    def look_up_steps(self, session_id: bytes, by_cookie: bool, reads_endpoints: bool) -> Steps[None]:
        """Use the session with this id if the store has it, in steps. This renews it."""
        key = key_of(session_id)
        text = yield from self.space.text_steps(key)
        if text is None:
            return
        self._id, self.key, self.text, self._by_cookie = session_id, key, text, by_cookie
        self.is_new, self.is_stored = False, True
        if reads_endpoints:
            found = yield from self._endpoint_space.get_steps(key)
            if isinstance(found, dict):
                self.endpoints = {str(name): str(label) for name, label in found.items()}

    def created(self) -> None:
        """The new session is stored now: count it."""
        self.is_stored = True
        self._counts.created += 1

    def _keep_endpoint(self, lease: Lease) -> None:
        """Keep the endpoint that answers, if the session has none or its endpoint is no longer available."""
        upstream, label = lease.upstream, lease.endpoint.label
        name = upstream.spec.name
        if not upstream.spec.session_affinity or self.endpoints.get(name) == label:
            return
        if name not in self.endpoints or not upstream.is_available(self.endpoints[name]):
            self.endpoints[name] = label
            self._endpoint_space.put(self.key, self.endpoints)

    def forget_endpoints(self) -> None:
        """The session is deleted: forget its endpoints."""
        self._endpoint_space.delete(self.key)

    def record(self, record: Record) -> None:
        """Record the beginning of the digest."""
        more_of(record)["session"] = self.key[:SHOWN_CHARS]

    # ---- fields of the response

    def fields(self) -> list[tuple[str, str]]:
        """The fields that give the id to the client, or renew its cookie."""
        fields = []
        if self._settings.cookie != OFF and (self.is_new or self._by_cookie):
            fields.append(self._cookie(self._id.decode("ascii"), int(self._settings.ttl)))
        if self.is_new and self._settings.header != OFF:
            fields.append((self._settings.header, self._id.decode("ascii")))
        return fields

    def ending_fields(self) -> list[tuple[str, str]]:
        """The field that deletes the client's cookie."""
        return [self._cookie("", 0)] if self._by_cookie else []

    def _cookie(self, value: str, max_age_s: int) -> tuple[str, str]:
        secure = "; Secure" if self._is_secure else ""
        settings = self._settings
        attributes = f"Path={settings.cookie_path}; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}"
        return "Set-Cookie", f"{settings.cookie}={value}; {attributes}"

    def annotate(self, head: ResponseHead, record: Record, lease: Lease | None) -> None:
        """Add the fields to an endpoint's response; a new session is stored before its id is sent. The id replaces a
        field of the endpoint with the same name. `lease` has the endpoint that answers."""
        if not self.is_stored:
            if not self._may_begin or self.is_uncertain:
                return
            self.space.put(self.key, {})
            if self.space.lost(self.key):
                return
            self.created()
            self.record(record)
        if lease is not None:
            self._keep_endpoint(lease)
        fields = self.fields()
        name = self._settings.header.lower().encode() + b":"
        if any(field == self._settings.header for field, _ in fields):
            head.keep = [line for line in head.keep if not line.lower().startswith(name)]
        head.keep += [f"{field}: {value}\r\n".encode("ascii") for field, value in fields]


def key_of(session_id: bytes) -> str:
    """The digest under which a session is stored, logged and shown."""
    return hashlib.sha256(b"relayd session\0" + session_id).hexdigest()[:KEY_CHARS]


def is_well_formed(session_id: bytes) -> bool:
    """True if this can be the id of a session, also one of another program that was imported."""
    return _ID.fullmatch(session_id) is not None


def presented_id(head: RequestHead, settings: Sessions) -> tuple[bytes, bool]:
    """The id that the client sends, and whether it is in a cookie; an empty id if there is no well-formed one."""
    if settings.header != OFF:
        value = head.get(settings.header.lower().encode())
        if value is not None:
            return (value if is_well_formed(value) else b""), False
    if settings.cookie != OFF:
        name = settings.cookie.encode()
        for line in head.get_all(b"cookie"):
            for part in line.split(b";"):
                found, equals, value = part.strip(b" \t").partition(b"=")
                if equals and found == name:
                    return (value if is_well_formed(value) else b""), True
    return b"", False


def remove_id(head: RequestHead, settings: Sessions) -> None:
    """Remove the id from the fields that are forwarded."""
    field = settings.header.lower().encode() + b":" if settings.header != OFF else b"\n"
    kept: list[bytes] = []
    keys: list[int] = []
    for index, line in enumerate(head.keep):
        lower = line.lower()
        if lower.startswith(field):
            continue
        if settings.cookie != OFF and lower.startswith(b"cookie:"):
            line = _without_cookie(line, settings.cookie.encode())
            if not line:
                continue
        if index in head.keys:
            keys.append(len(kept))
        kept.append(line)
    head.keep, head.keys = kept, tuple(keys)


def _without_cookie(line: bytes, name: bytes) -> bytes:
    """The Cookie field without the cookie of this name; empty if no other is left. Other cookies do not change."""
    field, _, value = line.partition(b":")
    parts = value.split(b";")
    left = [part for part in parts if part.strip(b" \t").partition(b"=")[0] != name]
    if len(left) == len(parts):
        return line
    rest = b";".join(left).strip(b" \t")
    return field + b": " + rest if rest else b""
