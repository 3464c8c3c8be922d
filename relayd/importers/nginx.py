"""nginx: a whole nginx.conf with its includes, one site of sites-enabled, or a file of locations only, as Dokku includes.

Locations become routes in the order in which nginx chooses them; servers that share sockets become routes with
`match: {host: ...}`; a server that only redirects to HTTPS becomes `https_redirect`. A location that restricts access, serves
files or uses conditions answers 501, so that no request goes where nginx would not have sent it.
"""

from __future__ import annotations

import re
from typing import Any

from relayd.config.patterns import fault_of_host
from relayd.dataclass import dataclass
from relayd.importers._directive import Directive
from relayd.importers._draft import Draft, Values, endpoint_fault, plain_name
from relayd.importers._nginx_grammar import Parser
from relayd.importers._nginx_listen import Listen, listens, tls_of
from relayd.importers._nginx_location import LocationConverter, access_reason, method_route, returned
from relayd.importers._nginx_proxy import Scope, duration
from relayd.importers._sources import Source, Sources
from relayd.lazy_regex import lazy_regex

HTTPS = lazy_regex(r"https://(?:\$host|\$server_name|\$http_host|[A-Za-z0-9.\-]+)(?::443)?(?:\$request_uri|\$uri\$is_args\$args|\$1)?")
WITHOUT_EFFECT = {
    "user": "the unit sets the user", "worker_processes": "relayd has one process", "pid": "", "events": "", "worker_connections":
    "see listeners.limits.connections", "multi_accept": "", "use": "", "worker_rlimit_nofile": "the unit sets LimitNOFILE",
    "include_types": "", "types": "relayd serves no files", "types_hash_max_size": "", "server_names_hash_bucket_size": "", "load_module": "",
    "keepalive_timeout": "see listeners.timeouts.keepalive", "daemon": "", "server_tokens": "relayd sends no version", "zone": "",
    "keepalive": "relayd keeps connections open", "resolver": "relayd uses the resolver of the system", "resolver_timeout": "",
    "server_name_in_redirect": "", "gzip_vary": "", "default_type": "relayd serves no files", "ssl_session_cache": "", "ssl_session_timeout": "",
    "ssl_session_tickets": "", "ssl_prefer_server_ciphers": "", "map_hash_bucket_size": "", "sendfile": "", "tcp_nopush": "", "tcp_nodelay": "",
}
DIFFERENT = {
    "access_log": "relayd writes one record per request to the journal; see telemetry.access_log",
    "error_log": "relayd's messages go to the journal; see telemetry.log", "ssl_ciphers": "relayd uses the ciphers of the system",
    "ssl_dhparam": "relayd uses the parameters of the system", "gzip": "relayd does not compress; it passes on what the endpoint compressed",
    "ssl_stapling": "relayd staples nothing", "ssl_stapling_verify": "relayd staples nothing", "log_format": "see telemetry.access_log",
    "http2": "clients use HTTP/1.1", "client_body_timeout": "see listeners.timeouts.body", "client_header_timeout": "see listeners.timeouts.header",
    "send_timeout": "see listeners.timeouts.write", "error_page": "relayd sends the upstream's own error responses, and its own errors as JSON or text",
}
# Families of directives that tune what relayd does not do, or does by itself.
FAMILIES = {"gzip_": "relayd does not compress; it passes on what the endpoint compressed", "open_file_cache": "relayd serves no files", "ssl_session_": "relayd resumes sessions by itself",
            "proxy_temp_": "relayd writes no bodies to disk", "client_header_buffer": "see limits of the listener", "large_client_header": "see limits of the listener"}
# What relayd has under other keys, which do not follow from the file.
BY_HAND = {"limit_req": "see rates of the routes", "limit_req_zone": "see rates of the routes", "limit_conn": "see limits of the routes and consumers",
           "limit_conn_zone": "see limits of the routes and consumers", "ssl_client_certificate": "see tls.client_ca of the listener"}
UPSTREAM_KEYS = {"least_conn": "least_request", "ip_hash": "consistent_hash", "random": "random"}


@dataclass(slots=True)
class Server:
    """A server block: its listening sockets, host names and scope."""

    directive: Directive
    sockets: list[Listen]
    hosts: list[str]
    scope: Scope
    default: bool = False

    @property
    def block(self) -> list[Directive]:
        return self.directive.block or []

    @property
    def key(self) -> frozenset[str]:
        return frozenset(one.address for one in self.sockets)


