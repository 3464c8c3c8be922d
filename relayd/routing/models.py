"""The table of models: the name that a client asks for, to an upstream and the name there.

Laws:
1. An exact name wins; then the pattern with the most literal text; between equals, the one that stands first.
2. `*` stands for any text, also for none, and may stand anywhere; nothing else is special. A `*` in the model's name
   at the upstream stands for what the first `*` of the pattern stood for.
3. Names with a `*` match, but are not listed: they are no models.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from relayd.wire.glob import Glob

SHOWN = 20
LONGEST_SHOWN = 128


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `models:`. `name` may be a pattern; `model` is the name at the upstream, None for the client's."""

    name: str
    upstream: str
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a request for a model goes: upstream, name there, the name that the client used, and the rule's."""

    upstream: str
    model: str
    public: str
    rule: str = ""


class ModelTable:
    """The models of one plan, compiled once and never changed."""

    __slots__ = ("_exact", "_patterns", "names")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._exact: dict[str, Rule] = {}
        patterns: list[Rule] = []
        for rule in rules:
            if "*" in rule.name:
                patterns.append(rule)
            else:
                self._exact.setdefault(rule.name, rule)
        patterns.sort(key=lambda rule: rule.name.count("*") - len(rule.name))  # a stable sort: the file's order counts
        self._patterns = tuple((Glob.of(rule.name), rule) for rule in patterns)
        self.names = tuple(self._exact)

    def resolve(self, name: str) -> Resolved | None:
        """Where this model is, or None when nobody has it."""
        rule = self._exact.get(name)
        if rule is not None:
            return Resolved(rule.upstream, rule.model or name, name, rule.name)
        for glob, rule in self._patterns:
            star = glob.match(name)
            if star is not None:
                there = name if rule.model is None else rule.model.replace("*", star)
                return Resolved(rule.upstream, there, name, rule.name)
        return None

    def listed(self, may_use: Callable[[str], bool] | None = None, more: Iterable[tuple[str, str]] = ()) -> list[
        tuple[str, str]
    ]:
        """Names and upstreams in the file's order, then what upstreams list themselves and a pattern leads there.

        `more` has the names that upstreams have for their models, and the upstreams. `may_use` says by upstream what
        the client's key is granted.
        """
        found = {name: rule.upstream for name, rule in self._exact.items()}
        for there, upstream in more:
            for name in self._called(there, upstream):
                found.setdefault(name, upstream)
        return [(name, upstream) for name, upstream in found.items() if may_use is None or may_use(upstream)]

    def _called(self, there: str, upstream: str) -> Iterator[str]:
        """The names under which patterns lead to a model of an upstream, which has this name there."""
        for _, rule in self._patterns:
            if rule.upstream != upstream:
                continue
            model, name = rule.model, there
            if model is not None and rule.name.count("*") == 1:
                before, star, behind = model.partition("*")
                if not star or not there.startswith(before) or not there.endswith(behind) or "*" in behind:
                    continue
                inner = there[len(before) : len(there) - len(behind)]
                name = rule.name.replace("*", inner)
            place = self.resolve(name)
            if place is not None and (place.upstream, place.model) == (upstream, there):
                yield name

    def unknown(self, name: str, may_use: Callable[[str], bool] | None = None) -> str:
        """What to say of a model that nobody has: what exists, the closest names first, bounded."""
        names = [name for name, _ in self.listed(may_use)]
        patterns = [rule.name for _, rule in self._patterns if may_use is None or may_use(rule.upstream)]
        known = _closest_first(name[:LONGEST_SHOWN], names) + patterns
        text = f"The model '{_cut(name)}' does not exist here."
        if not known:
            return f"{text} No models are configured."
        rest = len(known) - SHOWN
        more = f" and {rest} more" if rest > 0 else ""
        return f"{text} Available: {', '.join(_cut(one) for one in known[:SHOWN])}{more}."


def _closest_first(name: str, names: list[str]) -> list[str]:
    """The names, those first that look like the one that was asked for."""
    if len(names) > 2000:  # comparing is quadratic in the length of names; a table this large is searched otherwise
        return names
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    return near + [one for one in names if one not in near]


def _cut(text: str) -> str:
    shown = "".join(sign if sign.isprintable() else "?" for sign in text[:LONGEST_SHOWN])
    return shown if len(text) <= LONGEST_SHOWN else shown + "..."
