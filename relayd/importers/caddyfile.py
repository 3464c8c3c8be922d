"""Caddy: a Caddyfile with its snippets and imports, and an .env for its variables.

Sites become routes with `match: {host: ...}` in Caddy's order of directives; sites with names get certificates by ACME. A
matcher, an access rule or a handler that relayd does not have closes the paths that it may concern: they answer 501.
"""

from __future__ import annotations

import re
from dataclasses import field

from relayd.config.patterns import fault_of_location
from relayd.dataclass import dataclass
from relayd.importers._caddy_grammar import Parser
from relayd.importers._caddy_matcher import Matcher, Matchers
from relayd.importers._caddy_proxy import Proxied, edit_headers
from relayd.importers._caddy_site import Address, addresses, listen
from relayd.importers._directive import Directive
from relayd.importers._dotenv import Binding, bindings
from relayd.importers._draft import HASHED, Draft, Values, plain_name
from relayd.importers._sources import Source, Sources

# The order in which Caddy sorts directives that answer (caddyserver.com/docs/caddyfile/directives).
ORDER = ("redir", "rewrite", "uri", "try_files", "basicauth", "basic_auth", "forward_auth", "handle", "handle_path", "route", "abort", "error", "respond", "metrics",
         "reverse_proxy", "php_fastcgi", "file_server", "acme_server")
CLOSED = {"basicauth": HASHED, "basic_auth": HASHED,
          "forward_auth": "relayd asks no other server; see consumers", "file_server": "relayd serves no files", "php_fastcgi": "relayd speaks HTTP only",
          "abort": "relayd does not close a connection without an answer", "metrics": "see upstream: admin", "acme_server": "relayd is no authority",
          "try_files": "relayd serves no files"}
SITE = {"encode": "relayd does not compress; it passes on what the endpoint compressed", "log": "relayd writes one record per request; see telemetry.access_log",
        "root": "relayd serves no files", "templates": "relayd serves no files", "handle_errors": "relayd sends the upstream's own error responses", "bind": "see address of the listener",
        "log_skip": "see telemetry.access_log", "skip_log": "see telemetry.access_log", "tracing": "see telemetry.otlp", "vars": "relayd has no variables", "map": "relayd has no variables",
        "push": "relayd pushes nothing", "method": "relayd does not change methods"}
REDIRECTS = {"permanent": 301, "temporary": 302, "": 302}


@dataclass(slots=True)
class Block:
    """A site or a handle block: its conditions, and the keys that all its routes share."""

    name: str
    match: Values
    route: Values = field(default_factory=dict)
    strip: str = ""
    known: dict[str, Matcher] = field(default_factory=dict)  # matchers of the blocks around it


