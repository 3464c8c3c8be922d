"""The rules of Traefik's routers (v2 and v3) as conditions of routes.

`&&` of matchers, and `||` at the top, in brackets too. Matchers with several values are alternatives.
"""

from __future__ import annotations

import re
from dataclasses import field

from relayd.config.patterns import fault_of_host, fault_of_path
from relayd.dataclass import dataclass
from relayd.importers._draft import Values, is_key_field
from relayd.importers._paths import whole_path
from relayd.lazy_regex import lazy_regex

_TOKEN = lazy_regex(r"\s*(?:(?P<op>&&|\|\||!|\(|\))|(?P<name>[A-Za-z]+)\((?P<args>(?:[^()`\"]|`[^`]*`|\"(?:[^\"\\]|\\.)*\")*)\))")
_ARGUMENT = lazy_regex(r"`([^`]*)`|\"((?:[^\"\\]|\\.)*)\"")
MATCHES = 32
NESTED = 100  # parentheses and negations of a rule


@dataclass(slots=True)
class Rule:
    """The alternatives of a rule. `fault`: why it cannot be expressed; then the alternatives hold for more requests."""

    matches: list[Values] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    fault: str = ""
    notes: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)  # keys in the rule


class _Unknown(Exception):
    """A part of a rule that relayd cannot express."""


def parse_rule(text: str) -> Rule:
    rule = Rule()
    tokens: list[tuple[str, list[str]]] = []
    position = 0
    while text[position:].strip():
        found = _TOKEN.match(text, position)
        if found is None:
            rule.fault, rule.matches = "the rule is not understood", [{}]
            return rule
        position = found.end()
        args = [one or two for one, two in _ARGUMENT.findall(found["args"] or "")]
        tokens.append((found["op"] or found["name"], args))
    reader = _Reader(tokens, rule)
    try:
        rule.matches = reader.either()
    except _Unknown as reason:
        rule.fault, rule.matches = str(reason), [{}]
        return rule
    if reader.position < len(tokens):
        rule.fault, rule.matches = "the rule is not understood", [{}]
    if len(rule.matches) > MATCHES:
        rule.fault, rule.matches = "the rule has too many alternatives", [{}]
    return rule


class _Reader:
    """Reads alternatives of conjunctions; parts that cannot be expressed are left out and set the rule's fault."""

    def __init__(self, tokens: list[tuple[str, list[str]]], rule: Rule) -> None:
        self.tokens, self.rule, self.position, self.depth = tokens, rule, 0, 0

    def _next(self) -> str:
        return self.tokens[self.position][0] if self.position < len(self.tokens) else ""

    def either(self) -> list[Values]:
        found = self.both()
        while self._next() == "||":
            self.position += 1
            found = found + self.both()
        return found

    def both(self) -> list[Values]:
        found = self.one()
        while self._next() == "&&":
            self.position += 1
            other = self.one()
            found = [joined for left in found for right in other if (joined := self._joined(left, right)) is not None]
            if len(found) > MATCHES:
                raise _Unknown("the rule has too many alternatives")
        return found

    def _joined(self, left: Values, right: Values) -> Values | None:
        """Both conditions; None if no request fulfils them."""
        result = {**left}
        for key, value in right.items():
            if key == "header":
                result[key] = {**result.get(key, {}), **value}
            elif key not in result:
                result[key] = value
            elif key == "host" or key == "method":
                both = [one for one in result[key] if one in value]
                if not both:
                    return None
                result[key] = both
            elif result[key] != value:
                self.rule.fault = "two conditions on the path"
        paths = [key for key in ("path", "prefix", "regex") if key in result]
        if len(paths) > 1:
            self.rule.fault = "two conditions on the path"
            for key in paths[1:]:
                del result[key]
        return result

    def one(self) -> list[Values]:
        name, args = self.tokens[self.position] if self.position < len(self.tokens) else ("", [])
        self.position += 1
        if name in ("(", "!"):
            self.depth += 1
        if self.depth > NESTED:
            raise _Unknown(f"the rule has more than {NESTED} parentheses and negations")
        if name == "(":
            found = self.either()
            if self._next() == ")":
                self.position += 1
            return found
        if name == "!":
            self.one()
            self.rule.fault = "relayd has no negation"
            return [{}]
        try:
            return self._matcher(name, args)
        except _Unknown as reason:
            self.rule.fault = str(reason)
            return [{}]

    def _matcher(self, name: str, args: list[str]) -> list[Values]:
        if name == "Host" and args:
            hosts = [host.strip().lower() for arg in args for host in arg.split(",")]
            if any(fault_of_host(host) for host in hosts):
                raise _Unknown("a host name is not one of relayd's")
            self.rule.hosts += hosts
            return [{"host": hosts}]
        if name == "HostRegexp" and args and (found := [_wildcard_host(arg) for arg in args]) and all(found):
            self.rule.notes.append("the host matches all names below, whatever their first label")
            return [{"host": [host for host in found if host]}]
        if name in ("Path", "PathPrefix") and args:
            key = "path" if name == "Path" else "prefix"
            if any("{" in arg for arg in args):
                raise _Unknown("the path contains a placeholder")
            if any(fault_of_path(arg, whole=name == "Path") for arg in args):
                raise _Unknown("a path is not one of relayd's")
            return [{key: arg} for arg in args]
        if name == "PathRegexp" and args:
            try:
                return [{"regex": whole_path(arg)} for arg in args]
            except ValueError as fault:
                raise _Unknown(f"the regular expression {fault}") from None
        if name == "Method" and args:
            return [{"method": [arg.upper() for arg in args]}]
        if name in ("Header", "Headers", "HeaderRegexp", "HeadersRegexp") and args and is_key_field(args[0]):
            self.rule.hidden += args[1:]
            raise _Unknown("a key is no condition; see consumers")
        if name in ("Header", "Headers") and len(args) == 2:
            return [{"header": {args[0]: args[1]}}]
        raise _Unknown(f"relayd has no condition {name}")


def _wildcard_host(text: str) -> str | None:
    """`{sub:[a-z]+}.example.org` and `^[a-z]+\\.example\\.org$` as `*.example.org`."""
    found = re.fullmatch(r"\{[^:}]+:[^}]+\}\.([A-Za-z0-9.-]+)", text) or re.fullmatch(r"\^?(?:\[[^\]]+\]|\.)[+*]\\\.((?:[A-Za-z0-9-]|\\\.)+)\$?", text)
    return None if found is None else f"*.{found[1].replace(chr(92), '')}"
