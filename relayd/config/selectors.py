"""Patterns of models in `rates`, `budget` and `models` that no request can match: the name may have a typing error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from relayd.config.access import Consumer, Group
from relayd.config.prices import ANY, overlap, reachable_names
from relayd.config.route import Route
from relayd.config.upstream import Model, Upstream
from relayd.protocols import registry
from relayd.schema.scalars import meant

Limited = Upstream | Route | Group | Consumer


def unmatched(
    models: Mapping[str, Model], routes: Sequence[Route], upstreams: Mapping[str, Upstream],
    groups: Mapping[str, Group], consumers: Mapping[str, Consumer],
) -> Iterator[tuple[str, str]]:
    """The paths of such patterns, with the reason. Upstreams see the names of models there, others the client's."""
    theirs = set(reachable_names(models, routes, upstreams))
    asked = {name for _, name in theirs} if any(_chooses_itself(route, upstreams) for route in routes) else set(models)
    parts: list[tuple[str, Limited, set[str]]] = [
        *((f"upstreams.{name}", one, {model for at, model in theirs if at == name}) for name, one in upstreams.items()),
        *((f"routes[{number}]", one, asked) for number, one in enumerate(routes)),
        *((f"groups.{name}", one, asked) for name, one in groups.items()),
        *((f"consumers.{name}", one, asked) for name, one in consumers.items()),
    ]
    for path, part, names in parts:
        if names and ANY not in names:
            yield from _of(path, part, names)


def _chooses_itself(route: Route, upstreams: Mapping[str, Upstream]) -> bool:
    """True if clients of a route can name any model, because `models` does not choose the upstream."""
    upstream = upstreams.get(route.upstream or "")
    return upstream is not None and registry.dialect(upstream.protocol) is not None


def _of(path: str, part: Limited, names: set[str]) -> Iterator[tuple[str, str]]:
    patterns = [(f"{path}.rates[{index}].model", one.model) for index, one in enumerate(part.rates)]
    patterns += [(f"{path}.budget[{index}].model", one.model) for index, one in enumerate(part.budget)]
    if isinstance(part, Group | Consumer):
        patterns += [(f"{path}.models[{index}]", one) for index, one in enumerate(part.models or ())]
    for at, pattern in patterns:
        if pattern and not any(overlap(pattern, name) for name in names):
            near = meant(pattern, names)
            yield at, "no request can name a model that matches" + (f"; {near}" if near else "")
