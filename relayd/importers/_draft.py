"""The intermediate form of an import: sections of a relayd.yaml with the places of the source, and the secrets.

1. Every converter writes the same Draft; `document` is the only place that makes a relayd.yaml of it.
2. A secret is held as a Key. The YAML contains the name of its file, never its text.
3. An upstream with the same values is made once, whatever refers to it; names are unique.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any

from relayd.config.address import fault_of, parse_endpoint
from relayd.config.fields import KEY_FIELDS
from relayd.dataclass import dataclass
from relayd.importers._report import Item, Report
from relayd.lazy_regex import lazy_regex

HASHED = "a password cannot be had from its hash; see basic of consumers, and allow of the routes"
NOT_IMPORTED = 501  # the status of a route whose original could not be converted: nothing goes where it did not go
SECRET_NAME = lazy_regex(r"(?:^|[_\-.])(?:(?:api|access|master|auth|private|secret)?[_\-]?(?:keys?(?:_id)?|token|secret)|password|passwd|pass|"
                         r"credentials?|dsn|salt)$", re.IGNORECASE)
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, by the name of its key file."""

    name: str


@dataclass(frozen=True, slots=True)
class Commented:
    """A value and the comment that is written before it."""

    value: Values
    comment: str


def is_secret_name(name: str) -> bool:
    """True for the name of a variable or key whose value is to be kept secret."""
    return SECRET_NAME.search(name.strip()) is not None


def endpoint_fault(url: str) -> str:
    """Why a URL cannot be an endpoint; empty if it can."""
    return fault_of(parse_endpoint, url) or ""


def is_key_field(name: str) -> bool:
    """True for a header field whose value is a key."""
    return name.lower() in KEY_FIELDS or is_secret_name(name)


def plain_name(text: str, default: str = "x") -> str:
    """A text as the name of a section: letters, digits, `_`, `.` and `-`, at most 60 characters."""
    name = re.sub(r"[^A-Za-z0-9_.\-]+", "-", text).strip("-.")[:60].strip("-.")
    return name or default


@dataclass(slots=True)
class Draft:
    """The relayd.yaml that an import builds. Owned by one import."""

    report: Report = field(default_factory=Report)
    listeners: dict[str, Commented] = field(default_factory=dict)
    upstreams: dict[str, Commented] = field(default_factory=dict)
    models: dict[str, Commented] = field(default_factory=dict)
    routes: list[Commented] = field(default_factory=list)
    consumers: dict[str, Commented] = field(default_factory=dict)
    headers: Values = field(default_factory=dict)
    telemetry: Values = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def key(self, name: str, value: str) -> Key:
        """A secret of the source, moved into a key file; the same value has one file."""
        self.report.hide(value)
        for known, text in self.keys.items():
            if text == value:
                return Key(known)
        name = _unique(plain_name(name.lower(), "key"), self.keys)
        self.keys[name] = value
        return Key(name)

    def upstream_key(self, upstream: Values, name: str, value: str, item: Item) -> None:
        """Let an upstream send a header field with a key, which is moved into a key file. It sends one: the first stays."""
        bearer = name.lower() == "authorization" and value.lower().startswith("bearer ")
        self.report.hide(value)
        key = self.key(f"{plain_name(name)}-{item.line}", value[7:].strip() if bearer else value)
        auth = {"bearer": key} if bearer else {"header": {"name": name, "value": key}}
        if upstream.setdefault("auth", auth) == auth:
            item.exact("moved into a key file; relayd also removes the keys that clients send")
        else:
            item.by_hand("the upstream has another key already; relayd sends one")

    def listener(self, name: str, values: Values, item: Item | None) -> str:
        return _added(self.listeners, name, values, item)

    def upstream(self, name: str, values: Values, item: Item | None) -> str:
        """The name of an upstream with these values; an equal one is used again."""
        for known, one in self.upstreams.items():
            if one.value == values:
                return known
        return _added(self.upstreams, name, values, item)

    def model(self, name: str, values: Values, item: Item | None) -> None:
        self.models.setdefault(name, Commented(values, "" if item is None else item.position))

    def consumer(self, name: str, values: Values, item: Item | None) -> str:
        return _added(self.consumers, name, values, item)

    def route(self, name: str, values: Values, item: Item | None) -> str:
        """Append a route. Keys among its request fields are moved to its upstream. Returns its name."""
        values = self._without_keys(values, item)
        unique = _unique(plain_name(name), {one.value["name"] for one in self.routes})
        self.routes.append(Commented({"name": unique, **values}, "" if item is None else item.position))
        return unique

    def _without_keys(self, values: Values, item: Item | None) -> Values:
        edits: Values = values.get("request_headers", {})
        keys = {name: value for action in ("set", "add") for name, value in edits.get(action, {}).items() if is_key_field(name)}
        if not keys or item is None:
            return values
        rest = {action: fields if action == "remove" else {name: one for name, one in fields.items() if name not in keys}
                for action, fields in edits.items()}
        values = {**values, "request_headers": {action: fields for action, fields in rest.items() if fields}}
        if not values["request_headers"]:
            del values["request_headers"]
        known = values["upstream"]
        upstream = dict(self.upstreams[known].value)
        for name, value in keys.items():
            self.upstream_key(upstream, name, value, item)
        if not any(one.value.get("upstream") == known for one in self.routes):
            del self.upstreams[known]  # made for this route
        return {**values, "upstream": self.upstream(known, upstream, item)}

    def refusing_route(self, name: str, match: Values, item: Item) -> str:
        """A route that stands for something that was not converted: it answers 501 and sends nothing upstream."""
        body = f"not imported: {item.position}\n"
        return self.route(name, {"match": match, "respond": {"status": NOT_IMPORTED, "body": body}}, item)

    def document(self, keys: str) -> Values:
        """The sections of relayd.yaml. `keys` is the folder of the key files."""
        used: set[str] = set()
        sections: Values = {
            "listeners": self.listeners, "upstreams": self.upstreams, "models": self.models, "routes": self.routes,
            "consumers": self.consumers, "headers": self.headers, "telemetry": self.telemetry,
        }
        result = {name: _resolved(value, keys, used) for name, value in sections.items() if value}
        for name in [one for one in self.keys if one not in used]:  # a secret of something that was not converted
            del self.keys[name]
        return result


def _added(section: dict[str, Commented], name: str, values: Values, item: Item | None) -> str:
    unique = _unique(plain_name(name), section)
    section[unique] = Commented(values, "" if item is None else item.position)
    return unique


def _unique(name: str, taken: Any) -> str:
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    return unique


def _resolved(value: Any, folder: str, used: set[str]) -> Any:
    if isinstance(value, Key):
        used.add(value.name)
        return {"file": f"{folder.rstrip('/')}/{value.name}"}
    if isinstance(value, Commented):
        return Commented(_resolved(value.value, folder, used), value.comment)
    if isinstance(value, dict):
        return {key: _resolved(inner, folder, used) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_resolved(inner, folder, used) for inner in value]
    return value
