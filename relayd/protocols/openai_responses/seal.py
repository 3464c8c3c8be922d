"""Texts that clients keep for relayd and can neither read nor forge: AES-256-GCM under a key of this server.

1. The encryption key is derived (HKDF-SHA256) from the server's secret, for this use only.
2. The nonce is random, 96 bits: the same text never looks the same twice. One key is good for 2^32 seals, far more than
   a server makes.
3. A seal is bound to its purpose as associated data: one made for another purpose cannot be opened.
4. Seals of an earlier format (`relayd-seal-1.`) are refused like any other foreign text.
"""

from __future__ import annotations

import base64
import functools
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIN_KEY_BYTES = 16
_PREFIX = "relayd-seal-2."
_NONCE_BYTES, _TAG_BYTES = 12, 16


class SealError(ValueError):
    """A text is no seal, or one that was not made with this key and purpose."""


def seal(key: bytes, purpose: bytes, text: str) -> str:
    """Seal a text. Raises ValueError for a key that is too short."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    ciphertext = _cipher(key).encrypt(nonce, text.encode("utf-8", "surrogatepass"), purpose)
    return _PREFIX + base64.urlsafe_b64encode(nonce + ciphertext).rstrip(b"=").decode("ascii")


def unseal(key: bytes, purpose: bytes, sealed: str) -> str:
    """The text of a seal. Raises SealError for whatever else this is."""
    cipher = _cipher(key)
    if not sealed.startswith(_PREFIX):
        raise SealError("not sealed here")
    encoded = sealed[len(_PREFIX) :]
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise SealError("damaged") from None
    if len(data) < _NONCE_BYTES + _TAG_BYTES:
        raise SealError("damaged")
    try:
        text = cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], purpose)
    except InvalidTag:
        raise SealError("damaged, or sealed with another key") from None
    return text.decode("utf-8", "surrogatepass")


@functools.lru_cache(maxsize=4)
def _cipher(key: bytes) -> AESGCM:
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"a seal needs a key of at least {MIN_KEY_BYTES} bytes")
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=b"relayd seal 2").derive(key))