class Importer:
    """Converts Caddyfiles. One per import."""

    def __init__(self, sources: Sources, draft: Draft) -> None:
        self.sources, self.draft = sources, draft
        self.matchers = Matchers(draft)

    @staticmethod
    def recognises(source: Source) -> bool:
        if "caddyfile" in source.name.lower():
            return True
        return re.search(r"^\s*(?:reverse_proxy|handle_path|file_server|respond)\b[^;]*$", source.text, re.MULTILINE) is not None

    def convert(self) -> None:
        variables: dict[str, str] = {}
        parser = Parser(self.sources, self.draft.report, variables)
        files = []
        for source in self.sources.given:
            if re.search(r"\.env$", source.name):
                self._variables(source, variables)
            else:
                files.append(source)
        sites: list[tuple[Directive, list[Address]]] = []
        for one in (one for source in files for one in parser.parse(source)):
            if not one.name:
                self._options(one)
            elif one.block is not None:
                sites.append((one, addresses(one)))
        sites = self._together(sites)
        listen(self.draft, sites)
        usable = [(site, found) for site, found in sites if found]
        for site, found in sorted(usable, key=lambda one: (any(not address.host for address in one[1]), any(address.host.startswith("*") for address in one[1]))):
            hosts = [one.host for one in found if one.host]
            everywhere = any(not one.host for one in found)
            match: Values = {} if everywhere or not hosts else {"host": hosts}
            self._block(site.block or [], Block(f"{plain_name(hosts[0])}." if match else "", match))
            if match and self._last() != match:
                self.draft.route(f"{plain_name(hosts[0])}.rest", {"match": match, "respond": {"status": 404}}, site.item)
            site.item.exact()
        self.draft.report.remark("Caddy answers requests that nothing in a site matches with 200 and no body, relayd with 404.")

    def _last(self) -> Values | None:
        """The conditions of the last route."""
        return dict(self.draft.routes[-1].value["match"]) if self.draft.routes else None

    def _together(self, sites: list[tuple[Directive, list[Address]]]) -> list[tuple[Directive, list[Address]]]:
        """The sites that one relayd can serve: its routes apply to all listeners, so only one site can take every host."""
        result: list[tuple[Directive, list[Address]]] = []
        taken: set[str] = set()
        ports = {one.port for _, found in sites for one in found}
        for site, found in sites:
            hosts = {one.host for one in found}
            if hosts & taken:
                for item in site.item.everything():
                    item.by_hand("relayd's routes apply to all listeners, and another site has this host; make a second configuration (relayd@.service)")
                continue
            taken |= hosts
            if len(ports - {80, 443}) + bool(ports & {80, 443}) > 1:
                site.item.approximate("relayd's routes apply to all listeners: this site is served on the ports of the others too")
            result.append((site, found))
        return result

    def _variables(self, source: Source, variables: dict[str, str]) -> None:
        self.draft.report.source(source.name, source.text)
        for one in bindings(source.text):
            if isinstance(one, Binding) and one.value is not None:
                variables[one.name] = one.value
                self.draft.report.item(source.name, one.line, one.last, one.name).exact("used where the Caddyfile names it")

    def _options(self, one: Directive) -> None:
        one.item.exact()
        for option in one.block or []:
            if option.name in ("admin", "order", "grace_period", "persist_config", "storage", "shutdown_delay"):
                option.item.exact("belongs to Caddy itself")
            elif option.name in ("email", "auto_https", "debug", "log", "acme_ca", "default_sni"):
                option.item.by_hand("see tls.acme of the listener, and telemetry.log")
            elif option.name == "servers":
                option.item.by_hand("see trusted_proxies, timeouts and limits of the listener")
                for inner in option.item.everything():
                    inner.by_hand("see trusted_proxies, timeouts and limits of the listener")

    def _block(self, block: list[Directive], outer: Block, *, literal: bool = False) -> None:
        """Add the routes of a block. `literal`: in the order of the file (route), else in Caddy's order."""
        known = {**outer.known, **self.matchers.named(block)}
        shared: Values = {key: dict(value) if isinstance(value, dict) else value for key, value in outer.route.items()}
        answering: list[tuple[Directive, Matcher]] = []
        inner = Block(outer.name, outer.match, shared, outer.strip, known)
        for one in block:
            if one.name.startswith("@"):
                continue
            if one.name in ORDER:
                answering.append((one, self.matchers.of(one, known)))
            else:
                self._modifier(one, inner)
        if not literal:
            answering.sort(key=lambda pair: (min(ORDER.index(pair[0].name), ORDER.index("handle")) if pair[0].name.startswith("handle") else ORDER.index(pair[0].name), pair[1].rank))
        for one, matcher in answering:
            self._answer(one, matcher, inner)

    def _modifier(self, one: Directive, block: Block) -> None:
        if one.name in ("header", "request_header"):
            section = "response_headers" if one.name == "header" else "request_headers"
            if one.args and one.args[0][:1] in "@/*" and one.args[0] != "*":
                one.item.by_hand("concerns a part of the requests only; see response_headers of a route")
                return
            if one.args[:1] == ["*"]:
                one.args = one.args[1:]
            lines = [Directive("header", inner.tokens, inner.item) for inner in one.block or []] if one.block is not None else [one]
            for line in lines:
                edit_headers(self.draft, line, block.route, section)
            one.item.exact()
        elif one.name == "request_body":
            for inner in one.block or []:
                found = re.fullmatch(r"(\d+)([kKmMgG]?)(i?)[bB]?", inner.args[0] if inner.args else "")
                if inner.name == "max_size" and found is not None:
                    factor = (1024 if found[3] else 1000) ** " kmg".index(found[2].lower() or " ")
                    block.route["body_limit"] = int(found[1]) * factor
                    inner.item.exact()
            one.item.exact()
        elif one.name == "tls" or one.name == "bind":
            if not one.item.notes:
                one.item.by_hand("see the listener")
        elif one.name in SITE:
            for item in one.item.everything():
                item.approximate(SITE[one.name])
        else:
            one.item.unsupported("is no directive that this import knows; the routes of this site do without it")

    def _answer(self, one: Directive, matcher: Matcher, block: Block) -> None:
        reason = matcher.fault or CLOSED.get(one.name, "") or matcher.overlap(block.match)
        closed = bool(reason) or one.name in ("respond", "error")
        if next(matcher.matches(block.match, closed=closed), None) is None:
            one.item.exact("no request reaches it: the block around it has another path")
            return
        if reason or (one.name in ("rewrite", "uri") and not self._path(one, matcher, block)):
            self._refuse(one, matcher, block, reason or "relayd replaces the matched path or prefix only; see rewrite and strip_prefix")
        elif one.name in ("handle", "handle_path", "route"):
            self._handle(one, matcher, block)
        elif one.name not in ("rewrite", "uri"):
            for number, single in enumerate(matcher.matches(block.match, closed=closed)):
                values = self._values(one, matcher, block)
                if values is None:
                    self._refuse(one, matcher, block, "")
                    return
                if number == 0:
                    one.item.exact()
                self.draft.route(self._name(block, single), {"match": single, **values}, one.item)
            if matcher.has_path and one.name not in ("respond", "error"):
                one.item.approximate("Caddy ignores the case of paths, relayd does not")

    def _name(self, block: Block, match: Values) -> str:
        text = next((str(match[key]) for key in ("path", "prefix", "regex") if key in match), "all")
        return f"{block.name}{plain_name(text.replace('/', '-'), 'all')}"

    def _refuse(self, one: Directive, matcher: Matcher, block: Block, reason: str) -> None:
        """Close everything that the directive may concern."""
        if one.name in ("basicauth", "basic_auth"):
            for inner in one.block or []:
                self.draft.report.hide(" ".join(inner.args))
        for single in matcher.matches(block.match, closed=True):
            self.draft.refusing_route(self._name(block, single), single, one.item)
        one.item.by_hand(f"{reason}; relayd answers 501 here" if reason else "relayd answers 501 here")
        for item in one.item.everything():
            if not item.notes:
                item.by_hand("belongs to what answers 501")

    def _path(self, one: Directive, matcher: Matcher, block: Block) -> bool:
        """Convert a change of the path that concerns the whole block; False if that is impossible."""
        prefix = block.match.get("prefix", "/")
        args = matcher.args
        if matcher.empty and one.name == "uri" and args[:1] == ["strip_prefix"] and len(args) == 2 and prefix.startswith(args[1]) and not block.strip:
            block.route["strip_prefix"] = args[1]
        elif matcher.empty and one.name == "rewrite" and len(args) == 1 and prefix == "/" and (found := re.fullmatch(r"(/[A-Za-z0-9_./-]+)\{(?:uri|path)\}", args[0])):
            block.match = {**block.match, "prefix": "/"}
            block.route["rewrite"] = f"{found[1]}/"
        else:
            return False
        one.item.exact()
        return True

    def _handle(self, one: Directive, matcher: Matcher, block: Block) -> None:
        singles = list(matcher.matches(block.match))
        strip = ""
        if one.name == "handle_path":
            prefix = str(singles[0].get("prefix", "")) if len(singles) == 1 else ""
            strip = prefix.rstrip("/")
            if not strip or block.strip:
                self._refuse(one, matcher, block, "relayd removes one prefix that is written out; see strip_prefix")
                return
        one.item.exact()
        if matcher.has_path:
            one.item.approximate("Caddy ignores the case of paths, relayd does not")
        for single in singles:
            route = {**block.route, **({"strip_prefix": strip} if strip else {})}
            self._block(one.block or [], Block(block.name, single, route, strip or block.strip, block.known), literal=one.name == "route")
            if one.name != "route" and self._last() != single:
                self.draft.route(f"{self._name(block, single)}.rest", {"match": single, "respond": {"status": 404}}, one.item)

    def _values(self, one: Directive, matcher: Matcher, block: Block) -> Values | None:
        args = matcher.args
        headers = {key: block.route[key] for key in ("response_headers",) if key in block.route}
        if one.name == "reverse_proxy":
            proxied = Proxied(self.draft)
            if not proxied.read(one, args):
                return None
            route = _joined(block.route, proxied.route)
            suggestion = plain_name(re.sub(r"^.*?//|:\d+$", "", proxied.upstream["endpoints"][0]))
            return {"upstream": self.draft.upstream(suggestion, proxied.upstream, one.item), **route}
        if one.name == "redir" and args:
            location = args[0].replace("{uri}", "{path}{query}").replace("{http.request.uri}", "{path}{query}").replace("{http.request.host}", "{host}")
            status = REDIRECTS.get(args[1] if len(args) > 1 else "", 0) or (int(args[1]) if args[1].isdigit() else 0)
            if status not in (301, 302, 303, 307, 308) or fault_of_location(location) or set(re.findall(r"\{[^}]*\}", location)) - {"{path}", "{query}", "{host}"}:
                one.item.by_hand("the target or the status is none of a redirect of relayd")
                return None
            return {"redirect": {"location": location, "status": status}}
        return _respond(one, args, headers)


