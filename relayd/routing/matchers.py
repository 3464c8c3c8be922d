"""Matchers: the conditions of one route, compiled to bytes, and each able to say in words why it does not hold.

1. Every condition written must hold; nothing written matches every request.
2. A condition on the model needs the body: while it is not known, asking raises ModelWanted, and the body is read.
3. Paths are compared as the bytes of the request target, undecoded; hosts without their trailing dot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol


class Head(Protocol):
    """What matching reads of a request head. `host` is lower case and without port, `path` is undecoded."""

    @property
    def method(self) -> bytes: ...
    @property
    def path(self) -> bytes: ...
    @property
    def host(self) -> bytes: ...
    @property
    def model(self) -> str | None: ...
    def get(self, name_lower: bytes, /) -> bytes | None: ...


Test = Callable[[Head, bytes], bool]


class ModelWanted(Exception):
    """A rule asks for the model, which stands in a body that was not read yet (`Head.model` is None)."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """The conditions of one route. At most one of `path`, `prefix` and `regex` is given.

    `hosts` holds names and `*.name` wildcards in lower case; `headers` pairs of a lower-case name and the value
    wanted, None for any. `preflight` lets a CORS preflight be judged by the method that it announces, because a
    route for POST must be able to answer the OPTIONS that asks for it.
    """

    path: bytes | None = None
    prefix: bytes | None = None
    regex: re.Pattern[bytes] | None = None
    hosts: frozenset[bytes] = frozenset()
    methods: frozenset[bytes] = frozenset()
    headers: tuple[tuple[bytes, bytes | None], ...] = ()
    models: tuple[str, ...] = ()
    preflight: bool = False

    def test(self) -> Test | None:
        """What remains to be asked once path and prefix are known to hold; None when nothing remains."""
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
        """Cheapest first: this is only speed, all of them must hold."""
        if self.methods:
            yield self.method_holds
        if self.hosts:
            wild = any(name.startswith(b"*") for name in self.hosts)
            yield self.host_holds if wild else _one_of(self.hosts)
        if self.headers:
            yield self.headers_hold
        if self.regex is not None:
            fullmatch = self.regex.fullmatch
            yield lambda head, path: fullmatch(path) is not None
        if self.models:  # last: it may need the body
            yield self.model_holds

    def method_holds(self, head: Head, path: bytes) -> bool:
        return head.method in self.methods or (self.preflight and asked_method(head) in self.methods)

    def model_holds(self, head: Head, path: bytes) -> bool:
        """Raises ModelWanted while the model is not known."""
        model = head.model
        if model is None:
            raise ModelWanted
        return bool(model) and any(_wild(pattern)(model) is not None for pattern in self.models)

    def host_holds(self, head: Head, path: bytes) -> bool:
        host = head.host
        if host.endswith(b"."):  # the same name for DNS; without this a dot would walk past a rule
            host = host[:-1]
        if host in self.hosts:
            return True
        dot = host.find(b".")
        while dot > 0:
            if b"*" + host[dot:] in self.hosts:
                return True
            dot = host.find(b".", dot + 1)
        return False

    def headers_hold(self, head: Head, path: bytes) -> bool:
        """Of a repeated field the first line counts."""
        return all(_has(head, name, wanted) for name, wanted in self.headers)

    def path_holds(self, path: bytes) -> bool:
        """Whether `path` and `prefix`, the two conditions that the table has an index for, hold."""
        if self.path is not None:
            return path == self.path
        return self.prefix is None or path.startswith(self.prefix)

    def failing(self, head: Head, path: bytes) -> tuple[str, str] | None:
        """The first condition that does not hold, as its key and the reason in words; None when all hold."""
        if self.path is not None and path != self.path:
            return "path", f"{show(path)} is not {show(self.path)}"
        if self.prefix is not None and not path.startswith(self.prefix):
            return "prefix", f"{show(path)} does not begin with {show(self.prefix)}"
        if self.regex is not None and self.regex.fullmatch(path) is None:
            return "regex", f"{show(path)} as a whole does not match {show(self.regex.pattern)}"
        if self.hosts and not self.host_holds(head, path):
            return "host", f"{show(head.host) or 'no host'} is not among {_list(self.hosts)}"
        if self.methods and not self.method_holds(head, path):
            return "method", f"{show(head.method)} is not among {_list(self.methods)}"
        for name, wanted in self.headers:
            if not _has(head, name, wanted):
                # The value that came is not repeated: it may be a key.
                state = "absent" if head.get(name) is None else f"not {show(wanted or b'')!r}"
                return "header", f"{show(name)} is {state}"
        if self.models and not self.model_holds(head, path):
            return "model", f"{(head.model or 'no model')[:80]!r} is not among {', '.join(self.models)}"
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
    """A Matcher from the words of the configuration. Raises ValueError for a regex or a host that cannot be used."""
    if regex is not None and (fault := risky(regex)) is not None:
        raise ValueError(f"regex {fault}")
    return Matcher(
        path=None if path is None else path.encode(),
        prefix=None if prefix is None else prefix.encode(),
        regex=None if regex is None else re.compile(regex.encode()),
        hosts=frozenset(host_name(name) for name in host),
        methods=frozenset(name.upper().encode() for name in method),
        headers=tuple(
            (name.lower().encode(), None if value == "*" else value.strip().encode())
            for name, value in (header or {}).items()
        ),
        models=tuple(model),
        preflight=preflight,
    )


def host_name(name: str) -> bytes:
    """A host name as it stands on the wire: lower case, IDNA, no trailing dot. Raises ValueError."""
    wild, rest = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    rest = rest.removesuffix(".").lower()
    if not rest or "*" in rest:
        raise ValueError(f"host {name!r}: a wildcard stands for whole labels at the front, as in *.example.org")
    if not rest.isascii():
        rest = rest.encode("idna").decode()  # UnicodeError is a ValueError
    return (wild + rest).encode()


@lru_cache(1024)
def _wild(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """A model name in which `*` stands for anything."""
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL).fullmatch


def _one_of(hosts: frozenset[bytes]) -> Test:
    """As `Matcher.host_holds` where there is no wildcard, in a third of the time."""
    either = hosts | {name + b"." for name in hosts}
    return lambda head, path: head.host in either


def asked_method(head: Head) -> bytes | None:
    """The method that a CORS preflight announces (Fetch 4.8); None when the request is no preflight."""
    if head.method != b"OPTIONS" or head.get(b"origin") is None:
        return None
    return head.get(b"access-control-request-method")


def show(value: bytes) -> str:
    """Bytes for people, without control or 8-bit bytes."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in value)


