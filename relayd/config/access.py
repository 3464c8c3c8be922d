"""`consumers:` and `groups:` the parties that may use relayd, with their keys and limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from relayd import registry as plugins
from relayd.config.limits import HIGHEST_PRIORITY, Limits, idle_queue
from relayd.config.patterns import fault_of_model
from relayd.config.rates import Budget, Rate, rates_faults
from relayd.schema import section, setting
from relayd.schema.plugins import faults_of_choice, members, members_of

AUTHENTICATORS = "relayd.access.authenticators"


@section()
@members(AUTHENTICATORS, flat=True)
class Consumer:
    """A named party and the key that identifies it. Keys are compared in constant time."""

    priority: int | None = setting(default=None, doc="Requests of a higher priority are served first in queues, and refused last under overload. Default is the priority of the group, else 0; requests without a consumer have priority 0.", minimum=-HIGHEST_PRIORITY, maximum=HIGHEST_PRIORITY)
    limits: Limits = setting(factory=Limits, doc="Concurrent and waiting exchanges of this consumer, on all routes together. A request needs a permit of its consumer and one of its group.")
    rates: tuple[Rate, ...] = setting(default=(), doc="Requests and tokens per time of this consumer, on all routes together. A request needs room here and in its group.", example=[{"requests": 60, "per": "1m"}])
    budget: tuple[Budget, ...] = setting(default=(), doc="Money per time of this consumer, on all routes together. A request needs room here and in its group; needs `prices`.", example=[{"amount": "5", "per": "day"}])
    group: str | None = setting(default=None, doc="Name of an entry in groups.")
    models: tuple[str, ...] | None = setting(default=None, doc="Patterns of the models that this consumer may use; `*` matches any text, and case is ignored. The name in the request decides, also for an alias; other models are answered 403 (model_not_allowed), and are not in the model list; a list that an endpoint sends is shortened, or answered 502 if relayd cannot read it (compressed, or of more than 4 MiB). A request of which relayd cannot read the model with certainty is answered 400, as with `match.model`. Not checked on routes without a dialect (`protocol: plain`), except by a rule on models. Default are the models of the group, else all.", example=["gpt-*", "fast"])
    routes: tuple[str, ...] | None = setting(default=None, doc="Names of the routes that this consumer may use, whatever their `allow` says; all others are answered 403. Default are the routes of the group, else `allow` of each route decides.", example=["example"])

    def check(self) -> Iterable[tuple[str, str]]:
        written = authenticators_of(self)
        if not written:
            kinds = plugins.kinds(AUTHENTICATORS)
            yield "", f"needs {', '.join(kinds[:-1])} or {kinds[-1]}: a consumer without a key cannot be identified"
        taken: dict[tuple[object, object], str] = {}
        for kind, authenticator in written.items():
            yield from faults_of_choice(self, AUTHENTICATORS, kind)
            others = {taken.setdefault((one.field, one.read), kind) for one in authenticator.credentials()} - {kind}
            yield from ((kind, f"cannot be combined with {other}, which uses the same field") for other in others)
        yield from restriction_faults(self.models, self.routes)
        yield from rates_faults(self.rates, self.budget)

    def caution(self) -> Iterable[tuple[str, str]]:
        return idle_queue(self.limits)


@section()
class Group:
    """Several consumers: their common limits, and the settings of those that have none of their own."""

    priority: int | None = setting(default=None, doc="The priority of consumers without one of their own.", minimum=-HIGHEST_PRIORITY, maximum=HIGHEST_PRIORITY)
    limits: Limits = setting(factory=Limits, doc="Concurrent and waiting exchanges of all consumers of the group together.")
    rates: tuple[Rate, ...] = setting(default=(), doc="Requests and tokens per time of all consumers of the group together; an entry with `each: consumer` counts separately for every member.", example=[{"requests": 60, "per": "1m"}])
    budget: tuple[Budget, ...] = setting(default=(), doc="Money per time of all consumers of the group together; an entry with `each: consumer` counts separately for every member; needs `prices`.", example=[{"amount": "5", "per": "day"}])
    models: tuple[str, ...] | None = setting(default=None, doc="The models of consumers without `models` of their own.", example=["gpt-*", "fast"])
    routes: tuple[str, ...] | None = setting(default=None, doc="The routes of consumers without `routes` of their own.", example=["example"])

    def check(self) -> Iterable[tuple[str, str]]:
        yield from restriction_faults(self.models, self.routes)
        yield from rates_faults(self.rates, self.budget)

    def caution(self) -> Iterable[tuple[str, str]]:
        return idle_queue(self.limits)


@section()
class IssuedKey:
    """The settings of a key of `relayd keys`, as in `consumers`."""

    group: str | None = setting(default=None, doc="Name of an entry in groups.")
    rates: tuple[Rate, ...] = setting(default=(), doc="Requests and tokens per time of the key, before and after a rotation together.", example=[{"requests": 60, "per": "1m"}])
    budget: tuple[Budget, ...] = setting(default=(), doc="Money per time of the key, before and after a rotation together; needs `prices`.", example=[{"amount": "5", "per": "day"}])
    models: tuple[str, ...] | None = setting(default=None, doc="The models that may be used with the key.", example=["gpt-*", "fast"])
    routes: tuple[str, ...] | None = setting(default=None, doc="The routes that may be used with the key.", example=["example"])

    def check(self) -> Iterable[tuple[str, str]]:
        yield from restriction_faults(self.models, self.routes)
        yield from rates_faults(self.rates, self.budget)


def restriction_faults(models: tuple[str, ...] | None, routes: tuple[str, ...] | None) -> Iterable[tuple[str, str]]:
    """The faults of `models` and `routes` that need no other section."""
    if models is not None and not models:
        yield "models", "is empty, so that no model could be used; without the key, all can be used"
    for index, pattern in enumerate(models or ()):
        if fault := fault_of_model(pattern):
            yield f"models[{index}]", fault
        elif pattern in (models or ())[:index]:
            yield f"models[{index}]", "is written twice"
    if routes is not None and not routes:
        yield "routes", "is empty, so that no route could be used; without the key, `allow` of each route decides"


def authenticators_of(consumer: Consumer) -> dict[str, Any]:
    """The authenticators of this consumer, by kind."""
    return {
        kind: plugins.load(AUTHENTICATORS, kind).Authenticator(options)
        for kind, options in members_of(consumer, AUTHENTICATORS) if options is not None
    }


def without_client_ca(consumers: Mapping[str, Consumer]) -> Iterator[tuple[str, str]]:
    """Authenticators that recognise nobody, because no listener asks for certificates."""
    for name, consumer in consumers.items():
        for kind, authenticator in authenticators_of(consumer).items():
            if getattr(authenticator, "needs_client_ca", False):
                yield f"consumers.{name}.{kind}", "recognises nobody: no listener has tls.client_ca"
