"""Keys that relayd issues: 256 random bits behind a prefix, with a checksum at the end.

    rl_ | 43 characters of base62 | 6 characters of base62: the CRC-32 of everything before

The prefix lets scanners for leaked secrets recognise a key, and the checksum tells a typing error from an unknown key
without a look-up. Only the SHA-256 digest is stored: 256 random bits need no slow hash and no salt (NIST SP 800-63B-4,
3.1.2.2, on secrets with sufficient entropy).
"""

from __future__ import annotations

import hashlib
import secrets
import zlib

from relayd.lazy_regex import lazy_regex

PREFIX = "rl_"
KEY_BYTES = 32
SHOWN_CHARACTERS = 7  # of a key in lists: the prefix and four characters
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_CHARACTERS, _CHECK_CHARACTERS = 43, 6
_KEY = lazy_regex(rb"rl_[0-9A-Za-z]{%d}" % (_RANDOM_CHARACTERS + _CHECK_CHARACTERS))


def new_key() -> str:
    """A new key."""
    body = PREFIX + _base62(int.from_bytes(secrets.token_bytes(KEY_BYTES), "big"), _RANDOM_CHARACTERS)
    return body + _check_of(body)


def is_mistyped(key: bytes) -> bool:
    """True if a text was meant to be a key of relayd, but cannot be one: its length or checksum is wrong."""
    if not key.startswith(PREFIX.encode()):
        return False
    if _KEY.fullmatch(key) is None:
        return True
    text = key.decode("ascii")
    return text[-_CHECK_CHARACTERS:] != _check_of(text[:-_CHECK_CHARACTERS])


def digest_of(key: bytes) -> bytes:
    """The digest under which a key is stored (SHA-256, 32 bytes)."""
    return hashlib.sha256(key).digest()


def _check_of(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECK_CHARACTERS)


def _base62(number: int, characters: int) -> str:
    digits = []
    for _ in range(characters):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
