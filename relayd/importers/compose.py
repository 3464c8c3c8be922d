"""Docker Compose: docker-compose.yml with its .env, or an .env alone.

The environment of a service shows which application it runs: a Responses proxy (BACKEND_URL), a transparent proxy
(TARGET_URL), a gateway to several providers (OPENROUTER_API_KEY and others) or a chat gateway (GEMINI_API_KEY, LITELLM_URL).
Published ports become listeners, keys become key files. Other services are reported, not converted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field

from relayd.config.load import load_tree
from relayd.dataclass import dataclass
from relayd.importers._applications import Environment, application, caddy
from relayd.importers._dotenv import Binding, Variable, bindings, expanded
from relayd.importers._draft import Draft, is_secret_name
from relayd.importers._report import Item
from relayd.importers._sources import Source, Sources
from relayd.importers._tree import Field, Tree

NOT_NEEDED = "not needed: relayd is a package and a system service"
SERVICE_KEYS = {
    **dict.fromkeys(("image", "build", "container_name", "restart", "depends_on", "pull_policy", "init", "tty", "stdin_open", "platform",
                     "command", "entrypoint", "working_dir", "hostname", "stop_grace_period", "stop_signal", "expose"), ("exact", NOT_NEEDED)),
    "healthcheck": ("approximate", "systemd's watchdog supervises relayd; /health reports the state"),
    "deploy": ("by_hand", "resource limits of the unit: MemoryMax= and CPUQuota= in a drop-in, see examples/limits.conf"),
    "mem_limit": ("by_hand", "MemoryMax= in a drop-in of the unit"), "cpus": ("by_hand", "CPUQuota= in a drop-in of the unit"),
    "networks": ("by_hand", "addresses of listeners decide who can connect; see also examples/closed-site.conf"),
    "network_mode": ("by_hand", "addresses of listeners decide who can connect"), "extra_hosts": ("by_hand", "names belong into /etc/hosts"),
    "volumes": ("exact", "relayd keeps its state in /var/lib/relayd; logs are in the journal"),
    "logging": ("approximate", "relayd writes to the journal"), "user": ("exact", "the unit has its own user"), "read_only": ("exact", "the unit is sandboxed"),
    "security_opt": ("exact", "the unit is sandboxed"), "cap_drop": ("exact", "the unit is sandboxed"), "ulimits": ("by_hand", "LimitNOFILE= in a drop-in"),
    "labels": ("by_hand", "labels of other programs; convert the configuration of Traefik, or see discovery by Docker labels"),
}
OTHERS = (
    (r"caddy", "relayd has its own listeners with TLS; convert the Caddyfile if it does more than this"), (r"nginx", "convert its configuration: relayd import nginx"),
    (r"traefik", "convert its dynamic file: relayd import traefik"), (r"haproxy", "convert its configuration: relayd import haproxy"),
    (r"litellm", "convert its config.yaml: relayd import litellm"), (r"redis|valkey|keydb", "not needed unless store uses it; its data is not moved"),
    (r"ollama|vllm|llama", "runs as before; name its address in upstreams"), (r"watchtower", "apt upgrades relayd"),
)


@dataclass(slots=True)
class Service:
    """A service of the file: its environment and its published ports."""

    key: Field
    variables: dict[str, Variable] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    ports: list[Item] = field(default_factory=list)

    @property
    def searchable(self) -> str:
        image = self.key.get("image")
        return f"{self.key.name} {(image.text or '') if image else ''}".lower()


class Importer:
    """Converts Compose projects. One per import."""

    def __init__(self, sources: Sources, draft: Draft) -> None:
        self.sources, self.draft = sources, draft
        self.files: dict[str, dict[str, Variable]] = {}  # by file
        self.shared: dict[str, Variable] = {}  # of the files that were given: Compose replaces ${NAME} by these

    @staticmethod
    def recognises(source: Source) -> bool:
        if re.search(r"^services:\s*(?:#.*)?$", source.text, re.MULTILINE):
            return True
        return re.search(r"(?:^|/)\.env|\.env$", source.name) is not None

    def convert(self) -> None:
        trees: list[Field] = []
        for source in self.sources.given:
            if re.search(r"\.ya?ml$", source.name) or re.search(r"^services:", source.text, re.MULTILINE):
                trees.append(Tree(self.draft.report, source.name).root(source.text, load_tree(source.text, source.name)))
            else:
                self._variables(source)
                self.shared.update(self.files[source.name])
        services = [self._service(one, tree) for tree in trees for one in tree.get("services") or ()]
        if not trees:
            self._alone()
        for one in services:
            self._convert(one)
        self._fronts(services)
        for tree in trees:
            self._project(tree)
        for variable in self.shared.values():
            for item in variable.items:
                if not item.notes:
                    item.unsupported("no service that this import knows uses this variable")

    def _variables(self, source: Source) -> None:
        """Read an .env file. A later line replaces an earlier one."""
        report, into = self.draft.report, self.files.setdefault(source.name, {})
        report.source(source.name, source.text)
        for one in bindings(source.text):
            if not isinstance(one, Binding):
                report.item(source.name, one).by_hand("is not understood; quotes may not be closed")
                continue
            item = report.item(source.name, one.line, one.last, one.name)
            if one.value is None:
                item.by_hand("has no value")
                continue
            used: list[Item] = []
            value = one.value if one.literal else expanded(one.value, into, used)
            if is_secret_name(one.name):
                for line in (*value.splitlines(), value, one.value):
                    report.hide(line)
            for other in used:
                other.exact(f"used by {one.name}")
            if (before := into.get(one.name)) is not None:
                for other in before.items:
                    other.exact("replaced by a later line")
            into[one.name] = Variable(one.name, value, [item])

    def _alone(self) -> None:
        """An .env without its docker-compose.yml."""
        environment = Environment(self.draft, self.shared, {})
        convert = application(environment)
        if convert is None:
            self.draft.report.remark("The variables are of no application that this import knows.")
        else:
            convert(environment)

    def _service(self, one: Field, tree: Field) -> Service:
        made = Service(one)
        for source in self._env_files(one, tree):
            if source.name not in self.files:
                self._variables(source)
            made.variables.update(self.files[source.name])
        environment = one.get("environment")
        for entry in environment or ():
            name, value = (entry.name, entry.text) if entry.name and not entry.name.isdigit() else _pair(entry.text or "")
            items: list[Item] = [entry.item]
            if value is None:  # passed through from the shell or .env
                shared = self.shared.get(name)
                value, items = (shared.value, [entry.item, *shared.items]) if shared else ("", items)
            else:
                value = expanded(value, self.shared, items)
            if is_secret_name(name):
                self.draft.report.hide(value)
            made.variables[name] = Variable(name, value, items)
        for port in one.get("ports") or ():
            self._port(made, port)
        return made

    def _env_files(self, one: Field, tree: Field) -> Iterator[Source]:
        found = one.get("env_file")
        if found is None:
            return
        for name in found.texts or [inner.text or "" for entry in found if (inner := entry.get("path"))]:
            given = next((source for source in self.sources.given if source.name.rpartition("/")[2] == name.rpartition("/")[2]), None)
            files = [given] if given is not None else self.sources.included(name, tree.tree.name)
            if files:
                found.exact("reads the file")
            else:
                found.rest("by_hand", "the file was not found here; convert it together with the others")
            yield from files

    def _port(self, made: Service, port: Field) -> None:
        """A published port: `5002:5001`, `127.0.0.1:5002:5001/tcp`, `8080`, or the long form."""
        made.ports.append(port.item)
        if port.text is None:
            target, published, host = (inner.text or "" if (inner := port.get(key)) else "" for key in ("target", "published", "host_ip"))
            port.exact()
        else:
            text = expanded(port.text, self.shared, made.ports)
            parts = text.partition("/")[0].rsplit(":", 2)
            target, published, host = parts[-1], parts[-2] if len(parts) > 1 else parts[-1], parts[0] if len(parts) > 2 else ""
        if not (target.isdigit() and published.isdigit()):
            port.item.by_hand("is no single port; see listeners")
            return
        host = host.strip("[]") or "0.0.0.0"
        made.published[target] = f"[{host}]:{published}" if ":" in host else f"{host}:{published}"

    def _convert(self, one: Service) -> None:
        environment = Environment(self.draft, one.variables, one.published, one.key.item)
        convert = application(environment) if not self._front(one) else None
        if convert is None:
            return
        if self.draft.routes:
            one.key.item.by_hand("a second application; make a second configuration (relayd@.service)")
            one.key.rest("by_hand", "belongs to a service that was not converted")
            return
        convert(environment)
        for item in one.ports:
            item.exact("the address of a listener")
        for name, variable in one.variables.items():
            for item in variable.items:
                if not item.notes:
                    item.unsupported(f"{name} has no counterpart that this import knows")
        one.key.item.exact("converted")
        self._details(one.key)

    def _front(self, one: Service) -> str:
        """Why a service is another program in front of or behind the application; empty if it may be one."""
        return next((reason for pattern, reason in OTHERS if re.search(pattern, one.searchable)), "")

    def _fronts(self, services: list[Service]) -> None:
        """Note the services that are no application; Caddy's variables give the public listener."""
        for one in services:
            if one.key.item.notes:
                continue
            reason = self._front(one)
            if re.search("caddy", one.searchable) and "CADDY_DOMAIN" in one.variables and not any(name in self.draft.listeners for name in ("public", "plain")):
                caddy(Environment(self.draft, one.variables, {}, one.key.item))
            if reason:
                one.key.item.by_hand(reason)
            else:
                one.key.item.unsupported("is no application that this import knows")
            for item in one.ports:
                if not item.notes:
                    item.exact("the listeners of relayd take its place") if reason else item.unsupported("belongs to a service that was not converted")
            self._details(one.key)
            one.key.rest("by_hand" if reason else "unsupported", reason or "belongs to a service that was not converted")

    def _details(self, service: Field) -> None:
        for key in service:
            note, reason = SERVICE_KEYS.get(key.name, ("", ""))
            if note:
                key.rest(note, reason)
            elif key.name in ("environment", "env_file", "ports"):
                key.item.exact()

    def _project(self, tree: Field) -> None:
        for key in tree:
            if key.name in ("version", "name"):
                key.exact(NOT_NEEDED)
            elif key.name == "volumes":
                key.rest("exact", SERVICE_KEYS["volumes"][1])
            elif key.name == "networks":
                key.rest(*SERVICE_KEYS["networks"])
            elif key.name.startswith("x-"):
                key.rest("exact", "used where it is merged")


def _pair(text: str) -> tuple[str, str | None]:
    name, sign, value = text.partition("=")
    return name, value if sign else None
