"""What nginx's proxy_* directives mean for an upstream and for a route of relayd."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any

from relayd.config.fields import field_name_fault, field_value_fault
from relayd.dataclass import dataclass
from relayd.importers._directive import Directive
from relayd.importers._draft import Draft, Values, is_key_field
from relayd.importers._report import Item
from relayd.lazy_regex import lazy_regex

STREAMS = "relayd passes bodies on as they arrive, with bounded buffers"
# Directives without an effect on requests in relayd: the reason, exact if there is nothing to lose.
ALWAYS_TRUE = {
    "proxy_request_buffering": STREAMS, "proxy_cache": "relayd does not cache", "tcp_nodelay": "relayd always sets it",
    "chunked_transfer_encoding": STREAMS, "sendfile": "", "tcp_nopush": "", "proxy_http_version": "relayd speaks HTTP/1.1",
    "proxy_cache_bypass": "relayd does not cache", "proxy_no_cache": "relayd does not cache",
    "proxy_socket_keepalive": "", "proxy_ssl_session_reuse": "", "proxy_ssl_server_name": "relayd always sends SNI",
    "keepalive": "relayd keeps connections open", "keepalive_timeout": "", "keepalive_requests": "",
    "proxy_ignore_client_abort": "", "proxy_intercept_errors": "",
    **dict.fromkeys(("proxy_buffer_size", "proxy_buffers", "proxy_busy_buffers_size", "proxy_max_temp_file_size", "proxy_temp_file_write_size", "client_body_buffer_size"), STREAMS),
}
SWITCHED_OFF = {"proxy_cache": "off", "proxy_intercept_errors": "off", "proxy_ignore_client_abort": "off"}
WRITTEN_BY_RELAYD = {
    ("x-real-ip", "$remote_addr"), ("x-forwarded-proto", "$scheme"), ("x-forwarded-host", "$host"), ("x-forwarded-host", "$http_host"),
    ("x-request-id", "$request_id"),
}
ACCESS = {"auth_basic", "auth_request", "auth_jwt", "allow", "deny", "satisfy", "limit_except", "ssl_verify_client", "secure_link",
          "access_by_lua_block", "access_by_lua_file", "rewrite_by_lua_block", "rewrite_by_lua_file"}
_TIME = lazy_regex(r"(?:(\d+)(ms|s|m|h|d)?)")
_SIZE = lazy_regex(r"(\d+)([kKmMgG]?)")


def duration(text: str) -> str | None:
    """An nginx time as one of relayd; None if it is not a simple one."""
    found = _TIME.fullmatch(text)
    return None if found is None else f"{found[1]}{found[2] or 's'}"


def size(text: str) -> int | str | None:
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    return f"{found[1]}{found[2].upper()}iB" if found[2] else int(found[1])


@dataclass(slots=True)
class Scope:
    """The blocks around a place, the innermost last. nginx inherits a directive from the innermost block that has it."""

    blocks: list[list[Directive]]
    constants: dict[str, str] = field(default_factory=dict)

    def within(self, block: list[Directive]) -> Scope:
        inner = Scope([*self.blocks, block], dict(self.constants))
        for one in block:
            if one.name == "set" and len(one.args) == 2 and "$" not in one.args[1]:
                inner.constants[one.args[0]] = one.args[1]
                one.item.exact("a constant")
        return inner

    def all(self, name: str) -> list[Directive]:
        for block in reversed(self.blocks):
            if found := [one for one in block if one.name == name]:
                return found
        return []

    def last(self, name: str) -> Directive | None:
        found = self.all(name)
        return found[-1] if found else None

    def value(self, name: str) -> str | None:
        one = self.last(name)
        return one.args[0] if one is not None and one.args else None

    def resolved(self, text: str) -> str:
        for name, value in self.constants.items():
            constant = value.replace("\\", r"\\")
            text = re.sub(rf"{re.escape(name)}(?![A-Za-z0-9_])|\$\{{{re.escape(name[1:])}\}}", constant, text)
        return text


@dataclass(slots=True)
class Proxied:
    """What the directives of one location give: values of the upstream and of the route."""

    draft: Draft
    upstream: Values = field(default_factory=dict)
    route: Values = field(default_factory=dict)
    host: str = ""  # the name that nginx sends in Host, if it is not the endpoint's own
    ports: frozenset[int] = frozenset()  # of the listeners
    verifies: bool = False  # nginx verifies the endpoint's certificate, as relayd always does

    def read(self, scope: Scope, tls: bool) -> None:
        self._timeouts(scope)
        self._fields_to_upstream(scope)
        self._fields_to_client(scope)
        self._small(scope)
        if tls:
            self._tls(scope)

    def _timeouts(self, scope: Scope) -> None:
        times = {"connect": "60s", "first_byte": "60s", "idle": "60s"}
        for name, keys in (("proxy_connect_timeout", ("connect",)), ("proxy_read_timeout", ("first_byte", "idle"))):
            one = scope.last(name)
            if one is None or not one.args:
                continue
            time = duration(scope.resolved(one.args[0]))
            if time is None or time.startswith("0"):
                one.item.by_hand("is not a duration that relayd accepts; see upstreams.timeouts")
                continue
            times |= dict.fromkeys(keys, time)
            one.item.exact()
        for one in scope.all("proxy_send_timeout"):
            one.item.unsupported("relayd has no limit for writing to an endpoint; timeouts.total bounds the whole exchange")
        self.upstream["timeouts"] = times

    def _fields_to_upstream(self, scope: Scope) -> None:
        edits: Values = {}
        for one in scope.all("proxy_set_header"):
            if len(one.args) != 2:
                one.item.by_hand("is not understood")
                continue
            self._field(one.item, one.args[0], scope.resolved(one.args[1]), edits)
        if edits:
            self.route["request_headers"] = edits

    def _field(self, item: Item, name: str, value: str, edits: Values) -> None:
        low = name.lower()
        if field_name_fault(name) or field_value_fault(value):
            item.by_hand("is no header field")
        elif low == "host":
            self._host(item, value)
        elif low == "connection" or low == "upgrade":
            if value in ("$http_upgrade", "$connection_upgrade") or value.lower() == "upgrade":
                self.route["upgrade"] = True
                item.exact("upgrade: true")
            elif value in ("", "keep-alive", "$http_connection") or low == "upgrade":
                item.exact("relayd keeps connections open" if low == "connection" else "")
            else:
                item.unsupported("relayd writes this field itself")
        elif (low, value) in WRITTEN_BY_RELAYD or value == f"$http_{low.replace('-', '_')}":
            item.exact("relayd does this by itself")
        elif low == "x-forwarded-for" and value in ("$proxy_add_x_forwarded_for", "$remote_addr"):
            appends = value != "$remote_addr"
            item.approximate("relayd ignores the field of clients that are not in the listener's trusted_proxies" if appends else
                             "relayd appends to the field of clients in trusted_proxies; without trusted_proxies it is the same")
        elif low in ("x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host"):
            item.by_hand(f"relayd writes this field itself; nginx sends {value}. See the section headers, and trusted_proxies")
        elif value == "":
            edits.setdefault("remove", []).append(name)
            item.exact()
        elif "$" in value:
            item.by_hand("relayd sets fields to constants only")
        elif is_key_field(name):
            self.draft.upstream_key(self.upstream, name, value, item)
        else:
            edits.setdefault("set", {})[name] = value
            item.exact()

    def _host(self, item: Item, value: str) -> None:
        if value in ("$host", "$http_host", "$host:$server_port", "$http_host:$server_port"):
            self.upstream["host"] = "client"
            if value == "$http_host" or self.ports <= {80, 443}:
                item.exact("host: client")
            else:
                item.approximate("host: client; relayd sends the field as the client sent it, nginx without the port"
                                 if value == "$host" else "host: client; relayd sends the field as the client sent it")
        elif value == "$proxy_host":
            item.exact()
        elif "$" in value:
            item.by_hand("relayd sends the endpoint's name or the client's; see upstreams.host")
        else:
            self.host = value
            item.exact("the endpoint's own name")  # made worse by the caller if it is another one

    def _fields_to_client(self, scope: Scope) -> None:
        edits: Values = {}
        for one in scope.all("add_header"):
            if len(one.args) < 2 or "$" in one.args[1] or (one.args[0].lower() == "strict-transport-security" and not one.args[1]):
                one.item.by_hand("relayd sets fields to constants only")
                continue
            edits.setdefault("add", {})[one.args[0]] = one.args[1]
            always = one.args[2:] == ["always"]
            if one.args[0].lower().startswith("access-control-"):
                one.item.approximate("added as a field; cors of a route answers preflights too")
            elif always:
                one.item.exact()
            else:
                one.item.approximate("relayd adds the field to responses of every status, nginx only to 2xx and 3xx")
        for one in scope.all("proxy_hide_header"):
            if not one.args or field_name_fault(one.args[0]):
                one.item.by_hand("is no header field")
                continue
            edits.setdefault("remove", []).append(one.args[0])
            one.item.exact()
        if edits:
            self.route["response_headers"] = edits

    def _small(self, scope: Scope) -> None:
        one = scope.last("client_max_body_size")
        limit: Any = "1MiB" if one is None or not one.args else size(one.args[0])
        if limit is None:
            assert one is not None
            one.item.by_hand("is not a size that relayd accepts; see routes.body_limit")
        else:
            self.route["body_limit"] = limit
            if one is not None:
                one.item.exact()
        for one in scope.all("proxy_buffering"):
            one.item.exact(STREAMS) if one.args == ["off"] else one.item.approximate(STREAMS)
        for one in scope.all("proxy_redirect"):
            self._redirects(one)
        for name, reason in ALWAYS_TRUE.items():
            for one in scope.all(name):
                wanted = SWITCHED_OFF.get(name)
                if name == "proxy_ignore_client_abort" and one.args == ["on"]:
                    self.route["on_disconnect"] = "finish"
                    one.item.exact()
                elif wanted is None or one.args == [wanted]:
                    one.item.exact(reason)
                else:
                    one.item.unsupported(reason or "relayd sends the upstream's own error responses")
        for one in scope.all("proxy_next_upstream"):
            one.item.approximate("see retries of the upstream; relayd repeats only what may be repeated")

    def _redirects(self, one: Directive) -> None:
        if one.args == ["off"]:
            self.upstream["rewrite_location"] = False
            one.item.exact()
        elif one.args == ["default"]:
            one.item.exact()
        else:
            one.item.by_hand("relayd rewrites only a Location that names the endpoint itself (upstreams.rewrite_location)")

    def _tls(self, scope: Scope) -> None:
        tls: Values = {}
        verify = scope.last("proxy_ssl_verify")
        if verify is not None:
            self.verifies = verify.args == ["on"]
            verify.item.exact() if verify.args == ["on"] else verify.item.approximate(
                "relayd verifies the certificate all the same; tls: {verify: false} would not")
        for name, key in (("proxy_ssl_trusted_certificate", "ca"), ("proxy_ssl_certificate", "cert"),
                          ("proxy_ssl_certificate_key", "key"), ("proxy_ssl_name", "server_name")):
            one = scope.last(name)
            if one is None or not one.args:
                continue
            if "$" in one.args[0]:
                one.item.by_hand(f"contains a variable; see upstreams.tls.{key}")
            else:
                tls[key] = one.args[0]
                one.item.exact()
        if tls:
            self.upstream["tls"] = tls
