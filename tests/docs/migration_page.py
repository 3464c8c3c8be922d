"""Generator of relayd-migration(7): the kinds of `relayd import`, and the way from each stack that relayd replaces, and back.

`python3 -m tests.docs.migration_page > debian/man/relayd-migration.7` writes the page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from relayd import registry
from relayd.importers import FOLDER
from relayd.schema.manual import escape

INTRODUCTION = (
    "This page describes how the configuration of another program becomes a relayd.yaml, and how each of five stacks of containers is replaced by relayd, "
    "step by step, with the way back. Commands are run as root.",
)
CONVERSION = (
    "`relayd import` FILE reads the files that belong together, and prints a relayd.yaml and a report; with `-o` it writes the configuration and the key files. Nothing "
    "else on the machine is changed, and no request is sent.",
    "The report has one entry for each line of the source, with one of four results. *exact*: relayd does the same. *approximate*: relayd does nearly the same, and the "
    "difference is named. *by hand*: relayd can do this, but it does not follow from the file; the entry names the key to write. *not supported*: relayd cannot do this. A "
    "line that the import does not know is *not supported*; no line is left out.",
    "A rule that restricts access, and a rule that cannot be converted, becomes a route that answers 501 with the line of the source in its body. So a request never goes "
    "where it would not have gone before. Replace such routes by hand: search for *not imported* in the result.",
    "Keys and passwords of the source are moved into key files with mode 0600, owned by the user of the service if root runs the command. They are neither in the result nor "
    "in the report. References to variables of the environment stay references, `{env: NAME}`, unless the .env with the variable is one of the files.",
    "`--strict` writes nothing and exits with 1 if a line is left by hand or not supported.",
)
STEPS = (
    ("relayd import -o /etc/relayd.yaml.new FILE...", "Read the report to its end."),
    ("relayd check -c /etc/relayd.yaml.new", "All faults of the result, of certificates and of keys."),
    ("relayd explain -c /etc/relayd.yaml.new GET https://ai.example.org/v1/models", "The route of a request, without sending it."),
    ("relayd run -c /etc/relayd.yaml.new", "A trial beside the old program: write other ports into the file first, and `admin: {address: private}`."),
)
DIFFERENCES = (
    "Routes apply to all listeners. A server, site or frontend for other addresses needs an instance of its own (`relayd@.service`); the import reports it by hand.",
    "relayd adds X-Request-ID, Via, Forwarded, X-Real-IP and the X-Forwarded fields to requests, and X-Request-ID, X-Process-Time and X-Proxy-By to responses. The section "
    "`headers` renames them or turns them off. These fields are believed only from the listener's `trusted_proxies`.",
    "What no route matches is 404. Clients speak HTTP/1.1. relayd neither compresses nor caches nor serves files.",
    "Limits of the other program that apply without being written, such as timeouts of 60 seconds and bodies of 1 MiB in nginx, are written into the result. relayd's own defaults "
    "suit endpoints of language models better: remove these lines once nothing depends on them.",
)


@dataclass(frozen=True)
class Stack:
    """One stack: what it was, the example, and commands with explanations for the way to relayd, the end of the stack, and the way back."""

    title: str
    what: str
    example: str
    there: tuple[tuple[str, str], ...]
    end: tuple[tuple[str, str], ...]
    back: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


EXAMPLES = "/usr/share/doc/relayd/examples"
NEW_KEY = "openssl rand -hex 32 | install -o relayd -m 600 /dev/stdin /etc/relayd/keys/"
CHECK = ("relayd check && systemctl reload relayd", "Nothing changes if the file has a fault.")
STACKS = (
    Stack(
        "From a Dokku include that follows a container",
        "A script writes ai-proxy.conf with the address of a container into nginx.conf.d of an application, and a hook in postdeploy.d repeats this after each deployment. With relayd "
        "nothing is generated: it follows the container by itself (`discovery`), running streams stay on the old address until they end, and neither hook nor restart is needed.",
        "dokku.yaml",
        (("relayd import nginx /" + "home/dokku/backend/nginx.conf.d/ai-proxy.conf", "The locations as routes, for comparison. The file has no server block: choose the listener."),
         (f"cp {EXAMPLES}/dokku.yaml /etc/relayd.yaml", "Follows the containers backend.ai.1, backend.ai.2, ... by `discovery: {docker: {name: backend.ai, port: 8001}}`."),
         (f"{NEW_KEY}app", "A new key of the clients, which they send as KEY below."),
         (f"cp {EXAMPLES}/docker.conf /etc/systemd/system/relayd.service.d/ && systemctl daemon-reload && systemctl restart relayd", "Access to Docker's socket; relayd-security(7) has the risk, and a proxy for reading instead."),
         CHECK, ("curl -H 'Authorization: Bearer KEY' -d '{}' http://127.0.0.1:8282/api/chat", "The same answer as from the container.")),
        (("rm /" + "home/dokku/backend/postdeploy.d/99_update_ai_proxy", "Deployments do not write the include any more."),
         ("rm /" + "home/dokku/backend/nginx.conf.d/ai-proxy.conf && dokku nginx:build-config backend", "If nginx keeps the port 443: replace the include by one location that passes /api/chat to 127.0.0.1:8282.")),
        (("bash update_ai_proxy.sh backend", "Writes the include and the hook again."), ("systemctl disable --now relayd", "")),
        ("The AI process needs not become the web process of the application. Only the paths of the routes are reachable; others are 404.",),
    ),
    Stack(
        "From a Responses proxy behind Caddy",
        "Two containers: a proxy on port 8282 that translates OpenAI's Responses API to Chat Completions, and Caddy with automatic HTTPS before it. relayd does both in one process.",
        "responses-proxy.yaml",
        (("relayd import compose docker-compose.yml .env -o /etc/relayd.yaml --force", "Listeners with a certificate by ACME, the upstream, and the routes /v1/responses, /v1/ and /health."),
         ("docker compose stop caddy", "Frees the ports 80 and 443. relayd answers the ACME challenges on them."),
         ("relayd doctor", "DNS, ports, certificates and the endpoint, each fault with its cure."), CHECK,
         ("relayd certs list", "The certificate, once it was issued."), ("curl https://responses-proxy.example.org/health", "The same JSON as before.")),
        (("docker compose down", ""), ("docker volume rm responses-proxy_caddy_data responses-proxy_caddy_config", "After the new certificate is in use; the old one is not needed."),
         ("ufw delete deny 8282/tcp && ufw allow relayd", "relayd listens on 8282 on this machine only.")),
        (("systemctl disable --now relayd && docker compose up -d", "As long as the volumes exist, Caddy still has its certificate."),),
        ("The keys of clients are forwarded and not stored, as before.",),
    ),
    Stack(
        "From a transparent proxy with FastAPI and HTTPX",
        "A container passes every request to one target, configured by an .env, often behind nginx.",
        "transparent-proxy.yaml",
        (("relayd import compose .env -o /etc/relayd.yaml --force", "Target, timeouts, retries, CORS and the paths /api/health and /api/ping."),
         ("docker compose stop", "Frees port 8080."), CHECK, ("curl http://localhost:8080/api/health", "The same JSON as before.")),
        (("docker compose down --rmi local", ""), ("apt remove nginx", "If it only passed requests to port 8080: give relayd's listener the name's certificate, see `tls` of the listener.")),
        (("systemctl disable --now relayd && docker compose up -d", ""),),
        ("MAX_WORKERS has no counterpart: one process serves all requests, and several share a port as `relayd@1`, `relayd@2`. relayd is for servers with systemd; for Railway, Cloud Run, ECS, "
         "Heroku and similar platforms there is no package.",),
    ),
    Stack(
        "From a gateway to several providers with Redis",
        "Containers for the application with a limit for each provider, for Redis, a dashboard and nginx, deployed by a script without interruption.",
        "model-hunter.yaml",
        (("relayd import compose docker-compose.yml .env -o /etc/relayd.yaml --force", "An upstream with its key, limit and queue for each provider, and a new key for the clients."),
         ("docker compose stop", "Frees the port of the application, and port 80 of nginx. Sessions in Redis stay in its volume."),
         CHECK, ("relayd queue", "Limits and waiting requests of each provider."), ("relayd upstreams", "State of the providers.")),
        (("docker compose down --volumes", "Sessions in Redis that were not imported end here. Those of relayd survive restarts and upgrades with `store: sqlite`."),
         ("apt remove docker.io && deluser \"$USER\" docker", "If nothing else uses Docker.")),
        (("systemctl disable --now relayd && docker compose up -d", "Before the volumes are removed, sessions are still there."),
         ("apt install relayd=VERSION; relayd rollback", "Back to an earlier version, or to an earlier configuration, of relayd itself.")),
        ("`git pull` and the script become `apt upgrade` and `systemctl reload relayd`; both interrupt no stream.",
         "Sessions of clients in the old Redis are lost, unless they are imported before its volume is removed: with a route for `upstream: sessions` in the configuration, `docker compose start redis`, and the port of Redis published, "
         "`relayd sessions import --redis redis://127.0.0.1:6379/0 --pattern 'session:*' --consumer app` takes over those whose values are strings with JSON. Its report names what was taken, what was skipped and why; `--dry-run` changes nothing. "
         "Values in another form (pickle, hashes) cannot be imported. The names of cookie and header field are those of `sessions:`; set them to those of the old application, so that clients keep their ids.",),
    ),
    Stack(
        "From a chat gateway behind Traefik, with LiteLLM and Ollama",
        "Traefik passes a public name to a container with Gunicorn, which asks Gemini, or LiteLLM before Ollama. relayd asks Gemini and Ollama directly.",
        "chat-gateway.yaml",
        (("relayd import compose docker-compose.yml .env", "The routes /chat, /webhook, /health and /metrics, and the key of Gemini."),
         ("relayd import litellm config.yaml .env", "The models of Ollama: take `models` and the upstream from here."),
         ("relayd import traefik routes.yml", "The public name: take the listener with its certificate from here."),
         (f"cp {EXAMPLES}/chat-gateway.yaml /etc/relayd.yaml", "The whole, to be completed from these three."),
         ("sed -n 's/^GEMINI_API_KEY=//p' .env | install -o relayd -m 600 /dev/stdin /etc/relayd/keys/gemini", "The key of Gemini."),
         (f"for name in apps dialogflow monitoring; do {NEW_KEY}$name; done", "New keys of the clients, of Dialogflow and of the monitoring."),
         ("podman-compose stop", "Frees port 5002."), CHECK,
         ("curl http://localhost:5002/health", "Answered within milliseconds, also while all workers of the models are busy.")),
        (("podman-compose down", "Ollama continues to run."), ("rm routes.yml", "The route of the name in Traefik's folder of dynamic files; Traefik reads this by itself."),
         ("systemctl disable --now litellm", "However LiteLLM was started.")),
        (("systemctl disable --now relayd && podman-compose up -d", "With routes.yml in its place again."),),
        ("Health checks have no influence on requests: liveness, readiness and the state of the models are three answers (/live, /ready, /health). The stack needed no key; the example needs one for "
         "each group of clients.",),
    ),
)


def marked(text: str) -> str:
    """A paragraph with `bold` and *italic* words, as roff."""
    made = "".join(_part(part) for part in re.split(r"(`[^`]+`|(?<![\w:])\*[^*]+\*)", text))
    return f"\\&{made}" if made.startswith((".", "'")) else made


def _part(part: str) -> str:
    if len(part) > 2 and part[0] == part[-1] == "`":
        return f"\\fB{_plain(part[1:-1])}\\fR"
    if len(part) > 2 and part[0] == part[-1] == "*":
        return f"\\fI{_plain(part[1:-1])}\\fR"
    return _plain(part)


def _plain(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")


def commands(listed: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for command, meaning in listed:
        yield from (".TP", f"\\fB{_plain(command)}\\fR", marked(meaning) or "\\&")


def paragraphs(texts: tuple[str, ...]) -> Iterator[str]:
    for text in texts:
        yield from (".PP", marked(text))


def stack(one: Stack) -> Iterator[str]:
    yield f".SH {one.title.upper()}".replace("-", "\\-")
    yield from paragraphs((one.what, f"The complete configuration: *{EXAMPLES}/{one.example}*, with its expectations in *tests/{one.example}* beside it."))
    for title, listed in (("To relayd", one.there), ("The end of the old stack", one.end), ("Back", one.back)):
        yield f".SS {title}"
        yield from commands(listed)
    yield from paragraphs(one.notes)


def page() -> str:
    """The whole page."""
    lines = [
        '.\\" Generated by tests.docs.migration_page; do not edit.', '.TH RELAYD\\-MIGRATION 7 "" relayd "relayd manual"', ".SH NAME",
        "relayd\\-migration \\- from other programs and from stacks of containers to relayd, and back", ".SH DESCRIPTION", *paragraphs(INTRODUCTION),
        ".SH CONVERSION", *paragraphs(CONVERSION), *commands(STEPS), ".SH KINDS OF FILES",
    ]
    for kind in registry.kinds(FOLDER):
        first, *rest = registry.entry(FOLDER, kind).split("\n\n")
        lines += [".TP", f".B {_plain(kind)}", escape(" ".join(first.split()))]
        for text in rest:
            lines += [".IP", escape(" ".join(text.split()))]
    lines += [".SH WHAT RELAYD DOES OTHERWISE", *paragraphs(DIFFERENCES)]
    for one in STACKS:
        lines += stack(one)
    lines += [".SH SEE ALSO", "\\fBrelayd\\fR(8), \\fBrelayd.yaml\\fR(5), \\fBrelayd\\-security\\fR(7), \\fBrelayd\\-protocols\\fR(7)", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(page())
