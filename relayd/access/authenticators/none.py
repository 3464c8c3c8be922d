"""Clients that present nothing by which another consumer is recognised: anonymous ones.

They get limits, rates and models like any other consumer, and routes whose `allow` names this consumer are open to
everybody. A request with an unknown key is not anonymous; it is answered 401.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from relayd.access.client_request import ClientRequest
from relayd.access.credential import AI_KEY_FIELDS, Credential, presents_key
from relayd.access.token_claims import ENTRY, Party
from relayd.schema import section, setting

RANK = 4


@section()
class Options:
    """Anonymous clients."""

    none: bool = setting(doc="`true`: this consumer stands for all clients that present no key and that no other consumer recognises. Routes that allow it are open to everybody.", example=True)

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.none:
            yield "none", "has a meaning only as `none: true`"


class Authenticator:
    """Everybody without a key."""

    rank: ClassVar[int] = RANK

    def __init__(self, options: Options) -> None:
        """Nothing is needed."""

    def prepare(self) -> None:
        """Nothing is needed."""

    def credentials(self, key_headers: Sequence[str] = AI_KEY_FIELDS) -> Iterable[Credential]:
        """No key is expected."""
        return ()

    def lines(self) -> list[str]:
        """A client sends nothing."""
        return []

    def party(self, request: ClientRequest) -> Party | None:
        """The entry, for a request without a key."""
        return None if presents_key(request.presented) else ENTRY
