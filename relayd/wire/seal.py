"""Seals: texts that others keep for relayd (clients, a Redis) and can neither read nor forge. AES-256-GCM.

1. The encryption key is derived (HKDF-SHA256) from the server's secret or the operator's, for this use only.
2. The nonce is random, 96 bits, so that seals of equal texts differ. One key is safe for 2^32 seals, far more than a
   server creates.
3. The purpose of a seal is its associated data: a seal for another purpose cannot be decrypted.
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
PREFIX = "relayd-seal-2."
_NONCE_BYTES, _TAG_BYTES = 12, 16


class SealError(ValueError):
    """The text is not a seal, or the seal was created with another key or purpose."""


def seal(key: bytes, purpose: bytes, text: str) -> str:
    """Encrypt a text. Raises ValueError if the key is too short."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    ciphertext = _cipher(key).encrypt(nonce, text.encode("utf-8", "surrogatepass"), purpose)
    return PREFIX + base64.urlsafe_b64encode(nonce + ciphertext).rstrip(b"=").decode("ascii")


def unseal(key: bytes, purpose: bytes, sealed: str) -> str:
    """Decrypt a seal. Raises SealError if it is not a seal of this key and purpose."""
    cipher = _cipher(key)
    if not sealed.startswith(PREFIX):
        raise SealError("it was not sealed by this server")
    encoded = sealed[len(PREFIX) :]
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise SealError("it is damaged") from None
    if len(data) < _NONCE_BYTES + _TAG_BYTES:
        raise SealError("it is damaged")
    try:
        text = cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], purpose)
    except InvalidTag:
        raise SealError("it is damaged, or was sealed with another key") from None
    return text.decode("utf-8", "surrogatepass")


@functools.lru_cache(maxsize=4)
def _cipher(key: bytes) -> AESGCM:
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"a seal needs a key of at least {MIN_KEY_BYTES} bytes")
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=b"relayd seal 2").derive(key))
