"""LiteLLM: the config.yaml of its proxy, with an .env if the keys are there.

Each `model_list` entry becomes an upstream and a model; `os.environ/NAME` becomes the key file of a variable in a given .env,
else the reference `{env: NAME}`. The master key becomes a consumer. Requests and tokens per minute, caches, guardrails and
what needs LiteLLM's database are reported, not converted; requests for an entry that cannot be converted are answered 501.
"""

from __future__ import annotations

import re
from dataclasses import field

from relayd.config.load import load_tree
from relayd.dataclass import dataclass
from relayd.importers._dotenv import Binding, bindings, expanded
from relayd.importers._draft import Draft, Values, endpoint_fault, is_secret_name, plain_name
from relayd.importers._providers import PROVIDERS, Provider, provider_of
from relayd.importers._report import Item
from relayd.importers._sources import Source, Sources
from relayd.importers._tree import Field, Tree
from relayd.schema.build import is_name
from relayd.schema.secrets import is_variable

STRATEGIES = {"simple-shuffle": "random", "least-busy": "least_request"}
SHARED = ("by_hand", "see store: a Redis shares rates, budgets, sessions and stored responses between instances")
CACHE = ("by_hand", "see cache of the routes")
SINKS = ("by_hand", "see telemetry: the journal, statsd, Prometheus and OpenTelemetry")
# Parameters of an entry with a counterpart in relayd, and without one.
ELSEWHERE = {
    **dict.fromkeys(("rpm", "tpm"), "see rates of the upstream"), "max_parallel_requests": "see limits of the upstream",
    "order": "see fallbacks of the model",
    **dict.fromkeys(("input_cost_per_token", "output_cost_per_token"), "see prices, and relayd prices import"),
}
PARAMETERS = {
    **dict.fromkeys(("temperature", "max_tokens", "top_p", "seed", "extra_body", "max_completion_tokens", "reasoning_effort", "stop", "user"),
                    "relayd does not write parameters into requests"),
    **dict.fromkeys(("api_version", "organization", "aws_region_name", "vertex_project", "vertex_location", "custom_llm_provider"), "belongs to a provider's own API"),
}
SETTINGS = {
    "drop_params": ("approximate", "a translation drops or refuses what an endpoint does not accept; see relayd-protocols(7)"),
    "set_verbose": ("approximate", "see telemetry.log.level"), "json_logs": ("approximate", "see telemetry.access_log"),
    "request_timeout": ("", ""), "telemetry": ("exact", "relayd reports to nobody"), "turn_off_message_logging": ("exact", "relayd logs no messages"),
    "cache": CACHE, "cache_params": CACHE,
    "callbacks": SINKS, "success_callback": SINKS, "failure_callback": SINKS, "max_budget": ("by_hand", "see budget of consumers and groups"),
    "guardrails": ("unsupported", "relayd does not inspect contents"), "default_fallbacks": ("by_hand", "see fallbacks of the routes"),
    "database_url": ("by_hand", "relayd keys import takes an export of the keys in LiteLLM's database; or each client gets an entry in consumers"),
    "salt_key": ("exact", "belongs to LiteLLM's database"), "ui_username": ("unsupported", "relayd has no pages here"), "ui_password": ("unsupported", "relayd has no pages here"),
    "redis_host": SHARED, "redis_port": SHARED, "redis_password": SHARED, "redis_url": SHARED,
    "enable_pre_call_checks": ("unsupported", "an endpoint refuses a prompt that is too long; see fallbacks on context_length"),
    "retry_after": ("approximate", "relayd waits between attempts by retries.backoff, and respects Retry-After"),
}


@dataclass(slots=True)
class Deployment:
    """An entry of model_list that was converted."""

    name: str
    upstream: str
    model: str
    item: Item
    fallbacks: list[Values] = field(default_factory=list)

    @property
    def target(self) -> Values:
        return {"upstream": self.upstream, **({"model": self.model} if self.model != self.name else {})}


