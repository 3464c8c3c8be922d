"""Matchers of Caddy as conditions of routes (caddyserver.com/docs/caddyfile/matchers)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field

from relayd.config.patterns import fault_of_host, fault_of_path
from relayd.dataclass import dataclass
from relayd.importers._directive import Directive
from relayd.importers._draft import Draft, Values, is_key_field
from relayd.importers._paths import is_portable, whole_path


@dataclass(slots=True)
class Matcher:
    """The conditions of one directive. `paths` are alternatives; `args` the arguments after the matcher.

    `fault` is the reason if a condition cannot be expressed: then the other conditions hold for more requests.
    """

    paths: list[str] = field(default_factory=list)
    regexes: list[str] = field(default_factory=list)
    match: Values = field(default_factory=dict)
    args: list[str] = field(default_factory=list)
    fault: str = ""
    inline: bool = False

    @property
    def empty(self) -> bool:
        return not (self.paths or self.regexes or self.match or self.fault)

    @property
    def has_path(self) -> bool:
        return bool(self.paths)

    @property
    def rank(self) -> tuple[int, int, int]:
        """Caddy's order within a directive: longer paths first, what matches everything last."""
        if len(self.paths) == 1 and not self.match:
            path = self.paths[0]
            return 0, -len(path.rstrip("*")), path.endswith("*")
        return (1 if self.empty else 0), 0, 0

    def matches(self, outer: Values, *, closed: bool = False) -> Iterator[Values]:
        """The conditions of the routes, inside of a block. `closed`: ignore the case of paths, as Caddy does."""
        base = {**{key: value for key, value in outer.items() if key in ("host", "method", "header")}, **self.match}
        around = {key: value for key, value in outer.items() if key in ("path", "prefix", "regex")}
        if not self.paths and not self.regexes:
            yield {**base, **around}
        for joined in self._joined(around, closed):
            if joined is not None:
                yield {**base, **(joined or around)}

    def overlap(self, outer: Values) -> str:
        """Why the conditions cannot be expressed inside of a block; empty if they can."""
        around = {key: value for key, value in outer.items() if key in ("path", "prefix", "regex")}
        is_unclear = around and any(joined == {} for joined in self._joined(around, closed=True))
        return "relayd has no condition for paths of this form inside of the block" if is_unclear else ""

    def _joined(self, around: Values, closed: bool) -> Iterator[Values | None]:
        for path in self.paths:
            yield _both(_path_condition(path, closed), around, path.partition("*")[0].lower())
        for regex in self.regexes:
            yield _both({"regex": regex}, around, "")


def _inside(inner: Values, outer: Values) -> bool:
    """True if every path of `inner` is one of `outer`."""
    text = str(inner.get("path") or inner.get("prefix") or "")
    return inner == outer or ("prefix" in outer and text.startswith(outer["prefix"]))


def _both(inner: Values, outer: Values, begin: str) -> Values | None:
    """The paths of a condition inside of a block: None if there are none, {} if one condition cannot express them.

    `begin`: how all paths of the condition begin, in lower case.
    """
    if not inner or not outer:
        return {**outer, **inner}
    if _inside(inner, outer) or _inside(outer, inner):
        return inner if _inside(inner, outer) else outer
    if "regex" not in inner and "regex" not in outer:
        return None
    if "path" in outer or "path" in inner:
        one, other = (outer, inner) if "path" in outer else (inner, outer)
        return one if re.fullmatch(other["regex"], one["path"]) else None
    if "prefix" in outer:
        around = outer["prefix"].lower()
        if begin.startswith(around):
            return inner
        if not around.startswith(begin):
            return None
    return {}


def _path_condition(path: str, closed: bool) -> Values:
    if path in ("*", "/*"):
        return {}
    if closed or "*" in path[:-1]:
        escaped = "".join(".*" if sign == "*" else re.escape(sign) for sign in path)
        return {"regex": f"(?i:{escaped})"}
    if path.endswith("*"):
        return {"prefix": path[:-1]}
    return {"path": path}


@dataclass(slots=True)
class Matchers:
    """Reads the matchers of a block. Owned by one import."""

    draft: Draft

    def named(self, block: list[Directive]) -> dict[str, Matcher]:
        """The matchers `@name` that a block defines."""
        result: dict[str, Matcher] = {}
        for one in block:
            if one.name.startswith("@"):
                made = result.setdefault(one.name, Matcher())
                conditions = one.block if one.block is not None else [Directive(one.args[0], one.args[1:], one.item)] if one.args else []
                for condition in conditions:
                    self._condition(condition, made)
                if not one.item.notes:
                    one.item.exact()
        return result

    def of(self, one: Directive, known: dict[str, Matcher]) -> Matcher:
        """The matcher of a directive, and its remaining arguments."""
        args = list(one.args)
        if one.name == "uri" and args and args[0] in ("strip_prefix", "strip_suffix", "replace", "path_regexp"):
            return Matcher(args=args)
        if not args or not (args[0].startswith(("/", "@")) or args[0] == "*"):
            return Matcher(args=args)
        if args[0].startswith("/") and one.name in ("redir", "rewrite") and len(args) == 1:
            return Matcher(args=args)  # the target
        first = args.pop(0)
        if first == "*":
            return Matcher(args=args)
        if first.startswith("@"):
            found = known.get(first)
            if found is None:
                return Matcher(args=args, fault=f"{first} is not defined in this block")
            return Matcher(found.paths, found.regexes, found.match, args, found.fault)
        fault = _fault(first)
        return Matcher([] if fault else [first], args=args, fault=fault, inline=True)

    def _condition(self, one: Directive, made: Matcher) -> None:
        fault = ""
        if one.name == "path":
            usable = [path for path in one.args if not _fault(path)]
            made.paths += usable
            fault = "a path cannot be matched" if len(usable) < len(one.args) else ""
        elif one.name == "host":
            if any(fault_of_host(host) for host in one.args):
                fault = "relayd matches whole host names and *.name"
            else:
                made.match["host"] = one.args
        elif one.name == "method":
            made.match["method"] = [method.upper() for method in one.args]
        elif one.name == "header" and one.args and is_key_field(one.args[0]):
            for value in one.args[1:]:
                self.draft.report.hide(value)
            fault = "a key is no condition; see consumers"
        elif one.name == "header" and len(one.args) == 2 and "*" not in one.args[1] and not one.args[0].startswith("!"):
            made.match["header"] = {**made.match.get("header", {}), one.args[0]: one.args[1]}
        elif one.name == "path_regexp" and one.args:
            try:
                made.regexes.append(whole_path(one.args[-1]))
                if not is_portable(one.args[-1]):
                    one.item.approximate("RE2 and Python may read this regular expression differently")
            except ValueError as reason:
                fault = f"the regular expression {reason}"
        else:
            fault = f"relayd has no condition {one.name} of this form"
        if fault:
            made.fault = fault
            one.item.by_hand(fault)
        else:
            one.item.exact()


def _fault(path: str) -> str:
    inner = path.rstrip("*") or "/"
    if not path.startswith(("/", "*")):
        return "is no path"
    return (fault_of_path(inner.replace("*", "x") if inner.startswith("/") else "/", whole=not path.endswith("*")) or "") and "the path cannot be matched"
