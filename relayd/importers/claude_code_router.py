"""Claude Code Router: its config.json.

Providers become upstreams; `Router.default` and `Router.background` become models by the names that Claude Code requests, and
every `provider,model` of a provider a model of that name. Routes by thinking, length, images and web search are reported:
relayd chooses by the name of the model.
"""

from __future__ import annotations

import re

from relayd.config.load import load_tree
from relayd.importers._draft import Draft, Values, endpoint_fault, plain_name
from relayd.importers._providers import Provider
from relayd.importers._sources import Source, Sources
from relayd.importers._tree import Field, Tree
from relayd.lazy_regex import lazy_regex
from relayd.schema.build import is_name

OWN_TRANSLATION = {"openrouter", "deepseek", "groq", "gemini", "anthropic", "openai", "ollama", "vercel"}
BY_CONTENT = {"think": "whether the request asks for reasoning", "longContext": "the length of the prompt", "webSearch": "the tools of the request", "image": "images in the request"}
SETTINGS = {
    "LOG": ("approximate", "relayd writes one record per request; see telemetry.access_log"), "LOG_LEVEL": ("approximate", "see telemetry.log.level"),
    "NON_INTERACTIVE_MODE": ("exact", "belongs to Claude Code Router itself"), "StatusLine": ("exact", "belongs to Claude Code Router itself"),
    "CLAUDE_PATH": ("exact", "belongs to Claude Code Router itself"), "PROXY_URL": ("unsupported", "relayd connects to endpoints directly"),
    "CUSTOM_ROUTER_PATH": ("unsupported", "relayd runs no code of others; see models and routes"), "transformers": ("unsupported", "relayd runs no code of others"),
    "REWRITE_SYSTEM_PROMPT": ("unsupported", "relayd does not change prompts"),
}
CHAT, ANTHROPIC, GEMINI = Provider("openai_chat", ""), Provider("anthropic_messages", "", "", "x-api-key"), Provider("gemini", "", "", "x-goog-api-key")
VARIABLE = lazy_regex(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")


# JSON5, which the router reads, has comments; all else that people use of it is YAML, too.
_TEXT_OR_COMMENT = lazy_regex(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|//[^\n]*|/\*.*?\*/""", re.DOTALL)


def without_comments(text: str) -> str:
    """A text of JSON5 with blanks in place of its comments; lines and columns stay."""
    return _TEXT_OR_COMMENT.sub(lambda found: found[1] or re.sub(r"[^\n]", " ", found[0]), text)


class Importer:
    """Converts the configuration of Claude Code Router. One per import."""

    def __init__(self, sources: Sources, draft: Draft) -> None:
        self.sources, self.draft = sources, draft
        self.models: dict[str, Values] = {}  # by "provider,model"

    @staticmethod
    def recognises(source: Source) -> bool:
        return re.search(r'"(?:Providers|providers)"\s*:', source.text) is not None and '"Router"' in source.text

    def convert(self) -> None:
        for source in self.sources.given:
            text = "\n".join(re.sub(r"^[ \t]+", lambda found: found[0].replace("\t", "  "), line) for line in without_comments(source.text).split("\n"))
            root = Tree(self.draft.report, source.name).root(source.text, load_tree(text, source.name))
            timeout = root.get("API_TIMEOUT_MS")
            seconds = timeout.number / 1000 if timeout is not None and timeout.number else 600
            if timeout is not None:
                timeout.item.approximate("timeouts of the upstreams; total also ends a stream that takes longer")
            for one in root.get("Providers") or root.get("providers") or ():
                self._provider(one, seconds)
            self._router(root)
            self._access(root)
            for one in root:
                if one.name in SETTINGS:
                    one.rest(*SETTINGS[one.name])

    def _provider(self, one: Field, seconds: float) -> None:
        name, url, key = one.get("name"), one.get("api_base_url"), one.get("api_key")
        if name is None or not name.text or url is None or not url.text:
            one.rest("by_hand", "needs name and api_base_url")
            return
        for transformer in one.get("transformer") or ():
            self._transformer(transformer)
        provider, base = _target(url.text, [text for found in one.get("transformer") or () for text in found.texts])
        if fault := endpoint_fault(base):
            url.item.by_hand(f"the address {fault}")
            name.item.by_hand("this provider is not converted")
            return
        url.item.exact(f"as the base URL {base}")
        values: Values = {"protocol": provider.protocol, "endpoints": [base], "timeouts": {"first_byte": f"{seconds:g}s", "idle": f"{seconds:g}s", "total": f"{seconds:g}s"}}
        if key is not None and key.text:
            variable = VARIABLE.fullmatch(key.text)
            if variable is not None:
                values["auth"] = provider.auth({"env": variable[1]})
                key.item.approximate(f"the key is taken from the variable {variable[1]} of relayd's environment (examples/environment.conf), or write a key file")
            else:
                values["auth"] = provider.auth(self.draft.key(plain_name(name.text), key.text))
                key.item.exact("moved into a key file")
        upstream = self.draft.upstream(name.text, values, name.item)
        name.item.exact()
        models = one.get("models")
        if models is not None:
            models.item.exact()
        for model in models or ():
            if model.text and is_name(f"{name.text},{model.text}"):
                self.models[f"{name.text},{model.text}"] = {"upstream": upstream, "model": model.text}
                self.draft.model(f"{name.text},{model.text}", self.models[f"{name.text},{model.text}"], model.item)
                model.item.exact()

    def _transformer(self, one: Field) -> None:
        for inner in one.everything():
            text = (inner.text or "").lower()
            if text in OWN_TRANSLATION:
                inner.item.approximate("relayd's own translation takes its place; see relayd-protocols(7)")
            elif inner.text is not None:
                inner.item.unsupported("relayd does not change requests in this way; see dialect of the upstream")
        if not one.item.notes:
            one.item.approximate("relayd's own translation takes its place; see relayd-protocols(7)")

    def _router(self, root: Field) -> None:
        router = root.get("Router")
        for one in router or ():
            target = self.models.get(one.text or "")
            if one.name in ("default", "background"):
                if target is None:
                    one.item.by_hand("is no model of a provider that was converted")
                    continue
                if one.name == "background":
                    self.draft.model("claude-*haiku*", target, one.item)
                    one.item.approximate("the models that Claude Code uses in the background, by their names: claude-*haiku*")
                else:
                    one.item.exact("every other model name")
            elif one.name in BY_CONTENT:
                one.item.unsupported(f"relayd does not choose a model by {BY_CONTENT[one.name]}; use the model's name")
            elif one.name == "longContextThreshold":
                one.item.unsupported("relayd does not choose a model by the length of the prompt")
        default = router.get("default") if router is not None else None
        if default is not None and (target := self.models.get(default.text or "")) is not None:
            self.draft.model("*", target, default.item)

    def _access(self, root: Field) -> None:
        key, host, port = root.get("APIKEY"), root.get("HOST"), root.get("PORT")
        allow: Values = {}
        if key is not None and key.text:
            variable = VARIABLE.fullmatch(key.text)
            secret: object = {"env": variable[1]} if variable else self.draft.key("apikey", key.text)
            allow = {"allow": [self.draft.consumer("team", {"key": secret}, key.item)]}
            key.item.exact("the key of a consumer")
        address = host.text if host is not None and host.text and allow else "127.0.0.1"
        if host is not None:
            host.item.exact() if allow else host.item.exact("without APIKEY the router listens on this machine only, too")
        if port is not None:
            port.item.exact()
        self.draft.listener("local", {"address": f"{address}:{port.text if port is not None and port.text else '3456'}"}, None)
        shared: Values = {"upstream": "by_model", **allow}
        self.draft.route("hello", {"match": {"path": "/", "method": ["HEAD", "GET"]}, "respond": {"status": 200}}, None)
        if self.models:
            self.draft.route("messages", {"match": {"prefix": "/v1/messages"}, "protocol": "anthropic_messages", **shared}, None)
        self.draft.report.remark("Claude Code: ANTHROPIC_BASE_URL is the address of the listener, ANTHROPIC_API_KEY the key of the consumer (any text without one).")


def _target(url: str, transformers: list[str]) -> tuple[Provider, str]:
    """The dialect and base URL of a provider's address."""
    names = {one.lower() for one in transformers}
    url = url.rstrip("/")
    if "generativelanguage.googleapis.com" in url or ("gemini" in names and url.endswith("/models")):
        return GEMINI, url.removesuffix("/models").removesuffix("/openai/chat/completions")
    if "anthropic" in names or url.endswith("/v1/messages"):
        return ANTHROPIC, url.removesuffix("/v1/messages").removesuffix("/v1")
    return CHAT, url.removesuffix("/chat/completions")
