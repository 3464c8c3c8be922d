"""The tools of a Responses request: the tools offered to the endpoint, their endpoint names, and the mapping back.

Laws:
1. The endpoint name of a tool has at most 64 characters of A-Z a-z 0-9 _ -. In other names, invalid characters are
   replaced, the end is cut off, and a hash is appended. The table maps every endpoint name back to the client's
   namespace and name.
2. The endpoint name depends only on namespace and name, unless two tools of one request collide.
3. `allowed_tools` is a hard constraint: only the tools that it names are offered, and only offered tools can be called.
4. Tools declared by input items (`additional_tools`, `tool_search_output`) are offered like those in `tools`. A tool
   that is declared repeatedly is one tool; its last definition counts. The number of declarations is bounded as well,
   and those of input items are read in steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Any, NamedTuple

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.protocols.canon import SharedTools, Tool, ToolChoice
from relayd.protocols.dialect import Refused, run_steps
from relayd.wire.json_steps import Steps
from relayd.wire.tool_list_cache import CachedList, memoised

MAX_TOOLS = 1024
MAX_TOOL_ENTRIES = 4 * MAX_TOOLS  # in the list `tools`, repetitions included
MAX_TOTAL_TOOL_ENTRIES = 16 * MAX_TOOLS  # in that list and the lists of all input items
SEARCH = "tool_search"  # type of the tool and its endpoint name
_CALLABLE = ("function", "custom", SEARCH)  # types that the client executes; the provider executes others
_MAX_NAME_CHARS = 64
_INVALID = lazy_regex(r"[^A-Za-z0-9_-]")
_FREE_TEXT: Mapping[str, Any] = {
    "type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"],
    "additionalProperties": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClientTool:
    """A tool as the client knows it; kind is function, custom or tool_search."""

    namespace: str | None
    name: str
    kind: str


def endpoint_name_of(namespace: str | None, name: str, salt: str = "") -> str:
    """Return the endpoint name of a tool; `salt` distinguishes tools that would collide."""
    joined = f"{namespace}__{name}" if namespace else name
    plain = _INVALID.sub("_", joined)
    if plain == joined and len(joined) <= _MAX_NAME_CHARS and not salt:
        return joined
    digest = hashlib.sha256(f"{namespace}\0{name}\0{salt}".encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{plain[: _MAX_NAME_CHARS - 11]}_{digest}"


@dataclass(slots=True)
class ToolNames:
    """Maps the tools of one request to endpoint names and back; filled while reading, then read-only."""

    _client_tools: dict[str, ClientTool] = field(default_factory=dict)
    _endpoint_names: dict[ClientTool, str] = field(default_factory=dict)
    _without_namespace: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # by name and kind

    def add(self, client_tool: ClientTool) -> str:
        """Add a tool and return its endpoint name."""
        endpoint_name = self._endpoint_names.get(client_tool)
        if endpoint_name is not None:
            return endpoint_name
        name = endpoint_name_of(client_tool.namespace, client_tool.name)
        if name in self._client_tools:
            name = endpoint_name_of(client_tool.namespace, client_tool.name, client_tool.kind)
        self._client_tools[name] = client_tool
        self._endpoint_names[client_tool] = name
        self._without_namespace.setdefault((client_tool.name, client_tool.kind), []).append(name)
        return name

    def name_in_history(self, namespace: str | None, name: str, kind: str) -> str:
        """Return the endpoint name for a call in the history; its tool need not be offered any more."""
        return self._endpoint_names.get(ClientTool(namespace, name, kind)) or endpoint_name_of(namespace, name)

    def declared_in(self, entries: list[Any]) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the endpoint names of the tools in a list that was read, each with its description if it has one."""
        for entry in entries:
            namespace = entry["name"] if entry["type"] == "namespace" else None
            for tool in (entry,) if namespace is None else entry["tools"]:
                kind = tool["type"]
                name = SEARCH if kind == SEARCH else tool.get("name")
                if kind not in _CALLABLE:
                    continue
                endpoint_name = self._endpoint_names.get(ClientTool(namespace, name, kind))
                if endpoint_name is not None:
                    description = tool.get("description")
                    yield endpoint_name, {"description": description} if description else {}

    def client_tool(self, name: str) -> ClientTool | None:
        """Return the client's tool with this endpoint name."""
        return self._client_tools.get(name)

    def find(self, namespace: str | None, name: str, kind: str) -> str | None:
        """Return the endpoint name of a declared tool. The namespace may be omitted if the name is unique."""
        exact = self._endpoint_names.get(ClientTool(namespace, name, kind))
        if exact is not None or namespace:
            return exact
        candidates = self._without_namespace.get((name, kind), ())
        return candidates[0] if len(candidates) == 1 else None


