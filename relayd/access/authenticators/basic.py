"""User and password expected as `Authorization: Basic ...` (RFC 7617), as browsers and older clients send them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence

from relayd.access.credential import AI_KEY_FIELDS, Credential
from relayd.schema import Secret, section, setting


@section()
class BasicKey:
    """A user with a password."""

    user: str = setting(doc="The name of the user, without a colon.", pattern=r"[^:]{1,256}", example="alice")
    password: Secret = setting(doc="The password.")


@section()
class Options:
    """A user with a password."""

    basic: BasicKey = setting(doc="User and password expected as `Authorization: Basic ...` (RFC 7617). Browsers ask for them on routes that allow such a consumer.")


def user_and_password(value: bytes) -> bytes | None:
    """`user:password` of an Authorization field's Basic credentials (any case of the scheme), or None."""
    scheme, _, text = value.strip(b" \t").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        found = base64.b64decode(text.strip(b" "), validate=True)
    except binascii.Error:
        return None
    return found if b":" in found else None


class Authenticator:
    """One consumer's user and password."""

    challenge = 'Basic realm="relayd", charset="UTF-8"'  # sent with a refusal, so that a browser asks

    def __init__(self, options: Options) -> None:
        basic = options.basic
        self._secret = Secret(f"{basic.user}:{basic.password.reveal()}", basic.password.source)

    def credentials(self, key_headers: Sequence[str] = AI_KEY_FIELDS) -> Iterable[Credential]:
        """The field in which user and password are expected."""
        yield Credential(b"authorization", user_and_password, self._secret)

    def lines(self) -> list[str]:
        """The header lines that a client sends."""
        return [f"Authorization: Basic {base64.b64encode(self._secret.reveal().encode()).decode()}"]
