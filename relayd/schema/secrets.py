"""Reads secrets from a file, an environment variable or a credential of systemd. No other module reads os.environ.

Laws:
1. relayd.yaml contains references to secrets only; an inline text is a fault.
2. No message contains a byte of a secret, or of a text in the place of a reference.
3. A missing, empty or unusable secret is a fault when the configuration is checked, not when the secret is first used.
"""

from __future__ import annotations

import os
import stat

from relayd.lazy_regex import lazy_regex
from relayd.schema.files import FileFault, read_file
from relayd.schema.types import Secret

KINDS = ("file", "env", "credential")
HOW = "write {file: /etc/relayd/keys/NAME}, {env: NAME} or {credential: NAME}"
LONGEST = 64 * 1024

_NAME = lazy_regex(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_CREDENTIAL = lazy_regex(r"[A-Za-z0-9_.\-]{1,128}")


class SecretError(ValueError):
    """A secret cannot be read. The message never contains a part of it."""


def is_variable(name: str) -> bool:
    """Whether an environment variable may have this name."""
    return _NAME.fullmatch(name) is not None


def resolve(kind: str, reference: str, folder: str = "") -> Secret:
    """The secret that `{kind: reference}` refers to; a relative path begins at `folder`. Raises SecretError."""
    if kind == "env":
        if not is_variable(reference):
            raise SecretError("is not a name of an environment variable")
        value = os.environ.get(reference)
        if value is None:
            raise SecretError(f"environment variable {reference} is not set")
        return Secret(_usable(value, f"environment variable {reference}"), f"env {reference}")
    if kind == "credential":
        if _CREDENTIAL.fullmatch(reference) is None or reference in (".", ".."):
            raise SecretError("is not a name of a credential")
        where = os.environ.get("CREDENTIALS_DIRECTORY")
        if not where:
            raise SecretError(f"credential {reference}: systemd passed none (CREDENTIALS_DIRECTORY is not set)")
        value, _ = _read(os.path.join(where, reference), f"credential {reference}")
        return Secret(_usable(value, f"credential {reference}"), f"credential {reference}")
    path = os.path.join(folder, reference)
    value, exposed = _read(path, path)
    return Secret(_usable(value, path), f"file {path}", exposed)


def _read(path: str, name: str) -> tuple[str, bool]:
    """The text of a file, and whether every user of the machine can read it."""
    try:
        raw, status = read_file(path, LONGEST)
    except FileFault as fault:
        raise SecretError(f"{name}: cannot be read: {fault}") from None
    try:
        return raw.decode("utf-8"), bool(status.st_mode & stat.S_IROTH)
    except UnicodeDecodeError:
        raise SecretError(f"{name}: is not UTF-8 text") from None


def _usable(raw: str, name: str) -> str:
    value = raw.removesuffix("\n").removesuffix("\r")
    if not value.strip():
        raise SecretError(f"{name}: is empty")
    if any(ord(sign) < 0x20 or ord(sign) == 0x7F or 0xD800 <= ord(sign) <= 0xDFFF for sign in value):
        raise SecretError(f"{name}: contains a control character or a second line")
    if value != value.strip():
        raise SecretError(f"{name}: begins or ends with a space")
    return value
