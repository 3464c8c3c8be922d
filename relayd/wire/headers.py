"""Header fields: hop-by-hop fields, fields that Connection must not strip, and the edits of a route.

Laws:
1. A memo is bounded: it stores at most LIMIT entries, so clients cannot make it grow.
2. Lines are bytes as received, without their line end; only the edits of a route change a forwarded line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from relayd.dataclass import dataclass

V = TypeVar("V")
LIMIT = 4096

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
     b"proxy-authenticate", b"proxy-authorization", b"http2-settings")
)  # RFC 9110 7.6.1, 11.7; RFC 9113 3.1

FORWARDING = frozenset(
    (b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
     b"x-forwarded-server", b"x-forwarded-ssl", b"x-real-ip", b"x-request-id")
)

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"))

METHOD_OVERRIDES = frozenset((b"x-http-method-override", b"x-http-method", b"x-method-override"))

# Frameworks and servers that route by these fields instead of the request target: Zend and Laminas, Symfony
# (CVE-2018-14773), IIS and its URL Rewrite, and services behind Envoy, an ingress controller or forward authentication.
PATH_OVERRIDES = frozenset((
    b"x-original-url", b"x-rewrite-url", b"x-original-uri", b"x-override-url", b"x-forwarded-uri", b"x-forwarded-url",
    b"x-forwarded-path", b"x-envoy-original-path", b"x-request-uri", b"request-uri", b"x-http-destinationurl",
    b"x-proxy-url", b"x-waws-unencoded-url", b"unencoded-url",
))  # fmt: skip

# Azure Machine Learning and AI services, Amazon SageMaker, the Gateway API Inference Extension, Envoy AI Gateway.
MODEL_FIELDS = frozenset((
    b"azureml-model-deployment", b"x-ms-model-mesh-model-name", b"x-amzn-sagemaker-target-model",
    b"x-gateway-model-name", b"x-gateway-model-name-rewrite", b"x-ai-eg-model", b"x-model", b"x-model-name",
    b"x-model-id", b"model",
))  # fmt: skip

OVERRIDES = METHOD_OVERRIDES | PATH_OVERRIDES | MODEL_FIELDS  # lower case, with "-"

# Names that Connection must not strip: decisions of relayd or of the next hop depend on them.
PROTECTED = FORWARDING | CREDENTIALS | frozenset(
    (b"content-length", b"host", b"cookie", b"via", b"traceparent", b"tracestate", b"content-type", b"content-encoding")
)

# Names with "_" that CGI maps to the variable of one of these fields: dropped, never forwarded.
CONFUSABLE = frozenset(
    name.replace(b"-", b"_") for name in PROTECTED | HOP_BY_HOP if b"-" in name
)


class Memo(dict[bytes, V], Generic[V]):
    """A bounded cache of the results of a pure function of bytes."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[bytes], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: bytes) -> V:
        value = self._make(key)
        if len(self) < LIMIT and len(key) <= 256:
            self[key] = value
        return value


def folded_name_of(line: bytes) -> bytes:
    """The lower-case name of a field line with "-" for "_", as servers with CGI variables read it."""
    return name_of(line).replace(b"_", b"-")


def name_of(line: bytes) -> bytes:
    """The lower-case name of a field line."""
    return line.partition(b":")[0].strip().lower()


def without(lines: Iterable[bytes], names: frozenset[bytes] | set[bytes]) -> list[bytes]:
    """The lines except those with one of these lower-case `names`."""
    return [line for line in lines if line.partition(b":")[0].strip().lower() not in names]


def _tokens(value: bytes) -> frozenset[bytes]:
    return frozenset(part.strip().lower() for part in value.split(b",")) - {b""}


TOKENS: Memo[frozenset[bytes]] = Memo(_tokens)
"""The comma-separated tokens of a field value, in lower case."""


@dataclass(frozen=True, slots=True)
class FieldEdits:
    """The edits of a route: `remove` (lower-case names) and `set` remove fields, `set` and `add` append whole lines."""

    remove: frozenset[bytes]
    set: tuple[bytes, ...]
    add: tuple[bytes, ...]

    def apply(self, lines: list[bytes], end: bytes = b"") -> list[bytes]:
        """The edited lines; `end` is appended to each new line (b"\\r\\n" if lines include their ends)."""
        gone = self.remove | {name_of(line) for line in self.set}
        remaining = without(lines, gone) if gone else list(lines)
        remaining.extend(line + end for line in self.set)
        remaining.extend(line + end for line in self.add)
        return remaining
