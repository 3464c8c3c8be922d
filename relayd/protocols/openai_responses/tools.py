"""The tools of a Responses request: what may be called, under which name an endpoint knows it, and the way back.

Laws:
1. An endpoint's name for a tool has at most 64 characters of A-Z a-z 0-9 _ -; what does not fit is shortened with a
   hash. The table leads back to the client's namespace and name, whatever was done to them.
2. The name is a function of namespace and name alone, unless two tools of one request would meet in it.
3. `allowed_tools` is a hard constraint: only what it names is offered, and only what was offered may be called.
4. Tools that items of the conversation bring (`additional_tools`, `tool_search_output`) are offered like those in
   `tools`. A tool that comes more than once is one tool; its last definition counts. How many are read is bounded too,
   and what items bring is read in steps.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relayd.protocols import _json
from relayd.protocols.canon import SharedTools, Tool, ToolChoice
from relayd.protocols.dialect import Refused, run_steps
from relayd.wire.json_steps import Steps
from relayd.wire.tool_list_cache import CachedList, memoised

MAX_TOOLS = 1024
MOST_READ = 4 * MAX_TOOLS  # of the list in `tools`, repetitions included
MOST_BROUGHT = 16 * MAX_TOOLS  # of that and all lists that items bring
SEARCH = "tool_search"  # type of the tool, and its name
_CALLED = ("function", "custom", SEARCH)  # what an endpoint may call; other types of tools run at the provider
_LONGEST_NAME = 64
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")
_FREE_TEXT: Mapping[str, Any] = {
    "type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"],
    "additionalProperties": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Called:
    """A tool as the client knows it; kind is function, custom or tool_search."""

    namespace: str | None
    name: str
    kind: str


def fitting(namespace: str | None, name: str, salt: str = "") -> str:
    """The name under which an endpoint knows a tool."""
    joined = f"{namespace}__{name}" if namespace else name
    plain = _FOREIGN.sub("_", joined)
    if plain == joined and len(joined) <= _LONGEST_NAME and not salt:
        return joined
    digest = hashlib.sha256(f"{namespace}\0{name}\0{salt}".encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{plain[: _LONGEST_NAME - 11]}_{digest}"


@dataclass(slots=True)
class Names:
    """The table of one request, both ways; filled by the reading, then only read."""

    _called: dict[str, Called] = field(default_factory=dict)
    _known_as: dict[Called, str] = field(default_factory=dict)
    _without_namespace: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # by name and kind

    def add(self, called: Called) -> str:
        """Enter a tool; the name for the endpoint."""
        known = self._known_as.get(called)
        if known is not None:
            return known
        name = fitting(called.namespace, called.name)
        if name in self._called:
            name = fitting(called.namespace, called.name, called.kind)
        self._called[name] = called
        self._known_as[called] = name
        self._without_namespace.setdefault((called.name, called.kind), []).append(name)
        return name

    def of_history(self, namespace: str | None, name: str, kind: str) -> str:
        """The endpoint's name for a call of the history, whose tool may not be offered any more."""
        return self._known_as.get(Called(namespace, name, kind)) or fitting(namespace, name)

    def known_in(self, entries: list[Any]) -> Iterator[tuple[str, dict[str, str]]]:
        """The endpoint's names for the tools of a list that was read, each with its description if it has one."""
        for entry in entries:
            namespace = entry["name"] if entry["type"] == "namespace" else None
            for tool in (entry,) if namespace is None else entry["tools"]:
                kind = tool["type"]
                name = SEARCH if kind == SEARCH else tool.get("name")
                known = self._known_as.get(Called(namespace, name, kind)) if kind in _CALLED else None
                if known is not None:
                    said = tool.get("description")
                    yield known, {"description": said} if said else {}

    def called(self, name: str) -> Called | None:
        """The tool that an endpoint calls by this name."""
        return self._called.get(name)

    def find(self, namespace: str | None, name: str, kind: str) -> str | None:
        """The endpoint's name for a declared tool; a name without its namespace is found if it is the only one."""
        exact = self._known_as.get(Called(namespace, name, kind))
        if exact is not None or namespace:
            return exact
        meant = self._without_namespace.get((name, kind), ())
        return meant[0] if len(meant) == 1 else None


@dataclass(frozen=True, slots=True)
class Offer:
    """What a request offers: the tools for the endpoint, how to choose, the names, and the hard constraint if any."""

    tools: tuple[Tool, ...]
    choice: ToolChoice | None
    names: Names
    allowed: frozenset[str] | None
    echo: CachedList
    echo_choice: Any


def read_offer(body: Mapping[str, Any], brought: Iterable[tuple[str, list[Any]]] = ()) -> Offer:
    """The tools and the tool choice of a request. Raises Refused.

    `brought` are the lists of tools that items bring, each with the path of its list.
    """
    return run_steps(offer_steps(body, brought))


def offer_steps(body: Mapping[str, Any], brought: Iterable[tuple[str, list[Any]]] = ()) -> Steps[Offer]:
    """The same in steps."""
    entries = _json.optional(body, "tools", "a list") or []
    if len(entries) > MAX_TOOLS:
        raise Refused(f"At most {MAX_TOOLS} tools can be offered, but there are {len(entries)}.", "tools")
    offered = memoised(entries, "openai_responses", _each)
    names, tools = offered.names, offered.tools
    if more := tuple(brought):
        reading = _Reading()
        for at, inner in (("tools", entries), *more):
            yield from reading.entries(inner, at, MOST_READ if at == "tools" else MOST_BROUGHT)
        names, tools = reading.names, tuple(reading.tools.values())
    choice, allowed = _read_choice(body.get("tool_choice"), names)
    if allowed is not None:
        tools = tuple(tool for tool in tools if tool.name in allowed)
    if not tools:
        if choice is not None and choice.mode in ("required", "named"):
            raise Refused("tool_choice demands a call, but no tool that can be called is offered.", "tool_choice")
        choice = None
    return Offer(tools, choice, names, allowed, offered.echo, _echo_choice(body.get("tool_choice")))


