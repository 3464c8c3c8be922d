"""The file of `relayd test`: requests, and the expected result of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from relayd.config.fields import field_name_fault
from relayd.lazy_regex import lazy_regex
from relayd.schema import Size, section, setting

REQUEST = lazy_regex(r"(?P<method>[!#$%&'*+.^_`|~0-9A-Za-z-]+) (?P<url>\S+)")


@section()
class ExpectedLimits:
    """Limits of the upstream that the request reaches."""

    requests: int | None = setting(default=None, doc="`limits.requests` of the upstream.", minimum=0)
    queue: int | None = setting(default=None, doc="`limits.queue` of the upstream.", minimum=0)


@section()
class Expected:
    """The expected result of the request. Omitted keys are not checked."""

    route: str | None = setting(default=None, doc="The route that matches; `none` if no route may match.", example="llm")
    upstream: str | None = setting(default=None, doc="The upstream to which the request is sent.", example="chutes")
    endpoint: str | None = setting(default=None, doc="One of the endpoints to which the request may be sent: host or host:port.")
    target: str | None = setting(default=None, doc="Path and query as sent to the upstream.", example="/v1/chat/completions")
    status: int | None = setting(default=None, doc="The status of relayd's own response; 0 if relayd must not respond itself.", minimum=0, maximum=599, example=401)
    code: str | None = setting(default=None, doc="The error code of that response.", example="unauthorized")
    key: str | None = setting(default=None, doc="The source of the upstream's key; `none` if no key may be added.", example="file /etc/relayd/keys/chutes")
    cache: Literal["used", "bypassed", "off"] | None = setting(default=None, doc="`used` if the request is looked up in the cache of the route, `bypassed` if it is not, `off` if the route has none.")
    limits: ExpectedLimits | None = setting(default=None, doc="Limits of the upstream.")
    sends: Mapping[str, str] = setting(factory=dict, doc="Header fields that must be sent, with their values.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self == Expected():
            yield "", "expects nothing, so it could never fail"


@section()
class Assertion:
    """One request, and its expected result."""

    request: str = setting(doc="Method and URL: https://host:port/path?query, or only the path.", example="POST /v1/chat/completions")
    consumer: str | None = setting(default=None, doc="Send the key of this consumer of the configuration.")
    headers: Mapping[str, str] = setting(factory=dict, doc="Additional header fields of the request.")
    body: Size = setting(default=Size(0), doc="Bytes of the request body.")
    data: str | None = setting(default=None, doc="The request body, for routing by model, for a translation and for a cache; instead of `body`.", example='{"model": "m", "temperature": 0, "messages": []}')
    peer: str = setting(default="127.0.0.1", doc="The client's address.")
    expect: Expected = setting(doc="The expected result.")

    def check(self) -> Iterable[tuple[str, str]]:
        if REQUEST.fullmatch(self.request) is None:
            yield "request", "is written METHOD URL, for example GET /health"
        if self.data is not None and self.body:
            yield "data", "cannot be combined with body"
        for name in self.headers:
            if fault := field_name_fault(name):
                yield f"headers.{name}", fault


@section()
class Assertions:
    """A file of assertions about one configuration."""

    tests: tuple[Assertion, ...] = setting(doc="Requests, and the expected result of each.")