def _respond(one: Directive, args: list[str], headers: Values) -> Values | None:
    inner = one.first("body")
    texts = [*args]
    if inner is not None:
        texts = [*inner.args, *texts]
        inner.item.exact()
    if one.name == "error":
        texts = texts[::-1][:1] if texts else ["500"]
    status = next((int(text) for text in texts[::-1] if re.fullmatch(r"[2-5]\d\d", text)), 200)
    body = next((text for text in texts if not re.fullmatch(r"[2-5]\d\d", text)), "")
    if re.search(r"\{[a-z][\w.]*\}", body):
        one.item.by_hand("the body contains a placeholder; relayd's fixed responses are constant")
        return None
    values: Values = {"status": status, **({"body": body} if body else {})}
    if headers.get("response_headers", {}).get("set"):
        values["headers"] = dict(headers["response_headers"]["set"])
    return {"respond": values}


def _joined(outer: Values, inner: Values) -> Values:
    """The keys of a block and of its directive; edits of header fields are joined."""
    result: Values = {**inner, **{key: value for key, value in outer.items() if not key.endswith("_headers")}}
    for section in ("request_headers", "response_headers"):
        first, second = outer.get(section, {}), inner.get(section, {})
        joined: Values = {}
        for key in ("remove", "set", "add"):
            if key in first or key in second:
                joined[key] = [*first.get(key, []), *second.get(key, [])] if key == "remove" else {**first.get(key, {}), **second.get(key, {})}
        if joined:
            result[section] = joined
    return result


