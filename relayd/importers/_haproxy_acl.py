"""ACLs of HAProxy as conditions of routes.

Lines of the same ACL are alternatives; the tokens after `if` are conjunctions, joined by `or`.
"""

from __future__ import annotations

import re

from relayd.config.patterns import fault_of_host, fault_of_path
from relayd.dataclass import dataclass
from relayd.importers._draft import Draft, Values, is_key_field
from relayd.importers._haproxy_backend import Line
from relayd.importers._paths import whole_path

PATH_KINDS = ("path", "path_beg", "path_dir", "path_end", "path_reg", "path_sub")


@dataclass(slots=True)
class Conditions:
    """The ACLs of a section. A name has the alternatives that relayd can express, or None."""

    named: dict[str, list[Values] | None]
    draft: Draft

    def define(self, line: Line) -> None:
        name, tokens = line.tokens[1], line.tokens[2:]
        found = _condition(tokens)
        if found is None:
            line.item.by_hand("relayd has no such condition; the rules that use it are closed")
            self.named[name] = None
            self._hide(tokens)
            return
        known = self.named.setdefault(name, [])
        if known is not None:
            known += found
        line.item.exact()

    def _hide(self, tokens: list[str]) -> None:
        """A condition on a field with a key contains the key."""
        if re.search(r"key|token|auth|secret|passw", tokens[0] if tokens else "", re.IGNORECASE):
            for value in tokens[1:]:
                self.draft.report.hide(value)

    def of(self, line: Line, tokens: list[str], *, plain_http: bool = False) -> list[Values]:
        """The alternatives of a condition; a superset of them, with `line.fault` set, if relayd cannot express it."""
        if not tokens:
            return [{}]
        if tokens[0] == "unless":
            if plain_http and tokens[1:] == ["{", "ssl_fc", "}"]:
                line.plain_http = True
                return [{}]
            line.fault = "relayd has no negation"
            return [{}]
        result: list[Values] = []
        for alternative in _split(tokens[1:]):
            result += self._all(line, alternative, plain_http)
        return result

    def _all(self, line: Line, tokens: list[str], plain_http: bool) -> list[Values]:
        found: list[Values] = [{}]
        position = 0
        while position < len(tokens):
            token = tokens[position]
            if token == "{":
                end = tokens.index("}", position) if "}" in tokens[position:] else len(tokens)
                inner, position = tokens[position + 1 : end], end
                if inner == ["ssl_fc"] and position > 0 and tokens[: position - 2][-1:] == ["!"] and plain_http:
                    line.plain_http = True
                    position += 1
                    continue
                one = _condition(inner)
                if one is None:
                    self._hide(inner)
            elif token == "!" or token.startswith("!"):
                if plain_http and tokens in (["!", "{", "ssl_fc", "}"], ["!{", "ssl_fc", "}"]):
                    line.plain_http = True
                    return [{}]
                line.fault = "relayd has no negation"
                position += 1 + (token == "!")
                continue
            else:
                one = self.named.get(token)
            position += 1
            if one is None:
                line.fault = f"relayd cannot express the condition {token if token != '{' else 'in brackets'}"
                continue
            found = [joined for left in found for right in one if (joined := _joined(left, right, line)) is not None]
        return found


def _split(tokens: list[str]) -> list[list[str]]:
    result: list[list[str]] = [[]]
    for token in tokens:
        if token in ("or", "||"):
            result.append([])
        else:
            result[-1].append(token)
    return result


def _joined(left: Values, right: Values, line: Line) -> Values | None:
    result = {**left}
    for key, value in right.items():
        if key in ("host", "method") and key in result:
            both = [one for one in result[key] if one in value]
            if not both:
                return None
            result[key] = both
        elif key == "header":
            result[key] = {**result.get(key, {}), **value}
        else:
            result[key] = value
    if sum(key in result for key in ("path", "prefix", "regex")) > 1 or any(key in left and key in right and left[key] != right[key] for key in ("path", "prefix", "regex")):
        line.fault = "two conditions on the path"
        for key in ("path", "prefix", "regex"):
            result.pop(key, None)
    return result


def _condition(tokens: list[str]) -> list[Values] | None:
    """The alternatives of a fetch with its values; None if relayd has no such condition."""
    if len(tokens) < 2:
        return None
    fetch, values, flags = tokens[0], tokens[1:], set()
    while values and values[0].startswith("-"):
        flag = values.pop(0)
        flags.add(flag)
        if flag == "-m" and values:
            fetch = {"beg": "path_beg", "end": "path_end", "reg": "path_reg", "sub": "path_sub", "str": "path"}.get(values.pop(0), "") if fetch == "path" else ""
    if not values or flags - {"-i", "-m"}:
        return None
    if fetch in PATH_KINDS:
        return _paths(fetch, values, "-i" in flags)
    if fetch in ("hdr(host)", "hdr(Host)", "hdr_dom(host)", "req.hdr(host)", "hdr_end(host)"):
        hosts = [f"*.{one.lstrip('.')}" if fetch == "hdr_end(host)" and one.startswith(".") else one for one in values]
        return None if any(fault_of_host(one) for one in hosts) or fetch in ("hdr_dom(host)",) or (fetch == "hdr_end(host)" and not all(one.startswith("*") for one in hosts)) \
            else [{"host": hosts}]
    if fetch == "method":
        return [{"method": [one.upper() for one in values]}]
    found = re.fullmatch(r"(?:req\.)?f?hdr\(([A-Za-z0-9-]+)\)", fetch)
    if found is not None and not flags and not is_key_field(found[1]):
        return [{"header": {found[1]: value}} for value in values]
    return None


def _paths(fetch: str, values: list[str], ignore_case: bool) -> list[Values] | None:
    result: list[Values] = []
    for value in values:
        if fetch == "path_reg":
            try:
                result.append({"regex": whole_path(value, ignore_case=ignore_case)})
            except ValueError:
                return None
        elif fetch in ("path", "path_beg") and not ignore_case:
            if fault_of_path(value, whole=fetch == "path"):
                return None
            result.append({"path" if fetch == "path" else "prefix": value})
        else:
            escaped = re.escape(value.strip("/") if fetch == "path_dir" else value)
            form = {"path": "{}", "path_beg": "{}.*", "path_end": ".*{}", "path_sub": ".*{}.*", "path_dir": "(?:/.*)?/{}(?:/.*)?"}[fetch].format(escaped)
            try:
                result.append({"regex": whole_path(f"^{form}$", ignore_case=ignore_case)})
            except ValueError:
                return None
    return result


