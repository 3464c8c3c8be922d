"""The backends of HAProxy as upstreams; and the tokens of a line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field

from relayd.config.fields import field_name_fault, field_value_fault
from relayd.dataclass import dataclass
from relayd.importers._draft import Draft, Values, endpoint_fault, is_key_field
from relayd.importers._report import Item
from relayd.importers._sources import SourceError
from relayd.lazy_regex import lazy_regex

_WORD = lazy_regex(r"(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|\\.|[^\s#\"'\\])+")
_PART = lazy_regex(r"\"((?:[^\"\\]|\\.)*)\"|'([^']*)'|\\(.)|([^\"'\\]+)")
_TIME = lazy_regex(r"(\d+)(us|ms|s|m|h|d)?")
BALANCE = {"roundrobin": "round_robin", "static-rr": "round_robin", "leastconn": "least_request", "first": "priority", "random": "random"}


@dataclass(slots=True)
class Line:
    """A line with its tokens. `fault`: why its condition cannot be expressed; `plain_http`: it holds without TLS."""

    tokens: list[str]
    item: Item
    fault: str | None = None
    plain_http: bool = False
    used: list[Item] = field(default_factory=list)


def tokens_of(text: str, source: str) -> list[str]:
    """The tokens of a line, without its comment. Raises SourceError for an open quote."""
    tokens, position = [], 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        if text[position] == "#":
            break
        found = _WORD.match(text, position)
        if found is None:
            raise SourceError(f"{source}: a quote is not closed")
        tokens.append("".join((part[1] if part[1] is not None else part[2] if part[2] is not None else part[3] or part[4] or "").replace('\\"', '"')
                             for part in _PART.finditer(found[0])))
        position = found.end()
    return tokens


# The least number of tokens of a line that HAProxy accepts.
LEAST = {"acl": 3, "bind": 2, "use_backend": 2, "default_backend": 2, "server": 3, "timeout": 3, "balance": 2, "retries": 2, "mode": 2, "http-request": 2, "http-response": 2,
         "redirect": 3, "tcp-request": 2, "http-check": 2, "option": 2}


def least_tokens(tokens: list[str]) -> int:
    if tokens[1:2] and tokens[1] in ("set-header", "add-header", "del-header", "set-path", "replace-path"):
        return 3 if tokens[1] in ("del-header", "set-path") else 4
    return LEAST.get(tokens[0], 1)


def after(tokens: list[str], *names: str) -> str:
    """The token after one of these; empty if there is none."""
    return next((tokens[number + 1] for number, token in enumerate(tokens[:-1]) if token in names), "")


def duration(text: str) -> str | None:
    """A time of HAProxy, in milliseconds without a unit; None if relayd cannot have it."""
    found = _TIME.fullmatch(text)
    return None if found is None or found[2] == "us" or int(found[1]) == 0 else f"{found[1]}{found[2] or 'ms'}"


def backend(draft: Draft, name: str, lines: list[Line], inherited: Callable[..., list[Line]]) -> tuple[Values, Values] | None:
    """The values of the upstream and of its routes; None, after reporting it, if the backend cannot be converted."""
    values: Values = {"endpoints": [], "host": "client", "breaker": False}
    route: Values = {"upgrade": True, "body_limit": 0}
    check = any(one.tokens[:2] == ["option", "httpchk"] for one in lines)
    for one in inherited("server"):
        _server(one, values, check)
    defaults = [one for one in lines if one.tokens[0] == "default-server"]
    for one in defaults:
        one.item.approximate("see breaker and health of the upstream")
    for one in inherited("timeout", "connect")[-1:]:
        _timeout(one, values, ("connect",))
    for one in inherited("timeout", "server")[-1:]:
        _timeout(one, values, ("first_byte", "idle"))
    for one in inherited("timeout", "queue")[-1:]:
        one.item.approximate("see limits.queue_timeout")
    for one in inherited("balance")[-1:]:
        _balance(one, values)
    for one in inherited("retries")[-1:]:
        if one.tokens[1].isdigit():
            values["retries"] = {"attempts": min(int(one.tokens[1]) + 1, 20), "on": ["connect"]}
            one.item.approximate("relayd repeats after a failed connection, on another endpoint first")
    usable = True
    for one in lines:
        usable = _other(draft, one, values, route) and usable
    if not values["endpoints"]:
        usable = False
    if len(values["endpoints"]) > 1 and "balance" not in values:
        values["balance"] = "round_robin"
    return (values, route) if usable else None


def _timeout(one: Line, values: Values, keys: tuple[str, ...]) -> None:
    time = duration(one.tokens[2])
    if time is None:
        one.item.by_hand("is no duration that relayd has; see timeouts")
        return
    values["timeouts"] = {**values.get("timeouts", {}), **dict.fromkeys(keys, time)}
    one.item.exact()


def _balance(one: Line, values: Values) -> None:
    kind = one.tokens[1]
    if kind in BALANCE:
        values["balance"] = BALANCE[kind]
        one.item.exact()
    elif kind == "source" or (found := re.fullmatch(r"hdr\(([^)]+)\)", kind)) is not None:
        by = "client" if kind == "source" else f"header:{found[1]}"  # type: ignore[index]
        values |= {"balance": "consistent_hash", "hash": {"by": [by]}}
        one.item.approximate("relayd's hash puts keys on other endpoints, and is bounded by load")
    else:
        one.item.by_hand("see balance of the upstream")


def _server(one: Line, values: Values, check: bool) -> None:
    tokens = one.tokens
    address, options = tokens[2] if len(tokens) > 2 else "", tokens[3:]
    if not re.fullmatch(r"(?:[A-Za-z0-9_.\-]+|\[[0-9a-fA-F:.]+\])(?::\d+)?", address):
        if not address.startswith(("unix@/", "/")):
            one.item.by_hand("is no endpoint that relayd has; see upstreams.endpoints and discovery")
            return
        made: Values = {"url": f"unix:{address.removeprefix('unix@')}"}
    else:
        made = {"url": f"{'https' if 'ssl' in options else 'http'}://{address}"}
    one.item.exact()
    position = 0
    while position < len(options):
        name, value = options[position], options[position + 1] if position + 1 < len(options) else ""
        if name == "weight" and value.isdigit() and int(value):
            made["weight"] = int(value)
        elif name == "maxconn" and value.isdigit():
            made["limits"] = {"requests": int(value)}
            values["limits"] = {"queue": 1000}
            one.item.approximate("limits of the endpoint, with a queue of 1000 at the upstream")
        elif name == "backup":
            made["priority"] = 1
            position -= 1
        elif name == "disabled":
            one.item.exact("disabled: left out")
            return
        elif name == "check":
            if not check:
                values["health"] = {"kind": "tcp", "interval": "2s"}
            one.item.approximate("health: relayd's numbers of checks change the state of an endpoint; its requests are served while all fail")
            position -= 1
        elif name == "inter" and (time := duration(value)):
            values.setdefault("health", {})["interval"] = time
        elif name in ("rise", "fall") and value.isdigit():
            values.setdefault("health", {})["healthy" if name == "rise" else "unhealthy"] = int(value)
        elif name == "verify":
            if value == "none":
                values.setdefault("tls", {})["verify"] = False
        elif name == "ca-file":
            values.setdefault("tls", {})["ca"] = value
        elif name == "sni":
            if (found := re.fullmatch(r"str\(([^)]+)\)", value)) is not None:
                values.setdefault("tls", {})["server_name"] = found[1]
            else:
                one.item.by_hand("see tls.server_name of the upstream")
        elif name == "ssl":
            position -= 1
        else:
            one.item.unsupported(f"relayd has no {name} of an endpoint")
            if name in ("send-proxy", "send-proxy-v2", "no-check", "allow-0rtt"):
                position -= 1
        position += 2
    known = [end if isinstance(end, str) else end["url"] for end in values["endpoints"]]
    if fault := endpoint_fault(made["url"]):
        one.item.by_hand(f"the address {fault}")
    elif made["url"] in known:
        one.item.approximate("the same address again: left out")
    else:
        values["endpoints"].append(made["url"] if set(made) == {"url"} else made)


def _other(draft: Draft, one: Line, values: Values, route: Values) -> bool:
    """Convert a line of a backend; False, after reporting it, if the backend must not be used without it."""
    tokens = one.tokens
    if tokens[:2] == ["option", "httpchk"]:
        path = next((token for token in tokens[2:] if token.startswith("/")), "/")
        values.setdefault("health", {}).setdefault("path", path)
        values["health"].setdefault("interval", "2s")
        values["health"].setdefault("status", ["2xx", "3xx"])
        one.item.approximate("health: relayd asks with GET, and serves requests while all checks fail")
    elif tokens[:2] == ["http-check", "expect"] and tokens[2:3] == ["status"] and re.fullmatch(r"[1-5]\d\d", after(tokens, "status")):
        values.setdefault("health", {})["status"] = [tokens[3]]
        one.item.exact()
    elif tokens[0] in ("http-request", "http-response") and tokens[1:2] and tokens[1] in ("set-header", "add-header", "del-header") and "if" not in tokens and "unless" not in tokens:
        section = "request_headers" if tokens[0] == "http-request" else "response_headers"
        return _header(draft, one, section, values, route)
    elif tokens[:2] == ["http-request", "set-path"] or tokens[:2] == ["http-request", "replace-path"]:
        found = re.fullmatch(r"\^?(/[A-Za-z0-9_/.-]*?)/?\(\.\*\)\$?", tokens[2]) if tokens[1] == "replace-path" else None
        if found is not None and len(tokens) == 4 and tokens[3] in (r"/\1", r"\1") and found[1] != "/":
            route["strip_prefix"] = found[1]
            one.item.approximate("strip_prefix: needs a rule on this prefix")
            return True
        one.item.by_hand("relayd replaces the matched path or prefix only; see rewrite and strip_prefix")
        return False
    elif tokens[0] in ("http-request", "redirect", "acl", "tcp-request"):
        one.item.by_hand("rules of a backend are not converted; relayd answers 501 instead of using it")
        return tokens[0] == "acl"
    elif tokens[0] == "cookie":
        one.item.by_hand("see balance: consistent_hash")
    return True


def _header(draft: Draft, one: Line, section: str, values: Values, route: Values) -> bool:
    name, value = one.tokens[2], one.tokens[3] if len(one.tokens) > 3 else ""
    action = one.tokens[1]
    if field_name_fault(name) or field_value_fault(value):
        one.item.by_hand("is no header field")
        return True
    if action == "del-header":
        route.setdefault(section, {}).setdefault("remove", []).append(name)
    elif name.lower() == "host":
        host = {re.sub(r"^.*?://|:\d+$", "", end if isinstance(end, str) else end["url"]) for end in values["endpoints"]}
        if host != {value}:
            one.item.by_hand("see host of the upstream: relayd sends the endpoint's name or the client's")
            return True
        values.pop("host", None)
    elif name.lower() in ("x-forwarded-proto", "x-forwarded-for", "x-forwarded-port", "x-forwarded-host", "x-real-ip"):
        one.item.by_hand("relayd writes this field itself; see headers")
        return True
    elif "%" in value:
        one.item.by_hand("relayd sets fields to constants only")
        return True
    elif section == "request_headers" and is_key_field(name):
        draft.upstream_key(values, name, value, one.item)
        return True
    else:
        route.setdefault(section, {}).setdefault("set" if action == "set-header" else "add", {})[name] = value
    one.item.exact()
    return True