@dataclass(frozen=True, slots=True)
class ToolConfig:
    """The tools and the tool choice for the endpoint, and their `echo` for the client.

    `allowed` holds the endpoint names of the only tools that may be called; None means no limit.
    """

    tools: tuple[Tool, ...]
    choice: ToolChoice | None
    names: ToolNames
    allowed: frozenset[str] | None
    echo: CachedList
    echo_choice: Any


def read_tool_config(body: Mapping[str, Any], item_lists: Iterable[tuple[str, list[Any]]] = ()) -> ToolConfig:
    """Read the tools and the tool choice of a request. Raises Refused.

    `item_lists` are the lists of tools in input items, each with its path.
    """
    return run_steps(tool_config_steps(body, item_lists))


def tool_config_steps(body: Mapping[str, Any], item_lists: Iterable[tuple[str, list[Any]]] = ()) -> Steps[ToolConfig]:
    """Read the tools in steps; see read_tool_config."""
    entries = _json.optional(body, "tools", "a list") or []
    if len(entries) > MAX_TOOLS:
        raise Refused(f"At most {MAX_TOOLS} tools can be offered, but the request has {len(entries)}.", "tools")
    tool_list = memoised(entries, "openai_responses", _read_list)
    names, tools = tool_list.names, tool_list.tools
    if lists := tuple(item_lists):
        reader = _ToolReader()
        for at, inner in (("tools", entries), *lists):
            yield from reader.read(inner, at, MAX_TOOL_ENTRIES if at == "tools" else MAX_TOTAL_TOOL_ENTRIES)
        names, tools = reader.names, tuple(reader.tools.values())
    choice, allowed = _read_choice(body.get("tool_choice"), names)
    if allowed is not None:
        tools = tuple(tool for tool in tools if tool.name in allowed)
    if not tools:
        if choice is not None and choice.mode in ("required", "named"):
            raise Refused("tool_choice requires a call, but the request has no callable tool.", "tool_choice")
        choice = None
    return ToolConfig(tools, choice, names, allowed, tool_list.echo, _echo_choice(body.get("tool_choice")))


class _ToolList(NamedTuple):
    """The result of reading a list of tools; it depends on the list only, so that it can be cached."""

    tools: tuple[Tool, ...]
    names: ToolNames
    echo: CachedList


def _read_list(entries: list[Any]) -> _ToolList:
    reader = _ToolReader()
    run_steps(reader.read(entries, "tools", MAX_TOOL_ENTRIES))
    echo = CachedList([_echo(entry) if entry["type"] == "function" else entry for entry in entries])
    return _ToolList(SharedTools(reader.tools.values()), reader.names, echo)