def _has(head: Head, name: bytes, wanted: bytes | None) -> bool:
    value = head.get(name)
    return value is not None and (wanted is None or value == wanted)


def _list(names: Iterable[bytes]) -> str:
    return ", ".join(sorted(show(name) for name in names))


_ESCAPE = re.compile(r"\\.", re.DOTALL)
_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
_COUNT = re.compile(r"\{(\d*),?(\d*)\}")


def risky(pattern: str) -> str | None:
    """Why a path regex is refused, or None.

    Refused are what does not compile, what is not ASCII (the bytes of a path are), and an unbounded repetition inside
    a repetition, `(a+)+` or `(a*|b)*`: on a long path such a pattern can take longer than anybody lives, and the event
    loop stands still meanwhile. The test is of the form, not of the meaning; a pattern refused wrongly can be written
    without the inner or the outer repetition.
    """
    if not pattern.isascii():
        return "holds characters that are not ASCII; the bytes of a path are (write them percent-encoded)"
    try:
        re.compile(pattern.encode())
    except (re.error, RecursionError, OverflowError) as error:
        return f"cannot be compiled: {error}"
    if re.search(r"\\[1-9]|\(\?P=", pattern):
        return "refers back to a group, which can take exponential time"
    plain = _CLASS.sub("c", _ESCAPE.sub("e", pattern))
    open_groups = [False]  # for each open group: does it hold an unbounded repetition?
    place = 0
    while place < len(plain):
        character = plain[place]
        if character == "(":
            open_groups.append(False)
        elif character == ")":
            repeats = open_groups.pop()
            if repeats and _repeated(plain, place + 1):
                return "repeats a group that repeats inside, which can take exponential time"
            open_groups[-1] = open_groups[-1] or repeats
        elif _unbounded(plain, place):
            open_groups[-1] = True
        place += 1
    return None


def _unbounded(plain: str, place: int) -> bool:
    """Whether an unbounded quantifier stands here: *, + or {n,}."""
    if plain[place] in "*+":
        return True
    found = _COUNT.match(plain, place)
    return found is not None and "," in found[0] and not found[2]


def _repeated(plain: str, place: int) -> bool:
    """Whether a quantifier that allows more than one turn stands here."""
    if plain[place : place + 1] in ("*", "+"):
        return True
    found = _COUNT.match(plain, place)
    if found is None:
        return False
    return _unbounded(plain, place) or int(found[2] or 0) > 1 or int(found[1] or 0) > 1
