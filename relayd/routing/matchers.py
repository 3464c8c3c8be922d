"""Matchers: the conditions of one route, compiled to bytes, each with an explanation of a failure.

1. All configured conditions must hold. A route without conditions matches every request.
2. A condition on the model needs the body: while the model is unknown, matching raises ModelWanted, and the body is
   read.
3. Paths are compared as the undecoded bytes of the request target, with patterns in normal form (`wire.path`).
4. A condition takes at most linear time: a regex is proven to (`wire.regex_proof`), and reads at most MAX_PATH_BYTES. A
   longer path is refused if a regex would have to match it, because "no match" could bypass a rule that denies access.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol
from urllib.parse import unquote_to_bytes

from relayd.dataclass import dataclass
from relayd.errors import ExchangeError
from relayd.lazy_regex import lazy_regex
from relayd.wire.glob import Glob
from relayd.wire.headers import METHOD_OVERRIDES, PATH_OVERRIDES, folded_name_of
from relayd.wire.path import MAX_PATH_BYTES, pattern
from relayd.wire.regex_proof import fault_of_regex

MAX_OTHER_PATHS = 4
_BEFORE_PATH = lazy_regex(rb"\A[A-Za-z][A-Za-z0-9+.\-]*://[^/]*")
_BEHIND_PATH = lazy_regex(rb"[?#]")


class Head(Protocol):
    """The part of a request head that matching reads: `host` in lower case without port and trailing dot, `path`
    undecoded."""

    @property
    def method(self) -> bytes: ...
    @property
    def path(self) -> bytes: ...
    @property
    def host(self) -> bytes: ...
    @property
    def query(self) -> bytes: ...
    @property
    def overrides(self) -> Sequence[bytes]: ...
    @property
    def model(self) -> str | None: ...
    def get(self, name_lower: bytes, /) -> bytes | None: ...
    def get_all(self, name_lower: bytes, /) -> list[bytes]: ...
    def get_alike(self, name_lower: bytes, /) -> list[bytes]: ...


Test = Callable[[Head, bytes], bool]


class ModelWanted(Exception):
    """A rule needs the model, but the body that names it has not been read yet (`Head.model` is None)."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """The conditions of one route. At most one of `path`, `prefix` and `regex` is given.

    `hosts` contains names and `*.name` wildcards in lower case, `headers` pairs of a lower-case name and the required
    value, None for any. With `preflight`, a CORS preflight matches by the method that it announces, so that a route for
    POST can answer the OPTIONS request before it.
    """

    path: bytes | None = None
    prefix: bytes | None = None
    regex: re.Pattern[bytes] | None = None
    hosts: frozenset[bytes] = frozenset()
    methods: frozenset[bytes] = frozenset()
    headers: tuple[tuple[bytes, bytes | None], ...] = ()
    models: tuple[Glob, ...] = ()
    preflight: bool = False

    def test(self) -> Test | None:
        """A test of all conditions except path and prefix; None if there are no others."""
        tests = tuple(self._tests())
        if not tests:
            return None
        if len(tests) == 1:
            return tests[0]

        def test_all(head: Head, path: bytes) -> bool:
            for test in tests:  # noqa: SIM110 (a plain loop takes half the time of all() with a generator)
                if not test(head, path):
                    return False
            return True

        return test_all

    def _tests(self) -> Iterator[Test]:
        """The tests, cheapest first. All must hold, so the order affects only the speed."""
        if self.methods:
            yield self.method_holds
        if self.hosts:
            wildcard = any(name.startswith(b"*") for name in self.hosts)
            yield self.host_holds if wildcard else _exact_host(self.hosts)
        if self.headers:
            yield self.headers_hold
        if self.regex is not None:
            yield self.regex_holds
        if self.models:  # last: it may need the body
            yield self.model_holds

    def method_holds(self, head: Head, path: bytes) -> bool:
        """Raises ExchangeError (bad_request) if some servers use another method for which the result differs."""
        holds = head.method in self.methods or (self.preflight and preflight_method(head) in self.methods)
        if (head.overrides or head.query) and any(
            (other in self.methods) is not holds for other in _other_methods(head)
        ):
            raise ExchangeError("bad_request", "the request names another method for some servers")
        return holds

    def model_holds(self, head: Head, path: bytes) -> bool:
        """Raises ModelWanted while the model is unknown."""
        model = head.model
        if model is None:
            raise ModelWanted
        if not model:
            return False
        if any(one.match(model) is not None for one in self.models):
            return True
        bare = model.removeprefix("models/")  # Google's APIs know the same model with and without this prefix
        return bare != model and any(one.match(bare) is not None for one in self.models)

    def regex_holds(self, head: Head, path: bytes) -> bool:
        """Raises ExchangeError (uri_too_long) for a path that is too long to be matched."""
        if len(path) > MAX_PATH_BYTES:
            raise ExchangeError("uri_too_long", f"{len(path)} bytes of path before a regex, at most {MAX_PATH_BYTES}")
        return self.regex is None or self.regex.fullmatch(path) is not None

    def host_holds(self, head: Head, path: bytes) -> bool:
        host = head.host
        if host in self.hosts:
            return True
        dot = host.find(b".")
        while dot > 0:
            if b"*" + host[dot:] in self.hosts:
                return True
            dot = host.find(b".", dot + 1)
        return False

    def headers_hold(self, head: Head, path: bytes) -> bool:
        """Raises ExchangeError (bad_request) for a field that servers interpret differently: only some of its lines
        or list elements have the required value, or the name of one has `_` for `-`."""
        return all(_has(head, name, wanted) for name, wanted in self.headers)

    def failing(self, head: Head, path: bytes) -> tuple[str, str] | None:
        """The key of the first condition that does not hold and the reason as text; None if all hold."""
        if self.path is not None and path != self.path:
            return "path", f"{show(path)} is not {show(self.path)}"
        if self.prefix is not None and not path.startswith(self.prefix):
            return "prefix", f"{show(path)} does not begin with {show(self.prefix)}"
        if self.regex is not None and (len(path) > MAX_PATH_BYTES or not self.regex_holds(head, path)):
            return "regex", f"{show(path)} as a whole does not match {show(self.regex.pattern)}"
        if self.hosts and not self.host_holds(head, path):
            return "host", f"{show(head.host) or 'no host'} is not among {_list(self.hosts)}"
        try:
            if self.methods and not self.method_holds(head, path):
                return "method", f"{show(head.method)} is not among {_list(self.methods)}"
        except ExchangeError:
            return "method", "the request names another method for some servers, which is refused with 400"
        for name, wanted in self.headers:
            # The received value is not repeated: it may be a key.
            try:
                if _has(head, name, wanted):
                    continue
                state = "absent" if head.get(name) is None else f"not {show(wanted or b'')!r}"
            except ExchangeError:
                state = "repeated with other values or in another spelling, which is refused with 400"
            return "header", f"{show(name)} is {state}"
        if self.models and not self.model_holds(head, path):
            return "model", f"{(head.model or 'no model')[:80]!r} is not among {', '.join(map(str, self.models))}"
        return None


def matcher(
    *,
    path: str | None = None,
    prefix: str | None = None,
    regex: str | None = None,
    host: Iterable[str] = (),
    method: Iterable[str] = (),
    header: Mapping[str, str] | None = None,
    model: Iterable[str] = (),
    preflight: bool = False,
) -> Matcher:
    """A Matcher from configuration values. Raises ValueError for a value that is invalid or can never match."""
    if regex is not None and (fault := fault_of_regex(regex)) is not None:
        raise ValueError(f"regex {fault}")
    return Matcher(
        path=None if path is None else pattern(path, whole=True),
        prefix=None if prefix is None else pattern(prefix, whole=False),
        regex=None if regex is None else re.compile(regex.encode()),
        hosts=frozenset(host_name(name) for name in host),
        methods=frozenset(name.upper().encode() for name in method),
        headers=tuple(
            (name.lower().encode(), None if value == "*" else value.strip().encode())
            for name, value in (header or {}).items()
        ),
        models=tuple(Glob.of_model(name) for name in model),
        preflight=preflight,
    )


def host_name(name: str) -> bytes:
    """A host name as in `Head.host`: lower case, IDNA, no trailing dot, shortest IPv6 form. Raises ValueError."""
    wildcard, suffix = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    suffix = suffix.removesuffix(".").lower()
    if not suffix or "*" in suffix:
        raise ValueError(f"host {name!r}: a wildcard stands for whole labels at the front, as in *.example.org")
    if not suffix.isascii():
        suffix = suffix.encode("idna").decode()  # UnicodeError is a ValueError
    if suffix.startswith("["):
        suffix = f"[{ipaddress.IPv6Address(suffix[1:-1])}]"
    return (wildcard + suffix).encode()


def _exact_host(hosts: frozenset[bytes]) -> Test:
    """`Matcher.host_holds` without wildcards, in a third of the time."""
    return lambda head, path: head.host in hosts


def preflight_method(head: Head) -> bytes | None:
    """The method that a CORS preflight announces (Fetch 4.8); None if the request is not a preflight."""
    if head.method != b"OPTIONS" or head.get(b"origin") is None:
        return None
    return head.get(b"access-control-request-method")


def _other_methods(head: Head) -> Iterator[bytes]:
    """The methods that some servers use in place of the request's: that of X-HTTP-Method-Override and similar fields
    (Google's APIs and others), and for POST the parameter `_method` (Laravel, Symfony)."""
    for line in head.overrides:
        if folded_name_of(line) in METHOD_OVERRIDES:
            yield line.partition(b":")[2].strip(b" \t").upper()
    if head.method == b"POST" and (b"_method" in head.query or b"%" in head.query):
        for part in re.split(b"[&;]", head.query[1:]):
            name, _, value = part.partition(b"=")
            if unquote_to_bytes(name) == b"_method":
                yield unquote_to_bytes(value).upper()


def other_paths(head: Head) -> Iterator[bytes]:
    """The paths that some servers use in place of the request's: those of X-Original-URL, X-Rewrite-URL and similar
    fields, a path or a URL. Raises ExchangeError (ambiguous_path) for more than MAX_OTHER_PATHS."""
    lines = [line for line in head.overrides if folded_name_of(line) in PATH_OVERRIDES]
    if len(lines) > MAX_OTHER_PATHS:
        raise ExchangeError("ambiguous_path", f"more than {MAX_OTHER_PATHS} fields name another path for some servers")
    for line in lines:
        value = line.partition(b":")[2].strip(b" \t")
        path = _BEFORE_PATH.sub(b"", _BEHIND_PATH.split(value, maxsplit=1)[0])
        yield path if path.startswith(b"/") else b"/" + path


def show(value: bytes) -> str:
    """Printable text for bytes: control and 8-bit bytes are escaped."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in value)


def _has(head: Head, name: bytes, wanted: bytes | None) -> bool:
    values = head.get_alike(name)
    if wanted is None:
        if not values:
            return False
    elif values != [wanted]:
        # Lines and a list in one line mean the same (RFC 9110 5.3). Some servers read the elements, some the whole.
        parts = _parts(values)
        if wanted not in values and wanted not in parts and parts != _parts([wanted]):
            return False
        if values.count(wanted) < len(values) and any(part != wanted for part in parts):
            raise ExchangeError("bad_request", f"field {show(name)} in several values")
    if len(head.get_all(name)) < len(values):  # some servers take X_Team for X-Team
        raise ExchangeError("bad_request", f"field {show(name)} in several spellings")
    return True


def _parts(values: Iterable[bytes]) -> list[bytes]:
    """The elements of field values, read as lists."""
    parts = (part.strip(b" \t") for value in values for part in value.split(b","))
    return [part for part in parts if part]


def _list(names: Iterable[bytes]) -> str:
    return ", ".join(sorted(show(name) for name in names))
