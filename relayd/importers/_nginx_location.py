"""A location of nginx as a route of relayd, in the order in which nginx would choose it (ngx_http_core_module, location)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relayd.config.fields import FRAMING, field_name_fault, field_value_fault
from relayd.config.patterns import fault_of_location, fault_of_path
from relayd.dataclass import dataclass
from relayd.importers._directive import Directive
from relayd.importers._draft import Draft, Values, endpoint_fault, is_secret_name, plain_name
from relayd.importers._nginx_proxy import ACCESS, Proxied, Scope
from relayd.importers._paths import is_portable, literal_prefix, usable_prefix, whole_path
from relayd.importers._report import Item, Report
from relayd.lazy_regex import lazy_regex

REDIRECTS = (301, 302, 303, 307, 308)
_VARIABLE = lazy_regex(r"\$(?:\w+|\{\w+\})")
_PASS = lazy_regex(r"(?:(https?)://)(unix:([^:]+)(?::(.*))?|([^/]+)(/.*)?)", re.DOTALL)
_CAPTURED = lazy_regex(r"(https?://[^/$]+)(/[A-Za-z0-9_./-]*)\$1\$is_args\$args")
CONTENT = ("proxy_pass", "return", "root", "alias", "try_files", "fastcgi_pass", "uwsgi_pass", "grpc_pass", "scgi_pass",
           "memcached_pass", "stub_status", "empty_gif", "content_by_lua_block", "content_by_lua_file", "dav_methods", "index", "autoindex")


@dataclass(slots=True)
class Location:
    """A location: how nginx finds it. `kind`: `=`, `^~`, `~`, `~*`, or empty for a prefix."""

    directive: Directive
    kind: str
    path: str

    @property
    def rank(self) -> tuple[int, int]:
        """The order of the routes: exact paths, prefixes that end the search, regular expressions, other prefixes."""
        if self.kind == "=":
            return 0, 0
        if self.kind == "^~":
            return 1, -len(self.path)
        return (2, 0) if self.kind else (3, -len(self.path))


def locations(block: list[Directive]) -> Iterator[Location]:
    """The locations of a server. A named one, and one without a path, is reported only."""
    for one in block:
        if one.name != "location" or one.block is None:
            continue
        args = list(one.args)
        kind = args.pop(0) if len(args) == 2 else ""
        if len(args) == 1 and not kind and (found := re.match(r"(\^~|~\*|~|=)(?=.)", args[0])):
            kind, args[0] = found[1], args[0][len(found[1]) :]
        if len(args) != 1 or kind not in ("", "=", "^~", "~", "~*"):
            one.item.by_hand("is not understood")
        elif args[0].startswith("@"):
            one.item.unsupported("named locations are internal to nginx; see fallbacks and retries")
        else:
            yield Location(one, kind, args[0])


@dataclass(slots=True)
class LocationConverter:
    """Converts the locations of one server. `match` holds the server's host names, `groups` the upstream blocks."""

    draft: Draft
    scope: Scope
    groups: dict[str, Directive]
    members: dict[str, Values]
    match: Values
    name: str
    ports: frozenset[int]

    def convert(self, block: list[Directive], refused: str) -> bool:
        """Add the routes of all locations. Returns True if one of them takes every path. `refused`: why all are refused."""
        found = list(locations(block))
        ending = [one.path for one in found if one.kind == "^~"]
        inside = [one for one in found if not one.kind and any(one.path.startswith(path) for path in ending)]
        found.sort(key=lambda one: (1, -len(one.path)) if one in inside else one.rank)
        self._slashless(found)
        regexes = any(one.rank[0] == 2 for one in found)
        for one in found:
            item = one.directive.item
            if one in inside and regexes:
                item.approximate("nginx tries the regular expressions before this location, relayd after it")
            if one.directive.all("location"):
                self._refuse(one, "contains further locations")
                continue
            self._location(one, refused)
        return any(one.kind in ("", "^~") and one.path == "/" for one in found)

    def _slashless(self, found: list[Location]) -> None:
        """Redirect the path of a location without its `/` at the end, as nginx does before it tries regular expressions."""
        taken = {one.path for one in found if one.kind in ("=", "^~", "")}
        for one in found:
            path = one.path[:-1]
            if one.kind in ("", "^~") and one.directive.first("proxy_pass") and one.directive.first("location") is None and len(path) > 1 and \
                    one.path.endswith("/") and path not in taken and usable_prefix(path):
                self.draft.route(self._name(path), {"match": {**self.match, "path": path},
                                                    "redirect": {"location": f"{path}/{{query}}", "status": 301}}, one.directive.item)

    def _name(self, path: str) -> str:
        return f"{self.name}{plain_name(path.replace('/', '-'), 'root')}"

    def _match(self, one: Location) -> Values | None:
        """The conditions of a location; None, after reporting it, if relayd cannot express them."""
        item = one.directive.item
        if one.kind in ("~", "~*"):
            try:
                regex = whole_path(one.path, ignore_case=one.kind == "~*")
            except ValueError as fault:
                item.by_hand(f"the regular expression {fault}; relayd answers 501 for paths below its fixed beginning")
                prefix = literal_prefix(one.path)
                self.draft.refusing_route(self._name(prefix), {**self.match, "prefix": prefix if usable_prefix(prefix) else "/"}, item)
                return None
            if not is_portable(one.path):
                item.approximate("PCRE and Python may read this regular expression differently")
            return {**self.match, "regex": regex}
        key = "path" if one.kind == "=" else "prefix"
        if unusable := fault_of_path(one.path, whole=key == "path"):
            item.by_hand(f"the path {unusable}")
            return None
        return {**self.match, key: one.path}

    def _refuse(self, one: Location, reason: str) -> None:
        item = one.directive.item
        match = self._match(one)
        if match is not None:
            item.by_hand(f"{reason}; relayd answers 501 here until this is done by hand")
            self.draft.refusing_route(self._name(one.path), match, item)
        for inner in item.everything():
            if not inner.notes:
                inner.by_hand("belongs to a location that answers 501")

    def _location(self, one: Location, refused: str) -> None:
        block = one.directive.block or []
        scope = self.scope.within(block)
        conditions = [inner for inner in block if inner.name == "if" and is_method_condition(inner)]
        if reason := refused or access_reason([inner for inner in block if inner not in conditions], self.draft.report):
            self._refuse(one, reason)
            return
        match = self._match(one)
        if match is None:
            return
        for condition in conditions:
            method_route(self.draft, condition, match, self._name(one.path), scope)
        item = one.directive.item
        answer = one.directive.first("return")
        passed = one.directive.first("proxy_pass")
        if answer is not None:
            values = returned(answer, scope)
            if values is not None:
                self.draft.route(self._name(one.path), {"match": match, **values}, item)
                item.exact()
                return
        elif one.directive.first("internal") is not None:
            _noted(block, "internal").exact()
            self.draft.route(self._name(one.path), {"match": match, "respond": {"status": 404}}, item)
            return
        elif passed is not None and passed.args:
            values = self._proxied(one, passed, scope)
            if values is not None:
                self.draft.route(self._name(one.path), {"match": match, **values}, item)
                item.exact()
                return
        else:
            for content in block:
                if content.name in CONTENT:
                    content.item.unsupported("relayd serves no files and speaks HTTP only")
        self.draft.refusing_route(self._name(one.path), match, item)
        item.by_hand("relayd answers 501 here")

    def _proxied(self, one: Location, passed: Directive, scope: Scope) -> Values | None:
        """The values of a route that forwards; None, after reporting it, if the target cannot be converted."""
        target = scope.resolved(passed.args[0])
        found = _PASS.fullmatch(target)
        variable = target != passed.args[0]
        captured = _CAPTURED.fullmatch(target) if one.kind in ("~", "~*") else None
        if captured is not None and "(" in one.path:
            target = captured[1]
            found = _PASS.fullmatch(target)
        if found is None or _VARIABLE.search(target):
            passed.item.by_hand("the target contains a variable that is known only for each request; see upstreams and discovery")
            return None
        scheme, _, socket, socket_path, authority, path = found.groups()
        path = socket_path if socket else path
        proxied = Proxied(self.draft, ports=self.ports)
        proxied.read(scope, scheme == "https")
        route = proxied.route
        if captured is not None:
            route["rewrite"] = f"{captured[2]}\\1"
            passed.item.approximate("relayd sends the rest of the path as the client wrote it, nginx decoded")
        elif path is not None and variable and path != one.path:
            passed.item.by_hand("with a variable, nginx replaces the whole path; see rewrite")
            return None
        if captured is None and path is not None and not (path == one.path and one.kind in ("", "^~", "=")):
            if one.kind in ("~", "~*") or not _is_target(path):
                passed.item.by_hand("relayd does not replace the path in this way; see rewrite")
                return None
            route["rewrite"] = path
        if not self._rewritten(one, route):
            return None
        endpoint = f"unix:{socket}" if socket else f"{scheme}://{authority}"
        fault = "" if authority in self.groups else endpoint_fault(endpoint)
        if fault or not self._upstream(proxied, passed, endpoint, scheme, authority or "localhost"):
            passed.item.by_hand(f"the target {fault or 'has no endpoint that was converted'}")
            return None
        suggestion = authority if authority in self.groups else plain_name(re.sub(r":\d+$", "", authority or "socket"))
        passed.item.exact()
        return {"upstream": self.draft.upstream(suggestion, proxied.upstream, passed.item), **route}

    def _upstream(self, proxied: Proxied, passed: Directive, endpoint: str, scheme: str, authority: str) -> bool:
        """Fill in the endpoints; False if there are none."""
        values = proxied.upstream
        group = self.members.get(authority)
        host_mode = values.get("host")
        if group is not None:
            addresses = [{**one, "url": f"{scheme}://{one['url']}" if not one["url"].startswith("unix:") else one["url"]}
                         for one in group["endpoints"]]
            values.update({**group, "endpoints": [one["url"] if set(one) == {"url"} else one for one in addresses]})
            if host_mode is None and not proxied.host:
                passed.item.approximate(f"nginx sends Host: {authority}, relayd the endpoint's own name (or host: client)")
        else:
            values.update({"endpoints": [endpoint], "breaker": False})
            if scheme == "http" and not endpoint.startswith("unix:") and not re.fullmatch(r"\[.*\](:\d+)?|[\d.]+(:\d+)?", authority):
                passed.item.exact("relayd resolves the name again while it runs, nginx only at its start")
        if scheme == "https" and not proxied.verifies:
            passed.item.approximate("relayd verifies the certificate of the endpoint, nginx does not by default")
        own = {one if isinstance(one, str) else one["url"] for one in values["endpoints"]}
        names = {one.partition("://")[2] for one in own}
        bare = {re.sub(r":\d+$", "", one) for one in names}
        if proxied.host and not (names | bare) <= {proxied.host}:
            passed.item.approximate(f"nginx sends Host: {proxied.host}, relayd the endpoint's own name; see upstreams.host")
        return bool(values["endpoints"])

    def _rewritten(self, one: Location, route: Values) -> bool:
        """Convert `rewrite` directives of the location; False, after reporting it, if that is impossible."""
        found = one.directive.all("rewrite")
        if not found:
            return True
        first = found[0]
        if len(found) == 1 and one.kind in ("", "^~") and "rewrite" not in route and len(first.args) == 3 and first.args[2] == "break":
            pattern, new = first.args[0], first.args[1]
            prefix = one.path
            if pattern in (f"^{prefix}(.*)$", f"^{prefix}(.*)") and re.fullmatch(r"/[^$?]*\$1", new) and _is_target(new[:-2]):
                route["rewrite"] = new[:-2]
                first.item.exact()
                return True
            if not prefix.endswith("/") and pattern in (f"^{prefix}/(.*)$", f"^{prefix}/(.*)") and new == "/$1":
                route["strip_prefix"] = prefix
                first.item.approximate("relayd removes the prefix also from a path without a further /")
                return True
        for rule in found:
            rule.item.by_hand("relayd replaces the matched path or prefix only; see rewrite and strip_prefix")
        return False


