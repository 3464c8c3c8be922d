"""The table of models: maps the model name of a request to an upstream and the model's name there.

Laws:
1. An exact name wins, then one that differs only in case, then the pattern with the most literal text, then the first
   one in the file. Patterns ignore case.
2. `*` matches any text, including none, at any position; no other character is special. A `*` in the upstream's model
   name is replaced by the text that the first `*` of the pattern matched.
3. Names with a `*` match but are not listed, because they are not models.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from relayd.dataclass import dataclass
from relayd.wire.glob import Glob, without_case

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

    __slots__ = ("_exact", "_patterns", "_without_case", "names")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._exact: dict[str, Resolved] = {}
        self._without_case: dict[str, Resolved] = {}
        patterns: list[Rule] = []
        for rule in rules:
            if "*" in rule.name:
                patterns.append(rule)
            else:
                resolved = Resolved(rule.upstream, rule.model or rule.name, rule.name, rule.name)
                self._exact.setdefault(rule.name, resolved)
                self._without_case.setdefault(without_case(rule.name), resolved)
        patterns.sort(key=lambda rule: rule.name.count("*") - len(rule.name))  # a stable sort keeps the file's order
        self._patterns = tuple((Glob.of_model(rule.name), rule) for rule in patterns)
        self.names = tuple(self._exact)

    def resolve(self, name: str) -> Resolved | None:
        """The upstream and model for this name, or None if no rule matches."""
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        exact = self._without_case.get(without_case(name))
        if exact is not None:
            return replace(exact, public=name)
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

        `more` contains pairs of an upstream's model name and the upstream. `may_use` returns true for the names that
        the client's key may use.
        """
        found = {name: exact.upstream for name, exact in self._exact.items()}
        for listed, upstream in more:
            for name in self._public_names(listed, upstream):
                found.setdefault(name, upstream)
        return [(name, upstream) for name, upstream in found.items() if may_use is None or may_use(name)]

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
        patterns = [rule.name for _, rule in self._patterns if may_use is None or may_use(rule.name)]
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
