"""Traefik: a dynamic file (YAML or TOML), with the static file for the entry points if it is given.

Routers become routes in the order of Traefik's priorities, services become upstreams, and middlewares changes of a route. A
rule or a middleware that relayd does not have closes the router: it answers 501.
"""

from __future__ import annotations

import re
from dataclasses import field

from relayd.config.load import load_tree
from relayd.dataclass import dataclass
from relayd.importers._draft import HASHED, Draft, Values, endpoint_fault
from relayd.importers._sources import Source, Sources
from relayd.importers._toml import toml_tree
from relayd.importers._traefik_rule import Rule, parse_rule
from relayd.importers._tree import Field, Tree
from relayd.lazy_regex import lazy_regex

DURATION = lazy_regex(r"\d+(?:\.\d+)?(?:ms|s|m|h)")
ADDRESSES = "see addresses of consumers, and allow of the routes"
NO_ACCESS = {"basicAuth": HASHED, "digestAuth": "relayd has no digest authentication; see consumers",
             "forwardAuth": "relayd asks no other server; see consumers", "ipWhiteList": ADDRESSES, "ipAllowList": ADDRESSES,
             "plugin": "relayd has no such plug-in", "rateLimit": "see rates of the routes"}


@dataclass(slots=True)
class Middleware:
    """What a middleware changes: keys of the route, a redirect, or the reason why it cannot be converted."""

    route: Values = field(default_factory=dict)
    redirect: Values | None = None
    upstream: Values = field(default_factory=dict)
    path: str = ""  # strip, add or replace
    value: list[str] = field(default_factory=list)
    fault: str = ""
    missing: bool = False