class Importer:
    """Converts LiteLLM's configuration. One per import."""

    def __init__(self, sources: Sources, draft: Draft) -> None:
        self.sources, self.draft = sources, draft
        self.variables: dict[str, tuple[str, Item]] = {}
        self.common: Values = {}  # keys of every upstream
        self.models: dict[str, Deployment] = {}
        self.refused: list[Field] = []  # the names of entries that were not converted

    @staticmethod
    def recognises(source: Source) -> bool:
        return re.search(r"^model_list:", source.text, re.MULTILINE) is not None

    def convert(self) -> None:
        trees: list[Field] = []
        for source in self.sources.given:
            if self.recognises(source) or re.search(r"\.ya?ml$", source.name):
                trees.append(Tree(self.draft.report, source.name).root(source.text, load_tree(source.text, source.name)))
            else:
                self._env(source)
        for tree in trees:
            self._environment(tree)
            self._settings(tree)
            for entry in tree.get("model_list") or ():
                self._deployment(entry)
        for tree in trees:
            self._fallbacks(tree)
        for one in self.models.values():
            self.draft.model(one.name, {**one.target, **({"fallbacks": one.fallbacks} if one.fallbacks else {})}, one.item)
        self._routes(trees)
        for _, item in self.variables.values():
            if not item.notes:
                item.unsupported("nothing that was converted uses this variable")

    def _env(self, source: Source) -> None:
        self.draft.report.source(source.name, source.text)
        for one in bindings(source.text):
            if not isinstance(one, Binding):
                self.draft.report.item(source.name, one).by_hand("is not understood; quotes may not be closed")
            elif one.value is None:
                self.draft.report.item(source.name, one.line).by_hand("has no value")
            else:
                self._variable(one.name, expanded(one.value, {}), self.draft.report.item(source.name, one.line, one.last, one.name))

    def _environment(self, tree: Field) -> None:
        for one in tree.get("environment_variables") or ():
            self._variable(one.name, one.text or "", one.item)

    def _variable(self, name: str, value: str, item: Item) -> None:
        if is_secret_name(name):
            self.draft.report.hide(value)
        self.variables[name] = value, item

    def _value(self, one: Field | None) -> str | None:
        """The text of a value; a variable is replaced, and None, after reporting it, if it has no value here."""
        if one is None or one.text is None:
            return None
        if not one.text.startswith("os.environ/"):
            one.item.exact()
            return one.text
        name = one.text.removeprefix("os.environ/")
        if name not in self.variables:
            one.item.by_hand(f"the value of {name} is not in the files; give the .env too")
            return None
        one.item.exact()
        self.variables[name][1].exact()
        return self.variables[name][0]

    def _secret(self, one: Field | None, usual: str, name: str, item: Item) -> object | None:
        """A key as a key file or as a reference to a variable; None if there is none."""
        text = "" if one is None else one.text or ""
        variable = text.removeprefix("os.environ/") if text.startswith("os.environ/") else "" if text else usual
        if variable in self.variables:
            value, source = self.variables[variable]
            source.exact("moved into a key file")
            if one is not None:
                one.item.exact("moved into a key file")
            return self.draft.key(name, value)
        where = item if one is None else one.item
        if variable and not is_variable(variable):
            where.by_hand("is no name of a variable; write a key file, and auth of the upstream")
            return None
        if variable:
            where.approximate(f"the key is taken from the variable {variable} of relayd's environment (examples/environment.conf), or write a key file")
            return {"env": variable}
        if one is None:
            return None
        one.item.exact("moved into a key file")
        return self.draft.key(name, text)

    def _settings(self, tree: Field) -> None:
        for block in ("litellm_settings", "router_settings", "general_settings"):
            for one in tree.get(block) or ():
                self._setting(one)

    def _setting(self, one: Field) -> None:
        number = one.number
        if one.name == "num_retries" and number is not None:
            self.common["retries"] = {"attempts": min(int(number) + 1, 20)}
            one.item.approximate("relayd repeats within a budget, and only before the client has received anything")
        elif one.name in ("request_timeout", "timeout") and number:
            self.common["timeouts"] = {"first_byte": f"{number:g}s", "total": f"{number:g}s"}
            one.item.approximate("timeouts.total: it also ends a stream that takes longer")
        elif one.name == "routing_strategy":
            if balance := STRATEGIES.get(one.text or ""):
                self.common["balance"] = balance
                one.item.approximate("among the endpoints of one upstream, by weight; not by requests or tokens per minute" if balance == "random" else
                                     "among the endpoints of one upstream")
            else:
                one.item.by_hand("see balance of the upstream")
        elif one.name == "allowed_fails" and number is not None:
            self.common.setdefault("breaker", {})["failures"] = int(number) + 1
            one.item.approximate("breaker.failures: consecutive faults, where LiteLLM counts those of a minute")
        elif one.name == "cooldown_time" and number:
            self.common.setdefault("breaker", {})["open_for"] = f"{number:g}s"
            one.item.approximate("breaker.open_for: the first time; it doubles while the endpoint fails")
        elif one.name in SETTINGS and SETTINGS[one.name][0]:
            note, reason = SETTINGS[one.name]
            if is_secret_name(one.name) or one.name.endswith("_url"):
                self.draft.report.hide(one.text or "")
            one.rest(note, reason)
        elif is_secret_name(one.name):
            self.draft.report.hide(one.text or "")

    def _deployment(self, entry: Field) -> None:
        name, params = entry.get("model_name"), entry.get("litellm_params")
        if name is None or name.text is None or params is None:
            entry.rest("by_hand", "needs model_name and litellm_params")
            return
        if not is_name(name.text):
            entry.rest("by_hand", "relayd has no model of this name")
            return
        for one in params:
            if reason := ELSEWHERE.get(one.name):
                one.rest("by_hand", reason)
            elif reason := PARAMETERS.get(one.name):
                one.rest("unsupported", reason)
            elif is_secret_name(one.name):
                self.draft.report.hide(one.text or "")
        for one in entry.get("model_info") or ():
            one.rest("exact", "has no effect on requests")
        kind, model, url = self._target(params)
        if not kind:
            self._refuse(name)
            return
        key_field, provider = params.get("api_key"), PROVIDERS[kind]
        values: Values = {"protocol": provider.protocol, "endpoints": [url]}
        key = self._secret(key_field, provider.variable, plain_name(kind), name.item) if key_field is not None or provider.variable else None
        if key is not None:
            values["auth"] = provider.auth(key)
        elif key_field is not None and key_field.text:
            self._refuse(name)
            return
        values |= {section: dict(inner) if isinstance(inner, dict) else inner for section, inner in self.common.items()}
        self._limits(params, values)
        name.item.exact()
        upstream = self.draft.upstream(kind, values, name.item)
        made = Deployment(name.text, upstream, model, name.item)
        first = self.models.setdefault(name.text, made)
        if first is not made:
            first.fallbacks.append(made.target if made.model != made.name else {"upstream": made.upstream})
            name.item.approximate("LiteLLM shares the load among entries of the same name; in relayd this one is a fallback of the first")

    def _refuse(self, name: Field) -> None:
        name.item.by_hand("this model is not converted: requests for it are answered 501")
        self.refused.append(name)

    def _target(self, params: Field) -> tuple[str, str, str]:
        """Provider, model and base URL of an entry; the provider is empty, after reporting it, if it cannot be converted."""
        model_field, base_field = params.get("model"), params.get("api_base")
        text = self._value(model_field)
        if model_field is None or text is None:
            return "", "", ""
        kind, model = provider_of(text)
        if kind == "ollama":
            model_field.item.approximate("relayd asks Ollama's /api/chat, LiteLLM /api/generate with a prompt of its own")
        if not kind:
            model_field.item.unsupported("relayd does not know this provider, or does not speak its API; an OpenAI-compatible one can be written as upstream")
            return "", "", ""
        base = self._value(base_field)
        if base_field is not None and base is None:
            return "", "", ""
        url = (base or PROVIDERS[kind].url).rstrip("/")
        if not url:
            model_field.item.by_hand("needs the address of the server (api_base)")
            return "", "", ""
        url = _base(PROVIDERS[kind], url)
        if base_field is not None and (fault := endpoint_fault(url)):
            base_field.item.by_hand(f"the address {fault}")
            return "", "", ""
        return kind, model, url

    def _limits(self, params: Field, values: Values) -> None:
        for name, keys in (("timeout", ("first_byte", "total")), ("stream_timeout", ("idle",))):
            one = params.get(name)
            if one is not None and one.number:
                values["timeouts"] = {**values.get("timeouts", {}), **dict.fromkeys(keys, f"{one.number:g}s")}
                one.item.approximate("timeouts.total: it also ends a stream that takes longer" if name == "timeout" else "timeouts.idle: the silence within a stream")
        retries = params.get("max_retries") or params.get("num_retries")
        if retries is not None and retries.number is not None:
            values["retries"] = {"attempts": min(int(retries.number) + 1, 20)}
            retries.item.approximate("relayd repeats within a budget, and only before the client has received anything")
        weight = params.get("weight")
        if weight is not None:
            weight.item.unsupported("shares the load among entries of the same name; in relayd write one upstream with several endpoints")

    def _fallbacks(self, tree: Field) -> None:
        for block in ("litellm_settings", "router_settings"):
            for key, on in (("fallbacks", None), ("context_window_fallbacks", ["context_length"]), ("content_policy_fallbacks", ["refused_content"])):
                for entry in tree.at(f"{block}.{key}") or ():
                    for one in entry:
                        self._fallback(one, on)
            for one in tree.at(f"{block}.model_group_alias") or ():
                known = self.models.get(one.text or "")
                if known is None:
                    one.item.by_hand("the model of this alias was not converted")
                    continue
                self.models[one.name] = Deployment(one.name, known.upstream, known.model if known.model != "*" else known.name, one.item, known.fallbacks)
                one.item.exact()

    def _fallback(self, one: Field, on: list[str] | None) -> None:
        known = self.models.get(one.name)
        for target in one:
            other = self.models.get(target.text or "")
            if known is None or other is None:
                target.item.by_hand("a model of this fallback was not converted")
                continue
            self._add_fallback(known, {"upstream": other.upstream, "model": other.model}, on)
            target.item.approximate("relayd falls back before the client has received content; see fallbacks.on")

    def _add_fallback(self, known: Deployment, target: Values, on: list[str] | None) -> None:
        """Add a fallback; the same target again gets the further causes."""
        same = next((one for one in known.fallbacks if one["upstream"] == target["upstream"] and one.get("model", known.name) == target["model"]), None)
        if same is None:
            known.fallbacks.append({**target, **({"on": on} if on else {})})
        elif on:
            same["on"] = [*same.get("on", ["unavailable", "overloaded"]), *on]

    def _routes(self, trees: list[Field]) -> None:
        draft = self.draft
        draft.listener("public", {"address": "0.0.0.0:4000"}, None)
        draft.report.remark("LiteLLM's port is an option of its command; the listener has its default, 4000.")
        allow: Values = {}
        for tree in trees:
            master = tree.at("general_settings.master_key")
            if master is None:
                continue
            key = self._secret(master, "", "master", master.item)
            if key is not None:
                allow = {"allow": [draft.consumer("master", {"key": key}, master.item)]}
        if not allow:
            draft.report.remark("The configuration has no master key: as in LiteLLM, every client may use the models. Add consumers, and allow to the routes.")
        shared: Values = {"upstream": "by_model", **allow}
        unconverted = [one for one in self.refused if one.text not in self.models and not self._is_last(one)]
        if unconverted:  # a wildcard must not take their requests
            draft.refusing_route("not-imported", {"model": [one.text for one in unconverted]}, unconverted[0].item)
        if not draft.models and not self.models:
            return
        draft.route("messages", {"match": {"prefix": "/v1/messages"}, "protocol": "anthropic_messages", **shared}, None)
        draft.route("responses", {"match": {"prefix": "/v1/responses"}, "protocol": "openai_responses", **shared}, None)
        draft.route("openai", {"match": {"prefix": "/v1/"}, "protocol": "openai_chat", **shared}, None)
        for path in ("/chat/completions", "/completions", "/embeddings", "/models"):
            draft.route(f"openai{path.replace('/', '-')}", {"match": {"path": path}, "protocol": "openai_chat", **shared}, None)
        for path, own in (("/health/liveliness", "/live"), ("/health/readiness", "/ready")):
            draft.route(path[1:].replace("/", "-"), {"match": {"path": path}, "upstream": "admin", "rewrite": own}, None)


    def _is_last(self, refused: Field) -> bool:
        """True for a pattern that LiteLLM uses after all models that were converted: requests for its models find none."""
        pattern = refused.text or ""
        converted = list(self.models)
        is_last = any(_covers(pattern, one) for one in converted) and not any(_covers(one, pattern) for one in converted)
        if is_last:
            refused.item.by_hand("requests for models that no other entry names are answered 404")
        return is_last


def _covers(pattern: str, name: str) -> bool:
    """True if a pattern with * is another one than a name and matches it."""
    return "*" in pattern and pattern != name and re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None


def _base(provider: Provider, url: str) -> str:
    """The base URL as relayd wants it."""
    if provider.protocol == "ollama":
        return url.removesuffix("/v1").removesuffix("/api")
    if provider.protocol == "anthropic_messages":
        return url.removesuffix("/v1/messages").removesuffix("/v1")
    return url.removesuffix("/chat/completions")