def _is_target(path: str) -> bool:
    return re.fullmatch(r"/[!\x22$->@-\[\]-~]*", path) is not None and "//" not in path and "/." not in path


def _noted(block: list[Directive], name: str) -> Item:
    return next(one.item for one in block if one.name == name)


def access_reason(block: list[Directive], report: Report) -> str:
    """Why a block may not be opened: a restriction that relayd does not have. The directives are reported."""
    reasons = []
    denies = [one for one in block if one.name in ("allow", "deny")]
    for one in block:
        if one.name in ACCESS and one.args[:1] != ["off"]:
            if one.name == "allow" and one.args == ["all"] and all(other is one for other in denies):
                one.item.exact()
                continue
            one.item.by_hand("restricts access in a way that relayd does not know; see allow and consumers")
            reasons.append(one.name)
        elif one.name in ACCESS:
            one.item.exact()
        elif one.name == "if":
            one.item.by_hand("relayd has no conditions; make a route with match.host, match.method or match.header")
            reasons.append("if")
            if is_secret_name(one.args[0].strip("($")):
                for value in one.args[2:]:
                    report.hide(value.strip("()\"'"))
    return f"{', '.join(dict.fromkeys(reasons))} cannot be converted" if reasons else ""


def is_method_condition(one: Directive) -> bool:
    """True for `if ($request_method = NAME)` with nothing but constant fields and an answer."""
    inner = [other for other in one.block or [] if other.name != "add_header"]
    fields = [other for other in one.block or [] if other.name == "add_header"]
    return (re.fullmatch(r"\(\s*\$request_method = ['\"]?[A-Z]+['\"]?\s*\)", " ".join(one.args)) is not None and len(inner) == 1 and inner[0].name == "return"
            and all(len(other.args) > 1 and "$" not in other.args[1] for other in fields))


