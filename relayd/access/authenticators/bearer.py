"""Key expected as `Authorization: Bearer ...`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from relayd.access.credential import AI_KEY_FIELDS, Credential, bearer_key
from relayd.schema import Secret, section, setting
from relayd.wire.field_syntax import bearer_key_fault


@section()
class Options:
    """A bearer key."""

    bearer: Secret = setting(doc="Key expected as `Authorization: Bearer ...`.")

    def check(self) -> Iterable[tuple[str, str]]:
        if fault := bearer_key_fault(self.bearer.reveal()):
            yield "bearer", fault


class Authenticator:
    """One consumer's bearer key."""

    def __init__(self, options: Options) -> None:
        self._secret = options.bearer

    def credentials(self, key_headers: Sequence[str] = AI_KEY_FIELDS) -> Iterable[Credential]:
        """The field in which the key is expected."""
        yield Credential(b"authorization", bearer_key, self._secret)

    def lines(self) -> list[str]:
        """The header lines that a client sends."""
        return [f"Authorization: Bearer {self._secret.reveal()}"]