class Importer:
    """Converts nginx configurations into a draft. One per import."""

    def __init__(self, sources: Sources, draft: Draft) -> None:
        self.sources, self.draft = sources, draft
        self.groups: dict[str, Directive] = {}
        self.members: dict[str, Values] = {}

    @staticmethod
    def recognises(source: Source) -> bool:
        return re.search(r"^\s*(?:location\s[^{]*|server\s*|upstream\s+\S+\s*|http\s*)\{", source.text, re.MULTILINE) is not None and \
            re.search(r";\s*(?:#.*|\}.*)?$", source.text, re.MULTILINE) is not None and not source.name.endswith((".yaml", ".yml", ".toml"))

    def convert(self) -> None:
        parser = Parser(self.sources, self.draft.report)
        main = [one for source in self.sources.given for one in parser.parse(source)]
        http = [inner for one in main if one.name == "http" for inner in one.block or []] + [one for one in main if one.name != "http"]
        for one in http:
            if one.name == "upstream" and one.args:
                self.groups[one.args[0]] = one
                self.members[one.args[0]] = self._group(one)
            elif one.name == "map":
                self._map(one)
        scope = Scope([]).within([one for one in http if one.block is None])
        blocks = [one for one in http if one.name == "server" and one.block is not None]
        if any(one.name == "location" for one in main):
            self._include(main, scope)
        self._servers([self._server(one, scope) for one in blocks])
        self._notes(main)

    def _notes(self, block: list[Directive]) -> None:
        """Note what has no effect or another form in relayd, unless it has a report already."""
        for one in block:
            if not one.item.notes:
                if one.name in WITHOUT_EFFECT:
                    for inner in one.item.everything():
                        inner.exact(WITHOUT_EFFECT[one.name])
                elif one.name in DIFFERENT:
                    one.item.approximate(DIFFERENT[one.name])
                elif one.name in BY_HAND:
                    one.item.by_hand(BY_HAND[one.name])
                elif (family := next((reason for begin, reason in FAMILIES.items() if one.name.startswith(begin)), "")):
                    one.item.approximate(family)
            self._notes(one.block or [])

    def _map(self, one: Directive) -> None:
        if one.args == ["$http_upgrade", "$connection_upgrade"]:
            for item in one.item.everything():
                item.exact("upgrade: true")
        else:
            one.item.by_hand("relayd has no variables")

    def _include(self, main: list[Directive], scope: Scope) -> None:
        """A file that belongs into the server block of another file: locations without a server."""
        self.draft.report.remark("The file has no server block. The listener 127.0.0.1:8282 takes the place of the server that includes the file; "
                                 "set its address, and let the other paths of that server go elsewhere.")
        self.draft.listener("public", {"address": "127.0.0.1:8282"}, None)
        block = [one for one in main if one.name not in ("http", "server", "upstream")]
        converter = LocationConverter(self.draft, scope, self.groups, self.members, {}, "", frozenset())
        converter.convert(block, access_reason([one for one in block if one.name != "location"], self.draft.report))

    def _server(self, directive: Directive, outer: Scope) -> Server:
        block = directive.block or []
        hosts: list[str] = []
        for one in directive.all("server_name"):
            for name in one.args:
                if name in ("", "_", "__", "--", "*"):
                    one.item.exact()
                elif name.startswith("~") or name.endswith(".*") or (fault_of_host(name.lstrip(".")) and not name.startswith("*.")):
                    one.item.by_hand("relayd matches whole names and *.name; see match.host")
                elif name.startswith("."):
                    hosts += [name[1:], f"*{name}"]
                    one.item.exact()
                else:
                    hosts.append(name)
                    one.item.exact()
        sockets = listens(directive)
        return Server(directive, sockets, hosts, outer.within(block), any(one.default for one in sockets))

    def _servers(self, servers: list[Server]) -> None:
        secure = [one for one in servers if any(listen.tls for listen in one.sockets)]
        redirecting = [one for one in servers if one not in secure and secure and _redirects_to_https(one)]
        rest = [one for one in servers if one not in redirecting]
        for one in redirecting:
            self._redirecting(one, rest)
        if not rest:
            return
        chosen = next((one for one in rest if any(listen.public for listen in one.sockets)), rest[0])
        public = any(listen.public for listen in chosen.sockets)
        usable = []
        for one in rest:
            if any(listen.public for listen in one.sockets) != public or (one.key != chosen.key and not one.hosts):
                one.directive.item.by_hand("relayd's routes apply to all listeners, so this server would be reachable on the others too; "
                                           "make a second configuration (relayd@.service)")
                for inner in one.directive.item.everything():
                    inner.by_hand("belongs to a server that was not converted")
                continue
            if one.key != chosen.key:
                one.directive.item.approximate("relayd's routes apply to all listeners: these hosts are also served on the others")
            usable.append(one)
        self._listeners(usable)
        default = next((one for one in usable if one.default and one.key == chosen.key), chosen)
        ordered = sorted((one for one in usable if one is not default), key=lambda one: any(host.startswith("*") for host in one.hosts))
        for one in ordered:
            if one.hosts:
                self._routes(one, {"host": one.hosts}, f"{plain_name(one.hosts[0])}.")
            else:
                one.directive.item.exact("no request reaches this server: it has no name, and another one is the default")
                for inner in one.directive.item.everything():
                    inner.exact("no request reaches this server")
        self._routes(default, {}, "")

    def _redirecting(self, server: Server, rest: list[Server]) -> None:
        taken = {listen.address for one in rest for listen in one.sockets}
        for item in server.directive.item.everything():
            if not server.key & taken:
                item.approximate("https_redirect: relayd redirects every host with 308")
            else:
                item.by_hand("redirect this listener to HTTPS; relayd's routes apply to all listeners")
        if not server.key & taken:
            for listen in server.sockets:
                if not any(one.value["address"] == listen.address for one in self.draft.listeners.values()):
                    self.draft.listener("plain", {"address": listen.address, "https_redirect": True}, server.directive.item)

    def _listeners(self, servers: list[Server]) -> None:
        made: dict[str, Values] = {}
        for server in servers:
            certificates = tls_of(server.directive, server.scope)
            for listen in server.sockets:
                values = made.setdefault(listen.address, {"address": listen.address, **listen.values})
                if not listen.tls:
                    continue
                tls: Any = values.setdefault("tls", {"certificates": []})
                if certificates is None:
                    listen.item.by_hand("needs a certificate, tls.certificates of the listener; this address is not listened on")
                    continue
                tls["certificates"] += [one for one in certificates["certificates"] if one not in tls["certificates"]]
                tls |= {key: value for key, value in certificates.items() if key != "certificates"}
        for values in made.values():
            if values.get("tls", {}).get("certificates") == []:
                continue
            if time := duration(next((s.scope.value("keepalive_timeout") or "" for s in servers), "")):
                values["timeouts"] = {"keepalive": time}
            self.draft.listener("public", values, servers[0].directive.item)

    def _routes(self, server: Server, match: Values, name: str) -> None:
        ports = frozenset(one.port for one in server.sockets)
        conditions = [one for one in server.block if not (one.name == "if" and (self._host_redirect(one, server) or method_route(self.draft, one, match, name, server.scope)))]
        refused = access_reason(conditions, self.draft.report)
        for one in server.block:
            if one.name == "rewrite":
                refused = refused or self._rewrite(one, match, name)
        answer = server.directive.first("return")
        if answer is not None and not refused:
            values = returned(answer, server.scope)
            if values is None:
                self.draft.refusing_route(f"{name}all", match, server.directive.item)
            else:
                self.draft.route(f"{name}all", {"match": match, **values}, server.directive.item)
            for one in server.block:
                if one.name == "location":
                    for item in one.item.everything():
                        item.exact("no request reaches it: the server answers with return")
            return
        converter = LocationConverter(self.draft, server.scope, self.groups, self.members, match, name, ports)
        takes_all = converter.convert(server.block, refused)
        if server.directive.first("root") is not None and not takes_all:
            _unsupported(server.directive.all("root") + server.directive.all("index"), "relayd serves no files; other paths are answered 404")
        if not takes_all and match:
            self.draft.route(f"{name}rest", {"match": match, "respond": {"status": 404}}, server.directive.item)
        server.directive.item.exact()

    def _host_redirect(self, one: Directive, server: Server) -> bool:
        """Convert `if ($host = name) { return 301 ...; }`, as certbot writes it."""
        found = re.fullmatch(r"\(\$(host|http_host) = \"?([A-Za-z0-9.\-]+)\"?\)", " ".join(one.args))
        inner = one.block or []
        if found is None or len(inner) != 1 or inner[0].name != "return":
            return False
        values = returned(inner[0], server.scope)
        if values is None:
            return False
        self.draft.route(f"{found[2]}.if", {"match": {"host": [found[2]]}, **values}, one.item)
        one.item.exact()
        return True

    def _rewrite(self, one: Directive, match: Values, name: str) -> str:
        """Convert a `rewrite` of a server that redirects everything. Returns why the server cannot be converted, or ''."""
        if len(one.args) >= 2 and one.args[0] in ("^", "^(.*)$", "^(.*)", "^/(.*)$") and one.args[-1] in ("permanent", "redirect"):
            target = one.args[1].replace("/$1", "$1") if one.args[0] == "^/(.*)$" else one.args[1]
            found = re.fullmatch(r"(https?://)(\$host|[A-Za-z0-9.\-]+)(?:\$1|\$request_uri\??)", target)
            if found is not None:
                host = found[2].replace("$host", "{host}")
                status = 301 if one.args[-1] == "permanent" else 302
                self.draft.route(f"{name}all", {"match": match, "redirect": {"location": f"{found[1]}{host}{{path}}{{query}}", "status": status}}, one.item)
                one.item.exact()
                return ""
        one.item.by_hand("relayd does not change the path before it selects a route; see rewrite and strip_prefix")
        return "rewrite of the server cannot be converted"

    def _group(self, group: Directive) -> Values:
        """The values of an `upstream` block."""
        endpoints: list[Values] = []
        breaker: Values = {}
        values: Values = {}
        several = len(group.all("server")) > 1
        for one in group.block or []:
            if one.name == "server" and one.args:
                self._member(one, endpoints, breaker, several)
            elif one.name in UPSTREAM_KEYS:
                values["balance"] = UPSTREAM_KEYS[one.name]
                if one.name == "ip_hash":
                    values["hash"] = {"by": ["client"]}
                    one.item.approximate("relayd's hash puts clients on other endpoints than nginx")
                else:
                    one.item.exact()
            elif one.name == "hash" and one.args:
                self._hash(one, values)
        if len(endpoints) > 1:
            values |= {"breaker": breaker or {"failures": 1, "open_for": "10s"},
                       "retries": {"attempts": min(len(endpoints), 20), "backoff": "1ms", "on": ["connect", "closed", "timeout"]}}
            group.item.approximate("a failed request goes to the next endpoint, and a failing endpoint pauses, by relayd's rules; see retries and breaker")
        else:
            values["breaker"] = False
        group.item.exact()
        return {"endpoints": endpoints, **values}

    def _counted(self, one: Directive, several: bool) -> None:
        if several:
            one.item.approximate("breaker: consecutive failures, the same for all endpoints")
        else:
            one.item.exact("a single server is always used")

    def _member(self, one: Directive, endpoints: list[Values], breaker: Values, several: bool) -> None:
        if "down" in one.args:
            one.item.exact("down: left out")
            return
        address = one.args[0]
        made: Values = {"url": f"unix:{address[5:]}" if address.startswith("unix:") else address}
        if fault := endpoint_fault(made["url"] if address.startswith("unix:") else f"http://{address}"):
            one.item.by_hand(f"the address {fault}")
            return
        one.item.exact()
        for option in one.args[1:]:
            name, _, value = option.partition("=")
            if name == "weight" and value.isdigit():
                made["weight"] = int(value)
            elif name == "backup":
                made["priority"] = 1
            elif name == "max_conns" and value.isdigit():
                made["limits"] = {"requests": int(value)}
            elif name == "max_fails" and value.isdigit():
                breaker.setdefault("open_for", "10s")
                breaker["failures"] = int(value) or "off"
                self._counted(one, several)
            elif name == "fail_timeout" and (time := duration(value)):
                breaker.setdefault("failures", 1)
                breaker["open_for"] = time
                self._counted(one, several)
            elif name == "resolve":
                one.item.exact("relayd always resolves names again")
            else:
                one.item.unsupported(f"relayd has no {name} of an endpoint")
        same = next((known for known in endpoints if known["url"] == made["url"]), None)
        if same is None:
            endpoints.append(made)
        else:
            same["weight"] = same.get("weight", 1) + made.get("weight", 1)
            one.item.exact("the same address again: its weight is added")

    def _hash(self, one: Directive, values: Values) -> None:
        source = one.args[0]
        by = "client" if source in ("$remote_addr", "$binary_remote_addr") else f"header:{source[6:].replace('_', '-')}" if source.startswith("$http_") \
            else f"cookie:{source[8:]}" if source.startswith("$cookie_") else None
        if by is None:
            one.item.by_hand("see hash.by of the upstream")
        else:
            values |= {"balance": "consistent_hash", "hash": {"by": [by]}}
            one.item.approximate("relayd's hash puts keys on other endpoints than nginx, and is bounded by load")


def _unsupported(directives: list[Directive], reason: str) -> None:
    for one in directives:
        one.item.unsupported(reason)


def _redirects_to_https(server: Server) -> bool:
    """True if the server does nothing but redirect every request to the same URL with https."""
    answers = [one for one in server.block if one.name == "return"]
    for one in server.block:
        if one.name in ("location", "if"):
            inner = [other for other in one.block or [] if other.name != "root"]
            if one.name == "location" and one.args and ".well-known/acme-challenge" in one.args[-1]:
                continue
            if len(inner) != 1 or inner[0].name != "return":
                return False
            answers.append(inner[0])
        elif one.name == "rewrite":
            if len(one.args) < 2 or not HTTPS.match(one.args[1]):
                return False
            answers.append(Directive("return", ["301", "https://$host$request_uri"], one.item))
    redirects = [one for one in answers if len(one.args) == 2 and HTTPS.fullmatch(one.args[1])]
    others = [one for one in answers if one not in redirects and one.args != ["404"]]
    return bool(redirects) and not others