def method_route(draft: Draft, one: Directive, match: Values, name: str, scope: Scope) -> bool:
    """Convert a condition on the method into a route before what follows it; False if it is none."""
    if not is_method_condition(one):
        return False
    method = re.sub(r"[^A-Z]", "", " ".join(one.args).partition("=")[2])
    answer = next(other for other in one.block or [] if other.name == "return")
    values = returned(answer, scope)
    if values is None:
        return False
    for other in one.block or []:
        if other.name == "add_header":
            if "respond" in values and other.args[0].lower() not in FRAMING and not (field_name_fault(other.args[0]) or field_value_fault(other.args[1])):
                values["respond"].setdefault("headers", {})[other.args[0]] = other.args[1]
            other.item.exact()
    one.item.exact()
    if method not in ("TRACE", "CONNECT"):  # relayd answers these with 405 by itself
        draft.route(name, {"match": {**match, "method": [method]}, **values}, one.item)
    return True


def returned(directive: Directive, scope: Scope) -> Values | None:
    """The values of a route for `return`; None, after reporting it, if that is impossible."""
    item = directive.item
    args = [scope.resolved(one) for one in directive.args]
    status = int(args[0]) if args and args[0].isdigit() else 302 if args else 0
    text = args[-1] if len(args) > 1 or (args and not args[0].isdigit()) else None
    if status in REDIRECTS and text is not None:
        location = redirect_target(text)
        if location is None:
            item.by_hand("the target contains a variable that a redirect of relayd does not have")
            return None
        if "://" in location:
            item.exact()
        else:
            item.approximate("nginx makes the target absolute, relayd sends it as it is")
        return {"redirect": {"location": location, "status": status}}
    if not 200 <= status < 600 or status == 444:
        item.by_hand("relayd does not close a connection without an answer" if status == 444 else "is not understood")
        return None
    if text is None:
        (item.approximate("the body is empty in relayd") if status >= 300 else item.exact())
        return {"respond": {"status": status}}
    if _VARIABLE.search(text) or field_value_fault(text.replace("\n", "")):
        item.by_hand("the body contains a variable; relayd's fixed responses are constant")
        return None
    kind = scope.value("default_type") or "text/plain"
    for one in scope.all("default_type"):
        one.item.exact()
    item.exact()
    return {"respond": {"status": status, "body": text, "content_type": kind}}


def redirect_target(text: str) -> str | None:
    """nginx's variables as placeholders; None for a variable that relayd's redirects do not have."""
    if "{" in text.replace("${", "") or not text:
        return None
    text = re.sub(r"\$\{?request_uri\}?", "{path}{query}", text)
    text = re.sub(r"\$\{?uri\}?\$\{?is_args\}?\$\{?args\}?", "{path}{query}", text)
    text = re.sub(r"\$\{?is_args\}?\$\{?args\}?", "{query}", text)
    text = re.sub(r"\$\{?(?:http_)?host\}?", "{host}", text)
    return None if _VARIABLE.search(text) or fault_of_location(text) else text
