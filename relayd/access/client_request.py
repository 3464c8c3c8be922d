"""What an authenticator may look at: the fields of a request, the address of its client, and the client's
certificate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from relayd.access.client_certificate import ClientCertificate, no_certificate
from relayd.access.key_source import KeySource
from relayd.access.token import OtherIssuer, Token, TokenFault, parse_token


class HeaderFields(Protocol):
    """The part of a request head that authentication reads. `names` are the lower-case names of all fields, None if
    they are not collected."""

    @property
    def names(self) -> Collection[bytes] | None: ...

    def get_all(self, name_lower: bytes, /) -> Sequence[bytes]: ...


class ClientRequest:
    """One request that is to be identified.

    `client` is the address of the client, `unix` for a Unix socket. `certificate` returns the client's certificate,
    None without one. `refusal` is why a presented token was refused, for the log. `may_be_genuine` is true if it was
    refused because of its time, or because no key is known for it; `lacks_keys` if no key of its issuer is known yet;
    `awaited` are the keys of its issuer if they are being read because of a key that is not known.
    """

    __slots__ = (
        "_presented", "_token", "_token_text", "awaited", "certificate", "client", "head", "key_fields", "lacks_keys",
        "may_be_genuine", "refusal",
    )

    def __init__(
        self, head: HeaderFields, key_fields: Sequence[bytes] = (), client: str = "",
        certificate: Callable[[], ClientCertificate | None] = no_certificate,
    ) -> None:
        """`key_fields` are the lower-case names of all fields that may carry a key."""
        self.head, self.key_fields, self.client, self.certificate = head, key_fields, client, certificate
        self.refusal = ""
        self.may_be_genuine = False
        self.lacks_keys = False
        self.awaited: KeySource | None = None
        self._presented: tuple[bytes, ...] | None = None
        self._token: Token | None = None
        self._token_text: bytes | None = None

    @property
    def presented(self) -> tuple[bytes, ...]:
        """The values of all fields that carry a key, whether known or not."""
        if self._presented is None:
            get_all = self.head.get_all
            self._presented = tuple(value for field in self.key_fields for value in get_all(field))
        return self._presented

    def key_in(self, field: bytes, read: Callable[[bytes], bytes | None]) -> bytes | None:
        """The key in a field; None if it is absent, repeated or malformed."""
        values = self.head.get_all(field)
        return read(values[0]) if len(values) == 1 else None

    def token(self, text: bytes) -> Token:
        """The token in this text, parsed once for all authenticators of a request. Raises TokenFault."""
        if self._token is None or self._token_text != text:
            self._token = parse_token(text)
            self._token_text = text
        return self._token

    def refuse(self, fault: TokenFault) -> None:
        """Note why a token is refused. The last reason stays, unless it was only that the issuer is another one."""
        if not self.refusal or not isinstance(fault, OtherIssuer):
            self.refusal = str(fault)
        self.may_be_genuine = self.may_be_genuine or not fault.is_guess