@dataclass(slots=True)
class Importer:
    """Converts Traefik's files. One per import."""

    sources: Sources
    draft: Draft
    services: dict[str, Field] = field(default_factory=dict)
    middlewares: dict[str, Field] = field(default_factory=dict)
    transports: dict[str, Field] = field(default_factory=dict)
    entry_points: dict[str, Field] = field(default_factory=dict)
    certificates: list[Values] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    secure: bool = False  # a router has TLS

    @staticmethod
    def recognises(source: Source) -> bool:
        return re.search(r"^http:\s*$|^\[http\.|^entryPoints:|^\[entryPoints", source.text, re.MULTILINE) is not None and \
            re.search(r"routers|services|entryPoints", source.text) is not None

    def convert(self) -> None:
        trees = []
        for source in self.sources.given:
            node = toml_tree(source.text, source.name) if source.name.endswith(".toml") else load_tree(source.text, source.name)
            trees.append(Tree(self.draft.report, source.name).root(source.text, node))
        routers: list[Field] = []
        for tree in trees:
            for point in tree.get("entryPoints") or ():
                self.entry_points[point.name] = point
            for part, into in (("services", self.services), ("middlewares", self.middlewares), ("serversTransports", self.transports)):
                for named in tree.at(f"http.{part}") or ():
                    into[named.name] = named
            routers += list(tree.at("http.routers") or ())
            for certificate in tree.at("tls.certificates") or ():
                self._certificate(certificate)
            for other in (tree.get("tcp"), tree.get("udp")):
                if other is not None:
                    other.rest("unsupported", "relayd speaks HTTP")
        self.secure = any(one.get("tls") is not None for one in routers)
        self._routers(routers)
        self._listeners()
        self._rest(trees)

    def _certificate(self, one: Field) -> None:
        cert, key = one.get("certFile"), one.get("keyFile")
        if cert is not None and key is not None and cert.text and key.text:
            self.certificates.append({"cert": cert.text, "key": key.text})
            cert.item.exact()
            key.item.exact()

    def _routers(self, routers: list[Field]) -> None:
        """Add the routes in the order of the priorities: a number, else the length of the rule."""
        prepared: list[tuple[float, Field, str]] = []
        for one in routers:
            rule, priority = one.get("rule"), one.get("priority")
            if rule is None or not rule.text:
                one.rest("by_hand", "has no rule")
                continue
            number = priority.number if priority is not None and priority.number else len(rule.text)
            if priority is not None:
                priority.item.exact("the order of the routes")
            prepared.append((number, one, rule.text))
        for _, one, text in sorted(prepared, key=lambda found: -found[0]):
            self._router(one, text)

    def _router(self, one: Field, text: str) -> None:
        rule_field = one.get("rule")
        assert rule_field is not None
        rule = parse_rule(text)
        for value in rule.hidden:
            self.draft.report.hide(value)
        redirects_only = self._is_entry_redirect(one)
        if rule.fault:
            rule_field.item.by_hand(f"{rule.fault}; relayd answers 501 where the rest of the rule holds")
        else:
            rule_field.item.exact()
        if rule.notes:
            rule_field.item.approximate("; ".join(rule.notes))
        if redirects_only:
            one.exact("https_redirect of the listener")
            return
        named = one.get("middlewares")
        changes = [self._middleware(name) for name in (named.texts if named is not None else [])]
        if named is not None:
            named.exact()
        fault = rule.fault or next((change.fault for change in changes if change.fault), "")
        service = one.get("service")
        tls = one.get("tls")
        if tls is not None:
            self._tls(tls, rule)
        for number, match in enumerate(rule.matches):
            values = None if fault else self._values(one, service, changes, match)
            if values is None:
                self.draft.refusing_route(one.name, match, one.item)
                one.item.by_hand(f"{fault or 'cannot be converted'}; relayd answers 501 here")
                one.rest("by_hand", "belongs to a router that answers 501")
            else:
                self.draft.route(one.name, {"match": match, **values}, one.item)
                if number == 0:
                    one.item.exact()
        if (entry := one.get("entryPoints")) is not None:
            if len(self.entry_points) > len(entry.texts):
                for inner in entry.everything():
                    inner.item.approximate("relayd's routes apply to all listeners")
            else:
                entry.exact()

    def _is_entry_redirect(self, one: Field) -> bool:
        """True for a router that sends every request of plain HTTP to HTTPS."""
        names = found.texts if (found := one.get("middlewares")) is not None else []
        middlewares = [self.middlewares.get(name.partition("@")[0]) for name in names]
        redirects = [inner for inner in middlewares if inner is not None and (scheme := inner.at("redirectScheme.scheme")) is not None and scheme.text == "https"]
        if not redirects or one.get("tls") is not None or not self.secure:
            return False
        for inner in redirects:
            for part in inner.everything():
                part.item.approximate("https_redirect: relayd redirects every host with 308")
        return True

    def _tls(self, tls: Field, rule: Rule) -> None:
        resolver = tls.get("certResolver")
        if resolver is not None:
            resolver.item.approximate("tls.acme of the listener: relayd obtains a new certificate from Let's Encrypt")
            for host in rule.hosts:
                if host not in self.domains and not host.startswith("*"):
                    self.domains.append(host)
        tls.item.exact()
        for one in tls:
            if one.name != "certResolver":
                one.rest("by_hand", "see tls of the listener")

    def _values(self, one: Field, service: Field | None, changes: list[Middleware], match: Values) -> Values | None:
        route: Values = {"upgrade": True, "body_limit": 0}
        extra: Values = {}
        for change in changes:
            if change.redirect is not None:
                if service is not None:
                    service.item.exact("not reached: the middleware redirects")
                return {"redirect": change.redirect}
            for section, edits in change.route.items():
                if section.endswith("_headers"):
                    for key, value in edits.items():
                        known = route.setdefault(section, {})
                        known[key] = [*known.get(key, []), *value] if isinstance(value, list) else {**known.get(key, {}), **value}
                else:
                    route[section] = edits
            extra |= change.upstream
            if change.path and not self._path(change, match, route, one):
                return None
        if service is None or not service.text:
            one.item.by_hand("has no service")
            return None
        name = service.text.partition("@")[0]
        found = self.services.get(name)
        if found is None:
            service.item.by_hand("this service is not in the files; see upstream, and discovery")
            return None
        values = self._service(found)
        if values is None:
            return None
        service.item.exact()
        return {"upstream": self.draft.upstream(name, {**values, **extra}, found.item), **route}

    def _path(self, change: Middleware, match: Values, route: Values, one: Field) -> bool:
        prefix = str(match.get("prefix") or match.get("path") or "/")
        if change.path == "strip":
            fitting = next((value for value in change.value if prefix.startswith(value)), None)
            if fitting is None or "regex" in match:
                one.item.by_hand("stripPrefix does not begin the path of the rule")
                return False
            route["strip_prefix"] = fitting.rstrip("/") or "/"
            edits = route.setdefault("request_headers", {})
            edits["set"] = {**edits.get("set", {}), "X-Forwarded-Prefix": fitting}  # as Traefik does
        elif change.path == "add" and "strip_prefix" not in route:
            route["rewrite"] = f"{change.value[0].rstrip('/')}{prefix}"
            if "path" not in match and "regex" not in match:
                match.setdefault("prefix", "/")
        elif change.path == "replace":
            match.setdefault("prefix", "/")
            if "path" not in match:
                match["regex"] = f"{re.escape(match.pop('prefix'))}.*"
            route["rewrite"] = change.value[0]
        else:
            one.item.by_hand("two changes of the path")
            return False
        return True

    def _middleware(self, name: str) -> Middleware:
        found = self.middlewares.get(name.partition("@")[0])
        made = Middleware()
        if found is None:
            made.fault = f"the middleware {name} is not in the files"
            return made
        found.item.exact()
        for one in found:
            self._change(one, made)
        return made

    def _change(self, one: Field, made: Middleware) -> None:
        if one.name in NO_ACCESS:
            made.fault = NO_ACCESS[one.name]
            for inner in one.everything():
                inner.item.by_hand(NO_ACCESS[one.name])
                if one.name.endswith("Auth") and inner.text:
                    self.draft.report.hide(inner.text)
        elif one.name == "stripPrefix" and (prefixes := one.get("prefixes")) is not None:
            made.path, made.value = "strip", prefixes.texts
            one.exact()
        elif one.name in ("addPrefix", "replacePath") and (value := one.get("prefix" if one.name == "addPrefix" else "path")) is not None and value.text:
            made.path, made.value = "add" if one.name == "addPrefix" else "replace", [value.text]
            one.exact()
        elif one.name == "headers":
            self._headers(one, made)
        elif one.name == "redirectScheme":
            scheme, permanent = one.get("scheme"), one.get("permanent")
            status = 301 if permanent is not None and permanent.flag else 302
            made.redirect = {"location": f"{(scheme.text if scheme else '') or 'https'}://{{host}}{{path}}{{query}}", "status": status}
            one.exact()
        elif one.name == "buffering" and (size := one.get("maxRequestBodyBytes")) is not None and size.number is not None:
            made.route["body_limit"] = int(size.number)
            size.item.exact()
            one.rest("approximate", "relayd passes bodies on as they arrive")
        elif one.name == "inFlightReq" and (amount := one.get("amount")) is not None and amount.number:
            made.route["limits"] = {"requests": int(amount.number)}
            one.exact()
            one.item.approximate("for all clients together; Traefik counts each client address by default")
        elif one.name == "retry" and (attempts := one.get("attempts")) is not None and attempts.number:
            made.upstream["retries"] = {"attempts": min(int(attempts.number), 20)}
            one.exact()
            one.item.approximate("relayd repeats only what may be repeated, also after 5xx")
        elif one.name == "compress":
            for inner in one.everything():
                inner.item.approximate("relayd does not compress; it passes on what the endpoint compressed")
        else:
            made.fault = f"the middleware {one.name} has no counterpart"
            one.rest("by_hand", "has no counterpart; the routers that use it answer 501")

    def _headers(self, one: Field, made: Middleware) -> None:
        one.item.exact()
        for key, section in (("customRequestHeaders", "request_headers"), ("customResponseHeaders", "response_headers")):
            found = one.get(key)
            if found is not None:
                found.item.exact()
            for edit in found or ():
                edits = made.route.setdefault(section, {})
                if edit.text:
                    edits.setdefault("set", {})[edit.name] = edit.text
                else:
                    edits.setdefault("remove", []).append(edit.name)
                edit.item.exact()
        one.rest("by_hand", "see cors and response_headers of the route")

    def _service(self, found: Field) -> Values | None:
        """The values of a service's upstream; None, after reporting it, if it cannot be converted."""
        balancer = found.get("loadBalancer")
        servers = balancer.get("servers") if balancer is not None else None
        if balancer is None or servers is None:
            found.item.by_hand("only a loadBalancer with servers can be converted; see canary, mirror and priorities of endpoints")
            found.rest("by_hand", "belongs to a service that was not converted")
            return None
        endpoints: list[str | Values] = []
        for one in servers:
            url, weight = one.get("url"), one.get("weight")
            if url is None or not url.text or not re.match(r"https?://[^/@\s]+/?$", url.text) or endpoint_fault(url.text.rstrip("/")):
                (url.item if url is not None else servers.item).by_hand("is no endpoint that relayd knows; Traefik ignores the path of a URL")
                continue
            url.item.exact()
            address = url.text.rstrip("/")
            if weight is not None and weight.number:
                endpoints.append({"url": address, "weight": int(weight.number)})
                weight.item.exact()
            else:
                endpoints.append(address)
        if not endpoints:
            return None
        values: Values = {"endpoints": endpoints, "host": "client", "breaker": False, "timeouts": {"connect": "30s", "first_byte": "off", "idle": "off"}}
        found.item.exact()
        for one in balancer:
            self._balancer(one, values)
        return values

    def _balancer(self, one: Field, values: Values) -> None:
        if one.name == "passHostHeader":
            if one.flag is False:
                values.pop("host")
            one.item.exact()
        elif one.name == "healthCheck":
            health = values.setdefault("health", {})
            for part in one:
                if part.name == "path" and part.text and part.text.startswith("/"):
                    health["path"] = part.text
                    part.item.exact()
                elif part.name in ("interval", "timeout") and part.text and DURATION.fullmatch(part.text if not part.text.isdigit() else f"{part.text}s"):
                    health[part.name] = part.text if not part.text.isdigit() else f"{part.text}s"
                    part.item.exact()
                elif part.name == "status" and part.text:
                    health["status"] = [part.text]
                    part.item.exact()
            health.setdefault("status", ["200-399"])
            health |= {"healthy": 1, "unhealthy": 1, "interval": health.get("interval", "30s"), "timeout": health.get("timeout", "5s")}
            one.item.approximate("relayd serves requests, and answers its own health, also while all endpoints fail their checks")
        elif one.name == "sticky":
            for inner in one.everything():
                inner.item.by_hand("see balance: consistent_hash")
        elif one.name == "responseForwarding":
            one.exact("relayd passes bytes on as they arrive")
        elif one.name == "serversTransport" and one.text:
            transport = self.transports.get(one.text.partition("@")[0])
            one.item.exact() if transport is not None else one.item.by_hand("is not in the files; see tls and timeouts of the upstream")
            for part in transport or ():
                self._transport(part, values)

    def _transport(self, part: Field, values: Values) -> None:
        if part.name == "insecureSkipVerify":
            if part.flag:
                values.setdefault("tls", {})["verify"] = False
            part.item.exact()
        elif part.name == "serverName" and part.text:
            values.setdefault("tls", {})["server_name"] = part.text
            part.item.exact()
        elif part.name == "rootCAs" and len(part.texts) == 1:
            values.setdefault("tls", {})["ca"] = part.texts[0]
            part.exact()
        elif part.name == "forwardingTimeouts":
            for one in part:
                key = {"dialTimeout": "connect", "responseHeaderTimeout": "first_byte"}.get(one.name)
                if key and one.text and DURATION.fullmatch(one.text) and not re.fullmatch(r"0+\D+", one.text):
                    values["timeouts"] = {**values["timeouts"], key: one.text}
                    one.item.exact()

    def _listeners(self) -> None:
        tls: Values = {}
        if self.certificates:
            tls["certificates"] = self.certificates
        if self.domains:
            tls["acme"] = {"domains": self.domains}
        added = False
        for name, one in self.entry_points.items():
            added = self._entry_point(name, one, tls) or added
        if added:
            return
        self.draft.report.remark("The entry points are in Traefik's static file, which was not given: the listeners have the usual ports 80 and 443.")
        if self.secure and tls:
            self.draft.listener("websecure", {"address": "0.0.0.0:443", "tls": tls}, None)
            self.draft.listener("web", {"address": "0.0.0.0:80", "https_redirect": True}, None)
        elif self.secure:
            self.draft.report.remark("The routers have TLS, and no certificate is named: the listener is without TLS, and on this machine only.")
            self.draft.listener("web", {"address": "127.0.0.1:8080"}, None)
        else:
            self.draft.listener("web", {"address": "0.0.0.0:80"}, None)

    def _entry_point(self, name: str, one: Field, tls: Values) -> bool:
        address = one.get("address")
        found = re.fullmatch(r"([^:]*|\[[0-9a-fA-F:.]+\]):(\d+)(?:/tcp)?", (address.text or "") if address is not None else "")
        if address is None or found is None:
            one.rest("by_hand", "see address of the listener")
            return False
        address.item.exact()
        values: Values = {"address": f"{found[1] or '0.0.0.0'}:{found[2]}"}
        redirect = one.at("http.redirections")
        if redirect is not None:
            for inner in redirect.everything():
                inner.item.approximate("https_redirect: relayd redirects every host with 308")
        is_tls = one.at("http.tls") is not None or found[2] == "443" or name == "websecure"
        if is_tls and not tls:
            one.item.by_hand("needs a certificate; see tls of the listener. It is not listened on")
            return False
        if is_tls:
            values["tls"] = tls
        elif redirect is not None and self.secure and tls:
            values["https_redirect"] = True
        self.draft.listener(name, values, one.item)
        return True

    def _rest(self, trees: list[Field]) -> None:
        for tree in trees:
            for name in ("api", "providers", "log", "accessLog", "metrics", "global", "ping", "certificatesResolvers", "experimental", "tracing"):
                if (one := tree.get(name)) is not None:
                    one.rest("by_hand" if name in ("certificatesResolvers", "accessLog", "log", "metrics", "ping") else "unsupported",
                             {"certificatesResolvers": "see tls.acme", "ping": "see upstream: admin"}.get(name, "belongs to Traefik itself; see telemetry and admin"))
        for part, fields in (("middleware", self.middlewares), ("service", self.services)):
            for one in fields.values():
                if not any(inner.item.notes for inner in one.everything()):
                    for inner in one.everything():
                        inner.item.exact(f"no router uses this {part}")