class _Offered(NamedTuple):
    """What a list of tools alone decides."""

    tools: tuple[Tool, ...]
    names: Names
    echo: CachedList


def _each(entries: list[Any]) -> _Offered:
    reading = _Reading()
    run_steps(reading.entries(entries, "tools", MOST_READ))
    echo = CachedList([_echo(entry) if entry["type"] == "function" else entry for entry in entries])
    return _Offered(SharedTools(reading.tools.values()), reading.names, echo)


class _Reading:
    """Reads lists of tools into one offer; owned by whoever reads them."""

    def __init__(self) -> None:
        self.names = Names()
        self.tools: dict[str, Tool] = {}
        self._read = self._most = 0

    def entries(self, entries: list[Any], at: str, most: int) -> Steps[None]:
        """Read a list, in steps; `at` is its path. Raises Refused, also where more than `most` tools have been read."""
        self._most = most
        for number, entry in enumerate(entries):
            yield
            place = f"{at}[{number}]"
            self._count(place)
            _json.checked(entry, "an object", place)
            if _json.required(entry, "type", "a string", place + ".") != "namespace":
                self._tool(entry, place + ".", None)
                continue
            namespace = _json.required(entry, "name", "a string", place + ".")
            for inner_number, inner in enumerate(_json.required(entry, "tools", "a list", place + ".")):
                yield
                inner_place = f"{place}.tools[{inner_number}]"
                self._count(inner_place)
                self._tool(_json.checked(inner, "an object", inner_place), inner_place + ".", namespace)

    def _count(self, at: str) -> None:
        self._read += 1
        if self._read > self._most:
            raise Refused(f"At most {self._most} tools are read, repeated ones included.", at, "array_too_long")

    def _tool(self, entry: Mapping[str, Any], at: str, namespace: str | None) -> None:
        """One tool that the client runs; hosted tools are left out: they run at the provider, and there is none."""
        kind = _json.required(entry, "type", "a string", at)
        if kind not in _CALLED or (kind == SEARCH and entry.get("execution") != "client"):
            return
        name = SEARCH if kind == SEARCH else _json.required(entry, "name", "a string", at)
        if not name:
            raise Refused("A tool needs a name.", at + "name")
        known = self.names.add(Called(namespace, name, kind))
        description = _json.optional(entry, "description", "a string", at)
        if kind == "custom":
            grammar = _json.optional(entry, "format", "an object", at)
            self.tools[known] = Tool(known, description, _FREE_TEXT, kind="custom", grammar=grammar)
        else:
            parameters = _json.optional(entry, "parameters", "an object", at)
            self.tools[known] = Tool(known, description, parameters, _json.optional(entry, "strict", "a boolean", at))
        if len(self.tools) > MAX_TOOLS:
            raise Refused(f"At most {MAX_TOOLS} tools can be offered, those in namespaces included.", at[:-1])


def _read_choice(value: Any, names: Names) -> tuple[ToolChoice | None, frozenset[str] | None]:
    if value is None:
        return None, None
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise Refused(f"tool_choice cannot be '{value[:64]}'.", "tool_choice")
        return ToolChoice(value), None
    _json.checked(value, "an object", "tool_choice")
    kind = _json.required(value, "type", "a string", "tool_choice.")
    if kind in ("auto", "none", "required"):
        return ToolChoice(kind), None
    if kind in ("function", "custom") or (kind == SEARCH and names.find(None, SEARCH, SEARCH)):
        return ToolChoice("named", _named(value, "tool_choice", names)), None
    if kind != "allowed_tools":
        raise Refused(f"tool_choice demands the hosted tool '{kind[:64]}', which is not available here.", "tool_choice")
    mode = _json.optional(value, "mode", "a string", "tool_choice.") or "auto"
    if mode not in ("auto", "required", "none"):
        raise Refused("tool_choice.mode must be auto or required.", "tool_choice.mode")
    allowed = set()
    for number, entry in enumerate(_json.required(value, "tools", "a list", "tool_choice.")):
        at = f"tool_choice.tools[{number}]"
        _json.checked(entry, "an object", at)
        if _json.required(entry, "type", "a string", at + ".") in _CALLED:
            allowed.add(_named(entry, at, names))
    return ToolChoice(mode), frozenset(allowed)


def _named(entry: Mapping[str, Any], at: str, names: Names) -> str:
    is_search = entry["type"] == SEARCH
    name = SEARCH if is_search else _json.required(entry, "name", "a string", at + ".")
    namespace = _json.optional(entry, "namespace", "a string", at + ".")
    known = names.find(namespace, name, entry["type"])
    if known is None:
        raise Refused(f"{at} names the tool '{name[:128]}', which is not among the tools.", at)
    return known


def _echo(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"description": None, "parameters": None, "strict": None, **entry}


def _echo_choice(value: Any) -> Any:
    if value is None:
        return "auto"
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        return {"mode": "auto", **value}
    return value