class _ToolReader:
    """Reads one or more lists of tools; owned by the reading of one request."""

    def __init__(self) -> None:
        self.names = ToolNames()
        self.tools: dict[str, Tool] = {}
        self._entry_count = self._max_entries = 0

    def read(self, entries: list[Any], at: str, max_entries: int) -> Steps[None]:
        """Read a list in steps; `at` is its path.

        Raises Refused, also if the reader has read more than `max_entries` tools in total.
        """
        self._max_entries = max_entries
        for number, entry in enumerate(entries):
            yield
            path = f"{at}[{number}]"
            self._count_entry(path)
            _json.checked(entry, "an object", path)
            if _json.required(entry, "type", "a string", path + ".") != "namespace":
                self._add_tool(entry, path + ".", None)
                continue
            namespace = _json.required(entry, "name", "a string", path + ".")
            for inner_number, inner in enumerate(_json.required(entry, "tools", "a list", path + ".")):
                yield
                inner_path = f"{path}.tools[{inner_number}]"
                self._count_entry(inner_path)
                self._add_tool(_json.checked(inner, "an object", inner_path), inner_path + ".", namespace)

    def _count_entry(self, at: str) -> None:
        self._entry_count += 1
        if self._entry_count > self._max_entries:
            message = f"The request has more than {self._max_entries} tools, repetitions included."
            raise Refused(message, at, "array_too_long")

    def _add_tool(self, entry: Mapping[str, Any], at: str, namespace: str | None) -> None:
        """Add a tool that the client executes. Hosted tools, which a provider would execute, are left out."""
        kind = _json.required(entry, "type", "a string", at)
        if kind == "namespace":
            raise Refused("A namespace cannot contain another namespace.", at + "type")
        if kind not in _CALLABLE or (kind == SEARCH and entry.get("execution") != "client"):
            return
        name = SEARCH if kind == SEARCH else _json.required(entry, "name", "a string", at)
        if not name:
            raise Refused("A tool needs a name.", at + "name")
        endpoint_name = self.names.add(ClientTool(namespace, name, kind))
        description = _json.optional(entry, "description", "a string", at)
        if kind == "custom":
            grammar = _json.optional(entry, "format", "an object", at)
            self.tools[endpoint_name] = Tool(endpoint_name, description, _FREE_TEXT, kind="custom", grammar=grammar)
        else:
            parameters = _json.optional(entry, "parameters", "an object", at)
            strict = _json.optional(entry, "strict", "a boolean", at)
            self.tools[endpoint_name] = Tool(endpoint_name, description, parameters, strict)
        if len(self.tools) > MAX_TOOLS:
            raise Refused(f"At most {MAX_TOOLS} tools can be offered, including those in namespaces.", at[:-1])


def _read_choice(value: Any, names: ToolNames) -> tuple[ToolChoice | None, frozenset[str] | None]:
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
        return ToolChoice("named", _chosen_tool(value, "tool_choice", names)), None
    if kind != "allowed_tools":
        raise Refused(f"tool_choice requires the hosted tool '{kind[:64]}', which is not available.", "tool_choice")
    mode = _json.optional(value, "mode", "a string", "tool_choice.") or "auto"
    if mode not in ("auto", "required", "none"):
        raise Refused("tool_choice.mode must be auto, required or none.", "tool_choice.mode")
    allowed = set()
    for number, entry in enumerate(_json.required(value, "tools", "a list", "tool_choice.")):
        at = f"tool_choice.tools[{number}]"
        _json.checked(entry, "an object", at)
        if _json.required(entry, "type", "a string", at + ".") in _CALLABLE:
            allowed.add(_chosen_tool(entry, at, names))
    return ToolChoice(mode), frozenset(allowed)


def _chosen_tool(entry: Mapping[str, Any], at: str, names: ToolNames) -> str:
    is_search = entry["type"] == SEARCH
    name = SEARCH if is_search else _json.required(entry, "name", "a string", at + ".")
    namespace = _json.optional(entry, "namespace", "a string", at + ".")
    endpoint_name = names.find(namespace, name, entry["type"])
    if endpoint_name is None:
        raise Refused(f"{at} names the tool '{name[:128]}', which is not among the tools.", at)
    return endpoint_name


def _echo(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"description": None, "parameters": None, "strict": None, **entry}


def _echo_choice(value: Any) -> Any:
    if value is None:
        return "auto"
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        return {"mode": "auto", **value}
    return value
