"""`sessions:` sessions of clients: their id, their lifetime, and their document (`upstream: sessions`)."""

from __future__ import annotations

from collections.abc import Iterable

from relayd.config.fields import FRAMING, KEY_FIELDS, TOKEN, field_name_fault
from relayd.lazy_regex import lazy_regex
from relayd.schema import Duration, Size, section, setting

OFF = "off"
SIGN_IN_COOKIE = "relayd_sign_in"
"""The cookie of the pages of relayd itself, for somebody who has signed in."""

_TOKEN = lazy_regex(TOKEN)


@section()
class Sessions:
    """Sessions of clients, on routes with `upstream: sessions` or `session: true`. A session has an id, which the client
    sends in a cookie or a header field (the field is read first), and a JSON document. A session belongs to the consumer
    with whose key it was created; routes that need no key share one space, in which the id alone is sufficient. A new
    session gets a random id of 192 bits. An unknown id is never adopted. Sessions are kept in `store`, under a digest of
    their id. relayd removes the id from requests that it forwards."""

    cookie: str = setting(default="relayd_session", doc="The name of the cookie; off for none. It is HttpOnly and SameSite=Lax, and Secure if the client's connection is TLS.")
    cookie_path: str = setting(default="/", doc="The Path of the cookie.", pattern="/[!-:<-~]*")
    header: str = setting(default="X-Session-ID", doc="The name of the header field, in requests and in the response that creates a session; off for none.")
    ttl: Duration = setting(default=Duration(7200), doc="How long a session is kept after its last use; also Max-Age of the cookie. It does not depend on `store.ttl`.", minimum=1, maximum=31536000)
    size: Size = setting(default=Size(64 * 1024), doc="The maximum size of a document, in bytes of compact JSON in ASCII, as relayd stores and sends it.", minimum=64, maximum=256 * 1024)

    def check(self) -> Iterable[tuple[str, str]]:
        if self.cookie != OFF and _TOKEN.fullmatch(self.cookie) is None:
            yield "cookie", "is not the name of a cookie"
        elif self.cookie == SIGN_IN_COOKIE:
            yield "cookie", "is the cookie of the dashboard"
        if self.header != OFF:
            if fault := field_name_fault(self.header):
                yield "header", fault
            elif self.header.lower() in FRAMING or self.header.lower() in (*KEY_FIELDS, "cookie"):
                yield "header", "has another meaning"
        if self.cookie == OFF and self.header == OFF:
            yield "", "needs a cookie or a header"
