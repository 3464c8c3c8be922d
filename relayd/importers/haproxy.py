"""HAProxy: a configuration with frontends and backends, or listen sections, in HTTP mode.

The rules of a frontend become routes in HAProxy's order: redirects, denials, then use_backend and default_backend. ACLs on
path, host, method and header are conditions; an ACL or a rule that relayd does not have closes what it may concern.
"""

from __future__ import annotations

import glob
import re
from dataclasses import field

from relayd.config.fields import field_name_fault, field_value_fault
from relayd.config.patterns import fault_of_location
from relayd.dataclass import dataclass
from relayd.importers._draft import Draft, Values, plain_name
from relayd.importers._haproxy_acl import Conditions
from relayd.importers._haproxy_backend import Line, after, backend, duration, least_tokens, tokens_of
from relayd.importers._report import Item
from relayd.importers._sources import Source, SourceError, Sources

SECTIONS = {"global", "defaults", "frontend", "backend", "listen", "resolvers", "userlist", "peers", "cache", "program", "mailers", "ring", "http-errors", "log-forward"}
NO_EFFECT = {
    "daemon": "", "user": "the unit sets the user", "group": "the unit sets the user", "chroot": "the unit is sandboxed", "stats": "see relayd status and the admin socket",
    "maxconn": "see limits.connections of the listener", "log": "relayd writes to the journal", "nbthread": "relayd has one process", "pidfile": "", "master-worker": "",
    "ssl-default-bind-options": "relayd speaks TLS 1.2 and later", "ssl-default-bind-ciphers": "relayd uses the ciphers of the system", "tune.ssl.default-dh-param": "",
    "ssl-default-bind-ciphersuites": "relayd uses the ciphers of the system", "ca-base": "", "crt-base": "", "mode": "",
}
NO_CERTIFICATE = (".key", ".ocsp", ".issuer", ".sctl", ".dh")  # files beside certificates
NO_EFFECT_OPTIONS = {"httplog": "relayd writes one record per request", "dontlognull": "", "http-server-close": "relayd keeps connections open where it can",
                     "http-keep-alive": "", "http-no-delay": "relayd never delays", "abortonclose": "relayd always cancels", "tcplog": "", "forwardfor": "relayd does this by itself",
                     "http-buffer-request": "", "log-health-checks": ""}


@dataclass(slots=True)
class Section:
    """A section: its kind and name, and its lines."""

    kind: str
    name: str
    item: Item
    lines: list[Line] = field(default_factory=list)
    defaults: Section | None = None

    def all(self, *tokens: str) -> list[Line]:
        """The lines that begin with these tokens."""
        return [one for one in self.lines if tuple(one.tokens[: len(tokens)]) == tokens]

    def inherited(self, *tokens: str) -> list[Line]:
        return self.all(*tokens) or (self.defaults.all(*tokens) if self.defaults is not None else [])


