"""Sessions of browsers that have signed in with a consumer's key: the dashboard of the admin application.

1. A session holds the digest of the key, never the key. Each request looks the digest up again, so a session ends with
   the revocation of its key, the removal of its consumer, and its own end.
2. A token is random, and only its digest is stored.
3. Memory is bounded: MAX_SESSIONS in total and MAX_OF_KEY of one key; the oldest are ended first.
"""

from __future__ import annotations

import hashlib
import secrets

LIFETIME_S = 8 * 3600.0
MAX_SESSIONS = 1000
MAX_OF_KEY = 20


class Session:
    """A signed-in browser. `key_digest` identifies the key, `csrf_token` must accompany each action, `end_s` is on the
    monotonic clock. `streams` counts its open event streams."""

    __slots__ = ("csrf_token", "end_s", "ended", "key_digest", "streams")

    def __init__(self, key_digest: bytes, end_s: float) -> None:
        self.key_digest, self.end_s = key_digest, end_s
        self.csrf_token = secrets.token_urlsafe(24)
        self.streams = 0
        self.ended = False


class Sessions:
    """One per process; sessions persist over reloads. Times are monotonic seconds."""

    __slots__ = ("_by_digest",)

    def __init__(self) -> None:
        self._by_digest: dict[bytes, Session] = {}  # in the order of their beginning, which is that of their end

    def __len__(self) -> int:
        return len(self._by_digest)

    def begin(self, key_digest: bytes, now_s: float) -> tuple[str, Session]:
        """Begin a session for a key. Returns the token for the browser's cookie, and the session."""
        self._expire(now_s)
        of_key = [token for token, one in self._by_digest.items() if one.key_digest == key_digest]
        if len(of_key) >= MAX_OF_KEY:
            self._end(of_key[0])
        while len(self._by_digest) >= MAX_SESSIONS:
            self._end(next(iter(self._by_digest)))
        token = secrets.token_urlsafe(32)
        session = self._by_digest[_digest(token.encode())] = Session(key_digest, now_s + LIFETIME_S)
        return token, session

    def find(self, token: bytes, now_s: float) -> Session | None:
        """The session of a cookie's token, or None."""
        session = self._by_digest.get(_digest(token))
        return None if session is None or now_s >= session.end_s else session

    def end(self, session: Session) -> None:
        """End a session: its browser has signed out, or its key is no longer known."""
        for digest, one in self._by_digest.items():
            if one is session:
                self._end(digest)
                return

    def _end(self, digest: bytes) -> None:
        self._by_digest.pop(digest).ended = True

    def _expire(self, now_s: float) -> None:
        while self._by_digest:
            digest, session = next(iter(self._by_digest.items()))
            if now_s < session.end_s:
                return
            self._end(digest)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def cookie_value(fields: list[bytes], name: bytes) -> bytes | None:
    """The value of a cookie in Cookie fields (RFC 6265 4.2); None if it is absent or repeated."""
    found = [
        value.strip(b' \t"') for field in fields for pair in field.split(b";")
        for key, separator, value in (pair.partition(b"="),) if separator and key.strip() == name
    ]
    return found[0] if len(found) == 1 else None
