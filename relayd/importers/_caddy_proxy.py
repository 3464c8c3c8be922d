"""What reverse_proxy of Caddy means for an upstream and a route of relayd."""

from __future__ import annotations

import re
from dataclasses import field

from relayd.config.fields import field_name_fault, field_value_fault
from relayd.dataclass import dataclass
from relayd.importers._directive import Directive
from relayd.importers._draft import Draft, Values, endpoint_fault, is_key_field
from relayd.lazy_regex import lazy_regex

POLICIES = {"random": "random", "least_conn": "least_request", "round_robin": "round_robin", "first": "priority", "random_choose": "random"}
DURATION = lazy_regex(r"\d+(?:ms|s|m|h|d)")
CLIENT_FIELDS = {("x-real-ip", "{remote_host}"), ("x-real-ip", "{remote}"), ("x-real-ip", "{client_ip}"), ("x-forwarded-proto", "{scheme}"), ("x-forwarded-host", "{host}"),
                 ("x-forwarded-for", "{remote_host}"), ("x-forwarded-for", "{client_ip}"), ("host", "{host}"), ("host", "{hostport}"), ("host", "{http.request.host}"),
                 ("host", "{http.request.hostport}")}


@dataclass(slots=True)
class Proxied:
    """The values that one reverse_proxy gives."""

    draft: Draft
    upstream: Values = field(default_factory=lambda: {"host": "client", "timeouts": {"connect": "3s", "first_byte": "off", "idle": "off"}, "breaker": False})
    route: Values = field(default_factory=lambda: {"upgrade": True, "body_limit": 0})

    def read(self, one: Directive, addresses: list[str]) -> bool:
        """Read the directive; False, after reporting it, if its endpoints cannot be converted."""
        for to in one.all("to"):
            addresses = [*addresses, *to.args]
            to.item.exact()
        endpoints: list[str] = []
        for address in addresses:
            if (url := _endpoint(address)) is None:
                one.item.by_hand(f"{address} is no endpoint that relayd knows; see upstreams.endpoints and discovery")
                return False
            if url not in endpoints:
                endpoints.append(url)
        if not endpoints:
            one.item.by_hand("has no endpoint that is written here; see discovery")
            return False
        self.upstream["endpoints"] = endpoints
        if len(endpoints) > 1:
            self.upstream["balance"] = "random"
        for inner in one.block or []:
            self._option(inner)
        return True

    def _option(self, one: Directive) -> None:
        value = one.args[0] if one.args else ""
        time = value if DURATION.fullmatch(value) else None
        upstream = self.upstream
        if one.name == "lb_policy":
            self._policy(one, value)
        elif one.name in ("header_up", "header_down"):
            edit_headers(self.draft, one, self.route, "request_headers" if one.name == "header_up" else "response_headers", upstream)
        elif one.name == "health_uri":
            upstream.setdefault("health", {})["path"] = value
            one.item.approximate("health: an endpoint changes its state after the numbers of checks of relayd (healthy, unhealthy)")
        elif one.name in ("health_interval", "health_timeout") and time:
            upstream.setdefault("health", {})[one.name[7:]] = time
            one.item.exact()
        elif one.name == "health_status" and re.fullmatch(r"\dxx|\d{3}", value):
            upstream.setdefault("health", {})["status"] = [value]
            one.item.exact()
        elif one.name in ("fail_duration", "max_fails"):
            breaker = {"failures": 1, "open_for": "30s", **(upstream["breaker"] or {})}
            if one.name == "max_fails" and value.isdigit():
                breaker["failures"] = max(int(value), 1)
            elif time:
                breaker["open_for"] = time
            upstream["breaker"] = breaker
            one.item.approximate("breaker: consecutive failures")
        elif one.name in ("lb_try_duration", "lb_retries"):
            upstream["retries"] = {"attempts": min(int(value) + 1, 20) if value.isdigit() else 3}
            one.item.approximate("see retries: relayd counts attempts, and repeats only what may be repeated")
        elif one.name in ("flush_interval", "lb_try_interval", "buffer_requests", "buffer_responses", "request_buffers", "response_buffers"):
            one.item.exact("relayd passes bytes on as they arrive")
        elif one.name == "transport" and value == "http":
            one.item.exact()
            for inner in one.block or []:
                self._transport(inner)
        elif one.name == "trusted_proxies":
            one.item.by_hand("see trusted_proxies of the listener")
        elif one.name == "to":
            pass
        else:
            one.item.unsupported("relayd does not do this with the responses or endpoints of an upstream")

    def _policy(self, one: Directive, value: str) -> None:
        if value in POLICIES:
            self.upstream["balance"] = POLICIES[value]
            one.item.exact()
        elif value in ("ip_hash", "client_ip_hash") or (value in ("header", "cookie") and len(one.args) > 1):
            by = "client" if value.endswith("ip_hash") else f"{value}:{one.args[1]}"
            self.upstream |= {"balance": "consistent_hash", "hash": {"by": [by]}}
            one.item.approximate("relayd's hash puts keys on other endpoints, and is bounded by load")
        else:
            one.item.by_hand("see balance")

    def _transport(self, one: Directive) -> None:
        value = one.args[0] if one.args else ""
        time = value if DURATION.fullmatch(value) else None
        tls = self.upstream.get("tls", {})
        keys = {"dial_timeout": "connect", "response_header_timeout": "first_byte", "read_timeout": "idle"}
        if one.name in keys and time:
            self.upstream["timeouts"][keys[one.name]] = time
            one.item.exact()
        elif one.name == "keepalive" and time:
            self.upstream["pool"] = {"max_idle_age": time}
            one.item.exact()
        elif one.name == "max_conns_per_host" and value.isdigit():
            self.upstream["limits"] = {"requests": int(value), "queue": 1000}
            one.item.approximate("limits.requests, with a queue")
        elif one.name in ("keepalive_idle_conns", "keepalive_idle_conns_per_host", "compression", "read_buffer", "write_buffer", "max_response_header"):
            one.item.exact("relayd keeps the connections that were needed")
        elif one.name == "tls_insecure_skip_verify":
            tls["verify"] = False
            one.item.exact()
        elif one.name == "tls_server_name" and value:
            tls["server_name"] = value
            one.item.exact()
        elif one.name in ("tls_trusted_ca_certs", "tls_client_auth") and value:
            tls |= {"ca": value} if one.name.endswith("certs") else {"cert": value, "key": (one.args + [value])[1]}
            one.item.exact()
        elif one.name == "tls":
            self.upstream["endpoints"] = [url.replace("http://", "https://") for url in self.upstream["endpoints"]]
            one.item.exact()
        elif one.name == "versions":
            if "2" in one.args and "h2c" not in one.args:
                self.upstream["http"] = "2"
            one.item.exact() if "h2c" not in one.args else one.item.unsupported("relayd speaks HTTP/2 over TLS only")
        else:
            one.item.unsupported("relayd has no such setting of connections to endpoints")
        if tls:
            self.upstream["tls"] = tls


