"""A model that does what suites ask of one: obeys words, calls the right tools with typed arguments, keeps to schemas.

It knows nothing; where a suite wants knowledge, the test does not look at that part of the suite's verdict.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.functional.harness.dialects.said import Asked, Call, Reply, Say

SAY = re.compile(r"(?:exactly(?:[^:\n]*)|only|word):\s*(.+)", re.DOTALL)
SUM = re.compile(r"(\d+)\s*([-+*/×])\s*(\d+)")
COUNT = re.compile(r"from (\d+) to (\d+)")
NAME = re.compile(r"\b[Mm]y name is (\w+)")
WORDS = re.compile(r"\s*\S+|\s+")
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "×": int.__mul__, "/": int.__floordiv__}


def brain(asked: Asked) -> Reply:
    """One answer, within the limit and up to the stop string, with a thought where thinking was asked for."""
    body = asked.body
    thinks = body.get("reasoning_effort", "none") != "none"
    thought = "I think about it first." if thinks else ""
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 4096
    if thinks and "step by step" in asked.prompt and limit < 100:
        return Say((), thought="I think " * limit, finish="length", usage=(20, limit, 0))
    calls = calls_of(asked)
    if calls:
        return Say((), thought=thought, calls=calls, usage=(20, 12, 0))
    text, stop = until(words_of(asked), body.get("stop"))
    pieces = WORDS.findall(text)
    finish = "length" if len(pieces) > limit and not stop else ""
    pieces = pieces[:limit]
    return Say(tuple(pieces), thought=thought, finish=finish, stop=stop, usage=(20, max(1, len(pieces)), 0))


def until(text: str, stop: Any) -> tuple[str, str]:
    """The text up to the first stop string in it, and that string."""
    found = [(text.find(word), word) for word in ([stop] if isinstance(stop, str) else stop or []) if word in text]
    return (text[: min(found)[0]], min(found)[1]) if found else (text, "")


def words_of(asked: Asked) -> str:
    prompt, form = asked.prompt, asked.body.get("response_format", {})
    if form.get("type") == "json_schema":
        return json.dumps(filled(form["json_schema"]["schema"], "", ""), ensure_ascii=False)
    if form.get("type") == "json_object":
        return '{"name": "Ada", "age": 36}'
    if asked.results:
        return "The result is " + " and ".join(text for _, text in asked.results)
    if asked.said[-1][0] == "assistant":
        return " and so on"
    if asked.system and (found := SAY.search(asked.system)) is not None:
        return found[1].strip(" .\"'")
    if (number := re.search(r"\b\d+\b", asked.system)) is not None:
        return number[0]
    if "my name" in prompt.lower() and not NAME.search(prompt):
        names = [found[1] for _, text in asked.said for found in NAME.finditer(text)]
        return names[-1] if names else "I do not know."
    if "last answer" in prompt:
        return str(int(re.findall(r"\d+", asked.said[-2][1])[-1]) + int(re.findall(r"\d+", prompt)[0]))
    if (found := SAY.search(prompt)) is not None:
        return found[1].strip()
    if (found := SUM.search(prompt)) is not None:
        return str(OPERATIONS[found[2]](int(found[1]), int(found[3])))
    if (found := COUNT.search(prompt)) is not None:
        return ", ".join(map(str, range(int(found[1]), int(found[2]) + 1)))
    return "Hello! " + "The sea is wide. " * 3 + prompt[:60]


def calls_of(asked: Asked) -> tuple[Call, ...]:
    choice = asked.body.get("tool_choice", "auto")
    if asked.results or choice == "none" or not asked.tools:
        return ()
    tools = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in asked.body["tools"]}
    prompt = asked.prompt.lower()
    wanted = [name for name in tools if any(word in prompt for word in name.lower().split("_") if len(word) > 3)]
    if isinstance(choice, dict):
        wanted = [choice["function"]["name"]]
    elif choice == "required":
        wanted = wanted or list(tools)[:1]
    if asked.body.get("parallel_tool_calls") is False:
        wanted = wanted[:1]
    return tuple(
        Call(f"call_{len(asked.said)}_{place}00", name, json.dumps(filled(tools[name], asked.prompt, ""), ensure_ascii=False))
        for place, name in enumerate(wanted)
    )


def filled(schema: dict[str, Any], prompt: str, name: str) -> Any:
    """A value that keeps to a schema, with what the prompt says where its members' names can be told."""
    if "const" in schema or schema.get("enum"):
        return schema.get("const", (schema.get("enum") or [None])[0])
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    numbers = re.findall(r"\d+", prompt)
    if kind == "object":
        required = schema.get("required", list(schema.get("properties", {})))
        return {key: filled(schema["properties"][key], prompt, key) for key in required}
    if kind == "array":
        return [filled(schema.get("items", {"type": "string"}), prompt, name)]
    if kind == "boolean":
        return True
    if kind in ("integer", "number"):
        return int(numbers[0]) if numbers else 36
    named = re.search(r"\b(?:in|at|to) ((?:[A-Z]\w+ ?)+)", prompt)
    return named[1].strip() if named else "Ada"