class Importer:
    """Converts HAProxy's configuration. One per import."""

    def __init__(self, sources: Sources, draft: Draft) -> None:
        self.sources, self.draft = sources, draft
        self.sections: list[Section] = []
        self.closed: set[str] = set()  # backends whose rules answer 501

    @staticmethod
    def recognises(source: Source) -> bool:
        return re.search(r"^(?:frontend|backend|listen)\s+\S+", source.text, re.MULTILINE) is not None and \
            re.search(r"^\s+(?:bind|server|default_backend|mode)\s", source.text, re.MULTILINE) is not None

    def convert(self) -> None:
        for source in self.sources.given:
            self._read(source)
        fronts = [one for one in self.sections if one.kind in ("frontend", "listen")]
        usable = [one for one in fronts if self._is_http(one)]
        self._ports(usable)
        chosen = usable[:1]
        for one in usable[1:]:
            for line in one.lines:
                line.item.by_hand("relayd's routes apply to all listeners; make a second configuration (relayd@.service)")
            one.item.by_hand("a second frontend; relayd's routes apply to all listeners")
        for one in chosen:
            self._front(one)
        for one in self.sections:
            self._rest(one)

    def _read(self, source: Source) -> None:
        report = self.draft.report
        report.source(source.name, source.text)
        current: Section | None = None
        defaults: Section | None = None
        for number, text in enumerate(source.text.split("\n"), 1):
            tokens = tokens_of(text, f"{source.name}:{number}")
            if not tokens:
                continue
            if tokens[0] in SECTIONS and not text[:1].isspace():
                item = report.item(source.name, number, label=tokens[0])
                current = Section(tokens[0], tokens[1] if len(tokens) > 1 else "", item, [], defaults)
                if tokens[0] == "defaults":
                    defaults = current
                self.sections.append(current)
            else:
                if len(tokens) < least_tokens(tokens):
                    raise SourceError(f"{source.name}:{number}: {' '.join(tokens[:2])} is not complete")
                outer = current.item if current is not None else None
                line = Line(tokens, report.item(source.name, number, label=tokens[0], outer=outer))
                if current is not None:
                    current.lines.append(line)

    def _is_http(self, one: Section) -> bool:
        modes = one.inherited("mode")
        if modes and modes[-1].tokens[1:] == ["http"]:
            return True
        one.item.unsupported("relayd speaks HTTP; this section is not in mode http")
        for line in one.lines:
            line.item.unsupported("belongs to a section that is not in mode http")
        return False

    def _ports(self, fronts: list[Section]) -> None:
        for one in fronts[:1]:
            for line in one.all("bind"):
                self._bind(line, one)

    def _certificates(self, path: str, beside: str) -> list[str]:
        """The files that `crt` stands for: one, or all of a folder; none for a folder of another machine."""
        files = self.sources.named(f"{glob.escape(path.rstrip('/'))}/*", beside)
        found = [one for one in files if not one.endswith(NO_CERTIFICATE)]
        return found if files or path.endswith("/") else [path]

    def _bind(self, line: Line, one: Section) -> None:
        addresses, options = line.tokens[1].split(","), line.tokens[2:]
        values: Values = {}
        position = 0
        while position < len(options):
            name, value = options[position], options[position + 1] if position + 1 < len(options) else ""
            if name == "crt":
                if not (files := self._certificates(value, line.item.file)):
                    line.item.by_hand(f"name the files of {value} in tls.certificates; this address is not listened on")
                    return
                pairs = values.setdefault("tls", {}).setdefault("certificates", [])
                pairs += [{"cert": one, "key": one} for one in files]
                line.item.approximate("each file must contain certificate and key; relayd reads no folder of certificates: one that comes later is added by hand")
                position += 1
            elif name == "accept-proxy":
                values |= {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]}
                line.item.by_hand("name the peers that may send the PROXY protocol in trusted_proxies; 127.0.0.1 is written")
            elif name == "alpn":
                if "h2" in value:
                    line.item.approximate("clients use HTTP/1.1")
                position += 1
            elif name == "ssl":
                pass
            elif name in ("ca-file", "verify", "crl-file"):
                line.item.by_hand("see tls.client_ca of the listener; this address is not listened on")
                return
            elif name in ("mode", "user", "group", "name", "process", "interface", "maxconn", "ssl-min-ver"):
                line.item.approximate(f"{name} is not converted; see the listener")
                position += 1
            else:
                line.item.unsupported(f"relayd has no {name} of a listener")
            position += 1
        if "ssl" in options and "tls" not in values:
            line.item.by_hand("needs a certificate; see tls of the listener. It is not listened on")
            return
        for time in one.inherited("timeout", "http-keep-alive"):
            if (keep := duration(time.tokens[2])) is not None:
                values["timeouts"] = {"keepalive": keep}
                time.item.exact()
        for address in addresses:
            found = re.fullmatch(r"(?:ipv[46]@)?([^:]*|\[?[0-9a-fA-F:.]+\]?):(\d+)", address)
            if found is None and not address.startswith("/"):
                line.item.by_hand("is no address that relayd has")
                continue
            host = "" if found is None else found[1].strip("[]")
            text = f"unix:{address}" if found is None else f"{'0.0.0.0' if host in ('', '*') else f'[{host}]' if ':' in host else host}:{found[2]}"
            self.draft.listener(one.name or "public", {"address": text, **values}, line.item)
            line.item.exact()

    def _front(self, one: Section) -> None:
        conditions = Conditions({}, self.draft)
        for line in one.all("acl"):
            conditions.define(line)
        shared: Values = {}
        closed = False
        for line in one.lines:
            if line.tokens[:2] in (["http-request", "set-header"], ["http-request", "add-header"], ["http-request", "del-header"]) or \
                    line.tokens[:2] in (["http-response", "set-header"], ["http-response", "add-header"], ["http-response", "del-header"]):
                self._header(line, shared)
        rules = [line for line in one.lines if line.tokens[0] in ("http-request", "redirect", "tcp-request", "block", "reqdeny")]
        for line in rules:
            closed = self._rule(line, conditions) or closed
        for line in one.all("use_backend"):
            name, rest = line.tokens[1], line.tokens[2:]
            self._use(line, name, conditions.of(line, rest), shared)
        if one.kind == "listen":
            self._use(Line(["listen"], one.item), one.name, [{}], shared, section=one)
        defaults = one.inherited("default_backend")
        for line in defaults[-1:]:
            self._use(line, line.tokens[1], [{}], shared)
        one.item.exact()

    def _rule(self, line: Line, conditions: Conditions) -> bool:
        """Convert a denial, a redirect or a fixed answer; True if it closes everything after it."""
        tokens = line.tokens
        if tokens[0] == "redirect" or tokens[:2] == ["http-request", "redirect"]:
            rest = tokens[1:] if tokens[0] == "redirect" else tokens[2:]
            return self._redirect(line, rest, conditions)
        action = tokens[1].partition("(")[0] if len(tokens) > 1 else ""
        if tokens[0] == "http-request" and action in ("set-header", "add-header", "del-header"):
            return False
        position = next((number for number, token in enumerate(tokens) if token in ("if", "unless")), len(tokens))
        matches = conditions.of(line, tokens[position:])
        if tokens[0] == "http-request" and action in ("deny", "return") and line.fault is None:
            given = tokens[:position]
            code, body, kind = after(given, "deny_status", "status"), after(given, "string"), after(given, "content-type")
            status = int(code) if code.isdigit() and 200 <= int(code) < 600 else 403 if action == "deny" else 200
            if "lf-string" in tokens or "file" in tokens or "%[" in body:
                line.item.by_hand("relayd's fixed responses are constant")
                self._close(line, matches)
                return False
            answer: Values = {"status": status, **({"body": body} if body else {}), **({"content_type": kind} if kind else {})}
            for match in matches:
                self.draft.route(f"{action}-{line.item.line}", {"match": match, "respond": answer}, line.item)
            line.item.exact()
            return False
        if tokens[0] == "http-request" and action in ("set-var", "track-sc0", "track-sc1", "capture", "set-log-level", "allow"):
            line.item.unsupported("has no counterpart; what depends on it is closed" if action != "allow" else "relayd has no exception from later rules")
            if action == "allow":
                self._close(line, matches)
            return False
        if tokens[0] == "tcp-request" and action in ("inspect-delay",):
            line.item.unsupported("relayd reads the head of a request within timeouts.header")
            return False
        line.item.by_hand("has no counterpart; relayd answers 501 here")
        self._close(line, matches)
        return False

    def _close(self, line: Line, matches: list[Values]) -> None:
        for match in matches:
            self.draft.refusing_route(f"rule-{line.item.line}", match, line.item)

    def _redirect(self, line: Line, rest: list[str], conditions: Conditions) -> bool:
        position = next((number for number, token in enumerate(rest) if token in ("if", "unless")), len(rest))
        kind, target = (rest[0], rest[1]) if len(rest) > 1 else ("", "")
        written = after(rest[:position], "code")
        code = int(written) if written.isdigit() else 302
        matches = conditions.of(line, rest[position:], plain_http=kind == "scheme" and target == "https")
        location = {"scheme": f"{target}://{{host}}{{path}}{{query}}", "prefix": f"{target}{{path}}{{query}}", "location": target}.get(kind)
        if line.plain_http:
            secure = any("tls" in one.value for one in self.draft.listeners.values())
            for listener in self.draft.listeners.values():
                if "tls" not in listener.value and secure:
                    listener.value["https_redirect"] = True
            if secure:
                line.item.approximate("https_redirect of the listener without TLS, with 308")
                return False
        if location is None or fault_of_location(location) or "%[" in location or code not in (301, 302, 303, 307, 308) or line.fault is not None:
            line.item.by_hand(line.fault or "the target is none of a redirect of relayd")
            self._close(line, matches)
            return False
        for match in matches:
            self.draft.route(f"redirect-{line.item.line}", {"match": match, "redirect": {"location": location, "status": code}}, line.item)
        line.item.exact()
        return False

    def _header(self, line: Line, shared: Values) -> None:
        direction, action, *rest = line.tokens
        section = "request_headers" if direction == "http-request" else "response_headers"
        if any(token in ("if", "unless") for token in rest):
            line.item.by_hand("concerns a part of the requests only; see request_headers of a route")
            return
        name, value = rest[0], rest[1] if len(rest) > 1 else ""
        if field_name_fault(name) or field_value_fault(value):
            line.item.by_hand("is no header field")
            return
        edits: Values = shared.setdefault(section, {})
        if action == "del-header":
            edits.setdefault("remove", []).append(name)
            line.item.exact()
        elif name.lower() in ("x-forwarded-proto", "x-forwarded-for", "x-real-ip", "x-forwarded-port", "x-forwarded-host", "host"):
            known = name.lower() in ("x-forwarded-proto", "x-real-ip", "x-forwarded-for") and (value in ("%[src]", "http", "https"))
            line.item.exact("relayd does this by itself") if known else line.item.by_hand("relayd writes this field itself; see headers, and host of the upstream")
        elif "%" in value:
            line.item.by_hand("relayd sets fields to constants only")
        else:
            edits.setdefault("set" if action == "set-header" else "add", {})[name] = value
            line.item.exact()
        if not edits:
            del shared[section]

    def _use(self, line: Line, name: str, matches: list[Values], shared: Values, section: Section | None = None) -> None:
        found = section or next((one for one in self.sections if one.kind in ("backend", "listen") and one.name == name), None)
        values: Values | None = None
        route: Values = {}
        if found is None:
            line.item.by_hand("this backend is not in the files")
        elif line.fault is None:
            made = backend(self.draft, found.name, found.lines, found.inherited)
            if made is not None:
                values, route = made
                found.item.exact()
        if line.fault is not None:
            line.item.by_hand(f"{line.fault}; relayd answers 501 here")
        for match in matches:
            if values is None:
                line.item.by_hand("relayd answers 501 here")
                self.closed.add(name)
                self.draft.refusing_route(plain_name(name), match, line.item)
            else:
                line.item.exact()
                merged: Values = {**shared, **route}
                for part in ("request_headers", "response_headers"):
                    if part in shared and part in route:
                        merged[part] = {key: [*shared[part].get(key, []), *route[part].get(key, [])] if key == "remove" else {**shared[part].get(key, {}), **route[part].get(key, {})}
                                        for key in ("remove", "set", "add") if key in shared[part] or key in route[part]}
                self.draft.route(plain_name(name), {"match": match, "upstream": self.draft.upstream(name, values, found.item if found else line.item), **merged}, line.item)

    def _rest(self, one: Section) -> None:
        for line in one.lines:
            if line.item.notes:
                continue
            if one.name in self.closed:
                line.item.by_hand("belongs to a backend that was not converted")
                continue
            if line.tokens[0] == "option" and len(line.tokens) > 1 and line.tokens[1] in NO_EFFECT_OPTIONS:
                line.item.exact(NO_EFFECT_OPTIONS[line.tokens[1]])
            elif line.tokens[0] in NO_EFFECT:
                line.item.exact(NO_EFFECT[line.tokens[0]])
            elif line.tokens[0] == "timeout" and line.tokens[1:2] in (["client"], ["http-request"], ["check"], ["http-keep-alive"]):
                line.item.approximate("see timeouts of the listener")
            elif line.tokens[0] == "timeout":
                line.item.approximate("see timeouts of the upstream")
            elif line.tokens[0] == "errorfile":
                line.item.unsupported("relayd's own errors have its own bodies")
            elif one.kind in ("backend", "listen") and line.tokens[0] == "server":
                line.item.exact("no rule uses this backend")
        if one.kind in ("global", "defaults") and not one.item.notes:
            one.item.exact()