def edit_headers(draft: Draft, one: Directive, route: Values, section: str, upstream: Values | None = None) -> None:
    """Convert `[+-]Field [value]` into edits of a route."""
    if not one.args or len(one.args) > 2:
        one.item.by_hand("relayd replaces whole fields; see request_headers and response_headers")
        return
    name, value = one.args[0], one.args[1] if len(one.args) > 1 else ""
    edits: Values = route.setdefault(section, {})
    sign, name = (name[0], name[1:]) if name[0] in "+-?>" else ("", name)
    low = name.lower()
    if field_name_fault(name) or field_value_fault(value):
        one.item.by_hand("is no header field of this form")
    elif sign == "-" and "*" not in name:
        edits.setdefault("remove", []).append(name)
        one.item.exact()
    elif section == "request_headers" and (low, value) in CLIENT_FIELDS:
        one.item.exact("relayd does this by itself")
    elif section == "request_headers" and low == "host" and upstream is not None and value in ("{upstream_hostport}", "{http.reverse_proxy.upstream.hostport}"):
        upstream.pop("host", None)
        one.item.exact("host: upstream")
    elif low == "host" or "{" in value or sign in ("-", "?"):
        one.item.by_hand("relayd sets fields to constants only" if low != "host" else "see host of the upstream")
    elif section == "request_headers" and is_key_field(name) and upstream is not None:
        draft.upstream_key(upstream, name, value, one.item)
    else:
        edits.setdefault("add" if sign == "+" else "set", {})[name] = value
        one.item.exact()
    if not edits:
        del route[section]


def _endpoint(address: str) -> str | None:
    if address.startswith("unix/"):
        return f"unix:{address[5:]}" if address.startswith("unix//") else None
    scheme, sign, rest = address.partition("://")
    if not sign:
        scheme, rest = "http", address
    if scheme not in ("http", "https") or "{" in rest or re.search(r":\d+-\d+$", rest) or rest.count("/") or rest.startswith("srv+"):
        return None
    url = f"{scheme}://localhost{rest}" if rest.startswith(":") else f"{scheme}://{rest}"
    return None if endpoint_fault(url) else url
