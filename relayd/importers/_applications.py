"""Applications that relayd replaces, by the environment variables that configure them.

Each converts the variables that it knows and notes them; a variable that none knows is reported as not supported.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from urllib.parse import urlsplit

from relayd.dataclass import dataclass
from relayd.importers._dotenv import Variable
from relayd.importers._draft import Draft, Values, endpoint_fault
from relayd.importers._report import Item
from relayd.schema.scalars import FALSE, TRUE

CHAT_PATH = "/chat/completions"
LEVELS = {"trace": "debug", "debug": "debug", "info": "info", "warn": "warning", "warning": "warning", "error": "error", "critical": "error"}


@dataclass(slots=True)
class Environment:
    """The variables of one application, and the host address of each published port of its container."""

    draft: Draft
    variables: dict[str, Variable]
    published: dict[str, str]  # container port -> host:port
    service: Item | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.variables

    def text(self, name: str, default: str = "") -> str:
        found = self.variables.get(name)
        return found.value.strip() if found is not None and found.value.strip() else default

    def item(self, name: str) -> Item | None:
        found = self.variables.get(name)
        return found.items[0] if found is not None and found.items else self.service

    def exact(self, name: str, reason: str = "") -> None:
        for one in self._items(name):
            one.exact(reason)

    def approximate(self, name: str, reason: str) -> None:
        for one in self._items(name):
            one.approximate(reason)

    def by_hand(self, name: str, reason: str) -> None:
        for one in self._items(name):
            one.by_hand(reason)

    def unsupported(self, name: str, reason: str) -> None:
        for one in self._items(name):
            one.unsupported(reason)

    def _items(self, name: str) -> list[Item]:
        found = self.variables.get(name)
        return [] if found is None else found.items

    def number(self, name: str, default: float) -> float:
        """The value as a number; the default, after reporting it, if it is none."""
        text = self.text(name)
        try:
            value = float(text) if text else default
        except ValueError:
            self.by_hand(name, f"is no number; {default:g} is written")
            return default
        self.exact(name)
        return value

    def flag(self, name: str, default: bool) -> bool:
        text = self.text(name).lower()
        known = {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False), "1": True, "0": False, "": default}
        if text not in known:
            self.by_hand(name, "is neither true nor false")
            return default
        self.exact(name)
        return known[text]

    def listen(self, port: str) -> str:
        """The address at which the container's port is published; on this machine only if it is not."""
        return self.published.get(port, f"127.0.0.1:{port}")

    def level(self, name: str) -> None:
        text = self.text(name, "info").lower()
        if text in LEVELS:
            if LEVELS[text] != "info":
                self.draft.telemetry["log"] = {"level": LEVELS[text]}
            self.exact(name)
        else:
            self.by_hand(name, "see telemetry.log.level")

    def key(self, variable: str, name: str) -> object | None:
        """The secret of a variable as a key file; None, after reporting it, if there is none."""
        value = self.text(variable)
        if not value:
            return None
        if re.search(r"\s|[^\x21-\x7e]", value) or value in ("...", "sk-...", "changeme") or re.match(r"(?:your|my|<)[-_ ]", value, re.IGNORECASE):
            self.by_hand(variable, f"is no usable key; write it into the key file {name}")
            return self.draft.key(name, "replace-me")
        self.exact(variable, f"moved into the key file {name}")
        return self.draft.key(name, value)


