"""The file of `relayd test`: requests, and what the configuration must make of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from relayd.config.fields import field_name_fault
from relayd.schema import Size, section, setting

REQUEST = re.compile(r"(?P<method>[!#$%&'*+.^_`|~0-9A-Za-z-]+) (?P<url>\S+)")


@section()
class ExpectedLimits:
    """Limits of the upstream that the request reaches."""

    requests: int | None = setting(default=None, doc="`limits.requests` of the upstream.", minimum=0)
    queue: int | None = setting(default=None, doc="`limits.queue` of the upstream.", minimum=0)


@section()
class Expected:
    """What must become of the request. What is not named is not looked at."""

    route: str | None = setting(default=None, doc="The route that takes it; `none` when none may.", example="llm")
    upstream: str | None = setting(default=None, doc="The upstream it goes to.", example="chutes")
    endpoint: str | None = setting(default=None, doc="One of the endpoints it may go to: host or host:port.")
    target: str | None = setting(default=None, doc="Path and query as they are sent.", example="/v1/chat/completions")
    status: int | None = setting(default=None, doc="The status that relayd answers itself; 0 when it must answer nothing itself.", minimum=0, maximum=599, example=401)
    code: str | None = setting(default=None, doc="The code of that answer.", example="unauthorized")
    key: str | None = setting(default=None, doc="Where the upstream's key comes from; `none` when none may be added.", example="file /etc/relayd/keys/chutes")
    limits: ExpectedLimits | None = setting(default=None, doc="Limits of the upstream.")
    sends: Mapping[str, str] = setting(factory=dict, doc="Header fields that must be sent, with their values.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self == Expected():
            yield "", "expects nothing, so it could never fail"


@section()
class Assertion:
    """One request, and what is expected of it."""

    request: str = setting(doc="Method and URL: https://host:port/path?query, or only the path.", example="POST /v1/chat/completions")
    consumer: str | None = setting(default=None, doc="Send the key of this consumer of the configuration.")
    headers: Mapping[str, str] = setting(factory=dict, doc="Further header fields of the request.")
    body: Size = setting(default=Size(0), doc="Bytes of the request body.")
    peer: str = setting(default="127.0.0.1", doc="The client's address.")
    expect: Expected = setting(doc="What must become of it.")

    def check(self) -> Iterable[tuple[str, str]]:
        if REQUEST.fullmatch(self.request) is None:
            yield "request", "is written METHOD URL, for example GET /health"
        for name in self.headers:
            if fault := field_name_fault(name):
                yield f"headers.{name}", fault


@section()
class Assertions:
    """A file of assertions about one configuration."""

    tests: tuple[Assertion, ...] = setting(doc="Requests, and what the configuration must make of each.")
