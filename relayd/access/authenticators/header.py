"""Key expected in a field of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from relayd.access.credential import AI_KEY_FIELDS, Credential, plain_key
from relayd.schema import Secret, section, setting
from relayd.wire.field_syntax import FRAMING, TOKEN, field_value_fault


@section()
class HeaderKey:
    """A key expected in a header field of its own."""

    name: str = setting(doc="Field name.", example="x-api-key", pattern=TOKEN)
    value: Secret = setting(doc="The key.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.name.lower() in FRAMING:
            yield "name", "belongs to the framing of the message"
        if field_value_fault(self.value.reveal()):
            yield "value", "holds a character that a field value cannot hold"


@section()
class Options:
    """A key in a field of its own."""

    header: HeaderKey = setting(doc="Key expected in a field of its own.")


class Authenticator:
    """One consumer's key in a field of its own."""

    def __init__(self, options: Options) -> None:
        self._header = options.header

    def credentials(self, key_headers: Sequence[str] = AI_KEY_FIELDS) -> Iterable[Credential]:
        """The field in which the key is expected."""
        yield Credential(self._header.name.lower().encode(), plain_key, self._header.value)

    def lines(self) -> list[str]:
        """The header lines that a client sends."""
        return [f"{self._header.name}: {self._header.value.reveal()}"]