def _base_url(environment: Environment, name: str, url: str) -> str:
    """The base URL of a Chat Completions API, from the full URL or from the base."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        environment.by_hand(name, "contains user information or a query; see auth of the upstream")
    base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    if base.endswith(CHAT_PATH):
        environment.exact(name, "as the base URL, without /chat/completions")
        return base.removesuffix(CHAT_PATH)
    environment.approximate(name, f"taken as the base URL, to which relayd adds {CHAT_PATH}")
    return base


def _reachable(environment: Environment, name: str, url: str) -> str:
    """The URL as it is reached from the host. The name of a container has no meaning there; it is reported."""
    host = urlsplit(url).hostname or ""
    if host in ("host.docker.internal", "host.containers.internal"):
        return url.replace(host, "127.0.0.1", 1)
    if "." not in host and host != "localhost":
        environment.by_hand(name, f"{host} is the name of a container; publish its port on 127.0.0.1, or see discovery")
    return url


def responses_proxy(environment: Environment) -> None:
    """A proxy that offers the Responses API for a Chat Completions API, behind Caddy."""
    draft = environment.draft
    port = environment.text("HOST_PORT", "8282")
    draft.listener("inner", {"address": environment.listen(port)}, environment.item("HOST_PORT"))
    environment.exact("HOST_PORT")
    total = environment.number("BACKEND_TIMEOUT_SECS", 600)
    base = _base_url(environment, "BACKEND_URL", environment.text("BACKEND_URL"))
    if not _usable(environment, "BACKEND_URL", base):
        return
    upstream = draft.upstream("backend", {
        "protocol": "openai_chat", "endpoints": [base], "breaker": {"failures": 5, "open_for": "30s"},
        "timeouts": {"first_byte": f"{total:g}s", "idle": f"{total:g}s", "total": f"{total:g}s"},
    }, environment.item("BACKEND_URL"))
    client = {"upstream": upstream, "pass_client_key": True}
    draft.route("responses", {"match": {"prefix": "/v1/responses"}, "protocol": "openai_responses", **client}, None)
    draft.route("chat", {"match": {"prefix": "/v1/"}, "protocol": "openai_chat", **client}, None)
    draft.route("health", {"match": {"path": "/health"}, "upstream": "admin"}, None)
    environment.level("RUST_LOG")
    draft.report.remark("The keys of clients are forwarded to the backend, as before. To hold one key here, add `auth` to the upstream, "
                        "`consumers`, and `allow` to the routes instead of pass_client_key.")
    caddy(environment)


def caddy(environment: Environment) -> None:
    """The variables of the Caddy in front: the public listener."""
    draft, domain = environment.draft, environment.text("CADDY_DOMAIN")
    if not domain and "CADDY_PORT" not in environment:
        return
    port = environment.text("CADDY_PORT", "443")
    tls = environment.flag("CADDY_TLS", True)
    environment.exact("CADDY_PORT")
    if not tls or domain in ("localhost", "127.0.0.1"):
        local = domain in ("localhost", "127.0.0.1")
        draft.listener("public", {"address": f"{'127.0.0.1' if local else '0.0.0.0'}:{port}"}, environment.item("CADDY_PORT"))
        environment.approximate("CADDY_DOMAIN", "the listener answers for every host")
        if tls:
            environment.by_hand("CADDY_TLS", "relayd makes no certificate for a local name; the listener is without TLS, on this machine only")
        return
    values: Values = {"address": f"0.0.0.0:{port}", "tls": {"acme": {"domains": [domain]}}}
    draft.listener("public", values, environment.item("CADDY_DOMAIN"))
    draft.listener("plain", {"address": "0.0.0.0:80", "https_redirect": True}, environment.item("CADDY_TLS"))
    environment.approximate("CADDY_DOMAIN", "relayd obtains a new certificate for this name; the listener answers for every host")


def _list(environment: Environment, name: str) -> list[str]:
    """A list in JSON or separated by commas."""
    text = environment.text(name, "*")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = [one.strip() for one in text.split(",")]
    environment.exact(name)
    return [str(one) for one in found] if isinstance(found, list) else [str(found)]


def transparent_proxy(environment: Environment) -> None:
    """A transparent proxy for one target, with FastAPI and HTTPX."""
    draft = environment.draft
    port = environment.text("PORT", "8080")
    host = environment.text("HOST", "0.0.0.0")
    draft.listener("public", {"address": environment.published.get(port, f"{host}:{port}")}, environment.item("PORT"))
    environment.exact("PORT")
    environment.exact("HOST")
    total = environment.number("REQUEST_TIMEOUT", 300)
    retries = environment.number("MAX_RETRIES", 3)
    backoff = environment.number("RETRY_BACKOFF_FACTOR", 0.5)
    target = environment.text("TARGET_URL", "https://ai.megallm.io").rstrip("/")
    if not _usable(environment, "TARGET_URL", target):
        return
    environment.exact("TARGET_URL")
    values: Values = {
        "endpoints": [target], "timeouts": {"first_byte": f"{total:g}s", "idle": f"{total:g}s", "total": f"{total:g}s"},
        "retries": {"attempts": min(int(retries) + 1, 20), "backoff": f"{max(int(backoff * 1000), 1)}ms"},
    }
    if target.startswith("https://"):
        values["http"] = "2"
    environment.approximate("MAX_RETRIES", "relayd repeats only before the first byte of the response, and only what may be repeated")
    if not environment.flag("SSL_VERIFY", True):
        values["tls"] = {"verify": False}
    draft.upstream("target", values, environment.item("TARGET_URL"))
    draft.route("health", {"match": {"path": "/api/health"}, "upstream": "admin"}, None)
    draft.route("ping", {"match": {"path": "/api/ping"}, "upstream": "admin"}, None)
    everything: Values = {"match": {"prefix": "/"}, "upstream": "target", "pass_client_key": True, "body_limit": 0}
    cors: Values = {"origins": _list(environment, "CORS_ORIGINS"), "methods": _list(environment, "CORS_METHODS"), "headers": _list(environment, "CORS_HEADERS")}
    if environment.flag("ENABLE_CORS", True):
        everything["cors"] = cors
    draft.route("all", everything, None)
    environment.level("LOG_LEVEL")
    environment.exact("MAX_WORKERS", "not needed: one process serves all requests; relayd@.service runs several")
    environment.exact("PROXY_BUFFER_SIZE", "not needed: relayd passes bytes on as they arrive")


PROVIDERS = (
    ("openrouter", "OPENROUTER", "https://openrouter.ai/api/v1", 6, ("*/*",)),
    ("fireworks", "FIREWORKS", "https://api.fireworks.ai/inference/v1", 4, ("accounts/fireworks/*",)),
    ("openai", "OPENAI", "https://api.openai.com/v1", 8, ("gpt-*", "o1*", "o3*", "o4*", "text-embedding-*")),
)


def model_hunter(environment: Environment) -> None:
    """An application with a limit and a queue for each of several providers, sessions in Redis, behind nginx."""
    draft = environment.draft
    draft.listener("public", {"address": environment.listen("8000")}, environment.service)
    models: list[tuple[str, str]] = []
    for name, variable, url, usual, patterns in PROVIDERS:
        key = environment.key(f"{variable}_API_KEY", name)
        if key is None:
            continue
        limit = int(environment.number(f"{variable}_CONCURRENCY", usual))
        url = environment.text(f"{variable}_BASE_URL", url).rstrip("/")
        environment.exact(f"{variable}_BASE_URL")
        draft.upstream(name, {
            "protocol": "openai_chat", "endpoints": [url], "auth": {"bearer": key}, "http": "2",
            "limits": {"requests": limit, "queue": 128, "queue_timeout": "60s"},
        }, environment.item(f"{variable}_API_KEY"))
        models += [(pattern, name) for pattern in patterns]
    for pattern, name in sorted(models, key=lambda one: one[0] == "*/*"):
        draft.model(pattern, {"upstream": name}, environment.item(f"{name.upper()}_API_KEY"))
    draft.consumer("app", {"bearer": draft.key("app", secrets.token_urlsafe(32))}, None)
    draft.route("models", {"match": {"prefix": "/v1/"}, "protocol": "openai_chat", "upstream": "by_model", "allow": ["app"]}, None)
    draft.route("health", {"match": {"path": "/api/health"}, "upstream": "admin"}, None)
    environment.by_hand("REDIS_URL", "see store: sessions of the application itself are not moved")
    draft.report.remark("The paths of the application's own API are not in its files: clients use /v1/ with the key in the key file app, "
                        "which is new and random.")


def chat_gateway(environment: Environment) -> None:
    """A chat gateway for Gemini, and for local models through LiteLLM and Ollama."""
    draft = environment.draft
    port = next((one for one in ("5001", "5002", "5000", "8000") if one in environment.published), "5002")
    draft.listener("local", {"address": environment.listen(port)}, environment.service)
    key = environment.key("GEMINI_API_KEY", "gemini") or environment.key("GOOGLE_API_KEY", "gemini")
    if key is not None:
        upstream = draft.upstream("gemini", {
            "protocol": "gemini", "endpoints": ["https://generativelanguage.googleapis.com/v1beta"],
            "auth": {"header": {"name": "x-goog-api-key", "value": key}},
        }, environment.item("GEMINI_API_KEY"))
        draft.model("gemini-*", {"upstream": upstream}, environment.item("GEMINI_API_KEY"))
    names: dict[str, str] = {}
    for variable in ("LITELLM_URL", "LITELLM_BASE_URL", "LITELLM_API_BASE", "LITELLM_PROXY_URL"):
        if url := environment.text(variable):
            url = _reachable(environment, variable, url.rstrip("/"))
            url = url if url.endswith("/v1") else f"{url}/v1"
            if not _usable(environment, variable, url):
                break
            secret = next((found for name in ("LITELLM_API_KEY", "LITELLM_MASTER_KEY") if (found := environment.key(name, "litellm"))), None)
            values: Values = {"protocol": "openai_chat", "endpoints": [url], **({"auth": {"bearer": secret}} if secret else {})}
            environment.approximate(variable, "relayd can use Ollama directly: convert LiteLLM's config.yaml too, and use its models here")
            names["litellm"] = draft.upstream("litellm", values, environment.item(variable))
            draft.model("*", {"upstream": "litellm"}, environment.item(variable))
            break
    for variable in ("OLLAMA_URL", "OLLAMA_BASE_URL", "OLLAMA_HOST"):
        if (url := environment.text(variable)) and "litellm" not in names:
            url = _reachable(environment, variable, (url if "://" in url else f"http://{url}").rstrip("/"))
            if not _usable(environment, variable, url):
                break
            draft.upstream("ollama", {"protocol": "ollama", "endpoints": [url]}, environment.item(variable))
            draft.model("*", {"upstream": "ollama"}, environment.item(variable))
            environment.approximate(variable, "models have the names of Ollama; see models for others")
            break
    if not draft.upstreams:
        return
    draft.route("chat", {"match": {"path": "/chat"}, "protocol": "simple_chat", "upstream": "by_model"}, None)
    draft.route("webhook", {"match": {"path": "/webhook"}, "protocol": "dialogflow", "upstream": "by_model", "timeouts": {"total": "4500ms"}}, None)
    draft.route("health", {"match": {"path": "/health"}, "upstream": "admin", "rewrite": "/health/backends"}, None)
    draft.route("metrics", {"match": {"path": "/metrics"}, "upstream": "admin"}, None)
    draft.model("dialogflow", {"upstream": next(iter(draft.upstreams)), "model": "gemini-2.5-flash"}, None)
    draft.report.remark("Nobody needs a key for these routes, as before. Add consumers, and allow to the routes, before relayd listens on an address of other machines.")


# The variables by which an application is recognised, the first that fits.
APPLICATIONS: tuple[tuple[Callable[[Environment], bool], Callable[[Environment], None]], ...] = (
    (lambda environment: "BACKEND_URL" in environment, responses_proxy),
    (lambda environment: "TARGET_URL" in environment, transparent_proxy),
    (lambda environment: any(f"{one[1]}_API_KEY" in environment for one in PROVIDERS), model_hunter),
    (lambda environment: any(re.match(r"GEMINI_API_KEY|GOOGLE_API_KEY|LITELLM_|OLLAMA_", name) for name in environment.variables), chat_gateway),
)


def _usable(environment: Environment, name: str, url: str) -> bool:
    """False, after reporting it, if a URL cannot be an endpoint."""
    fault = endpoint_fault(url)
    if fault:
        environment.by_hand(name, f"the address {fault}")
    return not fault


def application(environment: Environment) -> Callable[[Environment], None] | None:
    """The application that these variables configure."""
    return next((convert for fits, convert in APPLICATIONS if fits(environment)), None)
