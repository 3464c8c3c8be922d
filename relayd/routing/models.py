"""The table of models: maps the model name of a request to an upstream and the model's name there.

Laws:
1. An exact name wins, then the pattern with the most literal text, then the first one in the file.
2. `*` matches any text, including none, at any position; no other character is special. A `*` in the upstream's model
   name is replaced by the text that the first `*` of the pattern matched.
3. Names with a `*` match but are not listed, because they are not models.
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
    """One entry of `models:`. `name` may be a pattern; `model` is the upstream's name, None for the client's name."""

    name: str
    upstream: str
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """The result of a lookup: the upstream, the model's name there, the client's name, and the name of the rule."""

    upstream: str
    model: str
    public: str
    rule: str = ""


class ModelTable:
    """The models of one plan, compiled once. Immutable."""

    __slots__ = ("_exact", "_patterns", "names")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._exact: dict[str, Rule] = {}
        patterns: list[Rule] = []
        for rule in rules:
            if "*" in rule.name:
                patterns.append(rule)
            else:
                self._exact.setdefault(rule.name, rule)
        patterns.sort(key=lambda rule: rule.name.count("*") - len(rule.name))  # a stable sort keeps the file's order
        self._patterns = tuple((Glob.of(rule.name), rule) for rule in patterns)
        self.names = tuple(self._exact)

    def resolve(self, name: str) -> Resolved | None:
        """The upstream and model for this name, or None if no rule matches."""
        rule = self._exact.get(name)
        if rule is not None:
            return Resolved(rule.upstream, rule.model or name, name, rule.name)
        for glob, rule in self._patterns:
            star = glob.match(name)
            if star is not None:
                upstream_model = name if rule.model is None else rule.model.replace("*", star)
                return Resolved(rule.upstream, upstream_model, name, rule.name)
        return None

    def listed(self, may_use: Callable[[str], bool] | None = None, more: Iterable[tuple[str, str]] = ()) -> list[
        tuple[str, str]
    ]:
        """Names and upstreams: the configured names in the file's order, then the models that upstreams list, under the
        names by which a pattern reaches them.

        `more` contains pairs of an upstream's model name and the upstream. `may_use` returns true for the upstreams
        that the client's key may use.
        """
        found = {name: rule.upstream for name, rule in self._exact.items()}
        for listed, upstream in more:
            for name in self._public_names(listed, upstream):
                found.setdefault(name, upstream)
        return [(name, upstream) for name, upstream in found.items() if may_use is None or may_use(upstream)]

    def _public_names(self, listed: str, upstream: str) -> Iterator[str]:
        """The public names for which a pattern resolves to this model of an upstream."""
        for _, rule in self._patterns:
            if rule.upstream != upstream:
                continue
            model, name = rule.model, listed
            if model is not None and rule.name.count("*") == 1:
                before, star, behind = model.partition("*")
                if not star or not listed.startswith(before) or not listed.endswith(behind) or "*" in behind:
                    continue
                inner = listed[len(before) : len(listed) - len(behind)]
                name = rule.name.replace("*", inner)
            resolved = self.resolve(name)
            if resolved is not None and (resolved.upstream, resolved.model) == (upstream, listed):
                yield name

    def unknown(self, name: str, may_use: Callable[[str], bool] | None = None) -> str:
        """The message for an unknown model. It lists the available models, the closest names first, up to a bound."""
        names = [name for name, _ in self.listed(may_use)]
        patterns = [rule.name for _, rule in self._patterns if may_use is None or may_use(rule.upstream)]
        known = _closest_first(name[:LONGEST_SHOWN], names) + patterns
        text = f"The model '{_cut(name)}' does not exist here."
        if not known:
            return f"{text} No models are configured."
        omitted = len(known) - SHOWN
        more = f" and {omitted} more" if omitted > 0 else ""
        return f"{text} Available: {', '.join(_cut(one) for one in known[:SHOWN])}{more}."


def _closest_first(name: str, names: list[str]) -> list[str]:
    """The names, beginning with those that resemble `name`."""
    if len(names) > 2000:  # comparing is quadratic in the length of the names
        return names
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    return near + [one for one in names if one not in near]


def _cut(text: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text[:LONGEST_SHOWN])
    return shown if len(text) <= LONGEST_SHOWN else shown + "..."
