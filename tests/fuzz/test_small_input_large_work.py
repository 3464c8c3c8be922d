"""Small input, large work: every reader and writer of every dialect, with documents that grow at places chosen by chance.

Laws that are searched for a counterexample:
1. Eight times the input costs less than twenty-three times the processor time: linear work costs 8 times, quadratic 64.
2. No input costs many times what an ordinary input of its size costs, and none is written many times as long.
3. Memory in use at its highest is bounded by the input's size as well.
4. No step takes long: others wait for the longest one (tests/aids/steps.py).
What a consumer has in the store (thoughts, signatures, responses) is read and sent once, however often it is named.
"""

from __future__ import annotations

import gc
import json
import random
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import pytest

from relayd.protocols._json import read_object
from relayd.protocols.canon import Begin, End, Event, Finish, Request, TextDelta
from relayd.protocols.dialect import Dialect, Options, Refused, RequestContext
from relayd.protocols.include_usage import UsageChunkFilter
from relayd.protocols.tap import Tap
from relayd.wire.body import PARSED_BYTES, inspect_json
from relayd.wire.json_steps import Steps, parse_text_steps, write_ascii_steps
from tests.aids.steps import unit_s
from tests.docs.pairs import NEWEST, backs, fronts, members_of
from tests.docs.samples import REQUESTS
from tests.fuzz.growing import Growing, Growth, growing, places
from tests.fuzz.oracles import FUZZ_SECONDS
from tests.unit.protocols import transcripts

T = TypeVar("T")
SIZES = (4 * 1024, 32 * 1024, 256 * 1024)  # of requests, in bytes; bounds may refuse the larger ones
ANSWER_SIZES = tuple(4 * size for size in SIZES)
MOST_UNITS = 24  # of the time for one piece of JSON (tests/aids/steps.py), that a step may take
EXPONENT = 1.5  # half-way between linear and quadratic
LEAST_S = 0.004  # of the work on a smaller input; below this it is the clock that is measured
MOST_TIMES_ORDINARY = 30  # the processor time of an ordinary input of the same size
MOST_OUTPUT, MOST_MEMORY = 24, 160  # bytes for each byte of the input
STORED = 256 * 1024  # bytes of each thing that the consumer has in the store
ALLOWED = 6 * STORED  # bytes that an input of any size may take beside, in output or memory
ALLOWED_S = 0.05  # and processor time: what is stored is read once
MODELS = {"gemini": ("gemini-3-flash", "gemini-2.0-flash")}


class Kept:
    """A Memory as the stores are: it keeps texts, which each `get` reads anew."""

    must_fetch = False

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def copy(self) -> Kept:
        """Another one with the same texts."""
        copied = Kept()
        copied._texts = dict(self._texts)
        return copied

    def get(self, key: str) -> Any:
        text = self._texts.get(key)
        return None if text is None else json.loads(text)

    def get_steps(self, key: str) -> Steps[Any]:
        text = self._texts.get(key)
        return None if text is None else (yield from parse_text_steps(text))

    def fetch_steps(self, keys: Iterable[str]) -> Steps[None]:
        yield

    def put(self, key: str, value: Any) -> None:
        self._texts[key] = json.dumps(value)

    def put_steps(self, key: str, value: Any) -> Steps[None]:
        self._texts[key] = yield from write_ascii_steps(value)

    def delete(self, key: str) -> bool:
        return self._texts.pop(key, None) is not None

    def lost(self, key: str) -> str:
        return ""


class Cost(NamedTuple):
    """What one piece of work took and gave."""

    seconds: float
    output: int
    longest_s: float  # of the steps


class Work(NamedTuple):
    """A piece of work: what it is called, and what it does with a document; the result is the length of its output."""

    name: str
    run: Callable[[Any], int]
    ordinary: Any  # a document of the large size as they usually are


class Longest:
    """The longest step since `seconds` was set to zero."""

    seconds = 0.0


def stepped(steps: Steps[T]) -> T:
    """The result of some steps, each of them measured."""
    while True:
        begun = time.thread_time()
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            Longest.seconds = max(Longest.seconds, time.thread_time() - begun)


def in_one_step(work: Callable[[], T]) -> T:
    """The result of work that is done at once."""
    begun = time.thread_time()
    try:
        return work()
    finally:
        Longest.seconds = max(Longest.seconds, time.thread_time() - begun)


def cost(work: Work, document: Any) -> Cost:
    gc.collect()
    gc.disable()
    try:
        Longest.seconds = 0.0
        begun = time.thread_time()
        output = work.run(document)
        return Cost(time.thread_time() - begun, output, Longest.seconds)
    finally:
        gc.enable()


def least(work: Work, document: Any, tries: int) -> Cost:
    """The best of some runs: another process makes a run slower, and none makes it quicker."""
    found = [cost(work, document) for _ in range(tries)]
    quickest = min(found, key=lambda one: one.seconds)
    return quickest._replace(longest_s=min(one.longest_s for one in found))


def highest_memory(work: Work, document: Any) -> int:
    tracemalloc.start()
    try:
        work.run(document)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


_ORDINARY: dict[str, float] = {}


def faults(work: Work, one: Growing, as_bytes: Callable[[Any], bytes], with_memory: bool) -> Iterator[str]:
    """What this growth shows of this work that it should not."""
    sizes = SIZES if as_bytes is written else ANSWER_SIZES
    if work.name not in _ORDINARY:
        _ORDINARY[work.name] = least(work, work.ordinary, 3).seconds / len(work.ordinary)
    before: tuple[bytes, float] | None = None
    for size in sizes:
        data = as_bytes(one.at(one.count_for(size)))
        most_s = MOST_TIMES_ORDINARY * _ORDINARY[work.name] * len(data) + ALLOWED_S
        if before is not None:
            most_s = min(most_s, max(before[1], LEAST_S) * max(1.0, len(data) / len(before[0])) ** EXPONENT)
        found = cost(work, data)
        if found.seconds > most_s and (found := least(work, data, 4)).seconds > most_s:
            again = 0.0 if before is None else least(work, before[0], 4).seconds
            yield f"{found.seconds:.4f} s for {len(data)} bytes, {again:.4f} s before; at most {most_s:.4f} s"
        if found.longest_s > MOST_UNITS * unit_s() and (longest_s := least(work, data, 4).longest_s) > MOST_UNITS * unit_s():
            yield f"a step of {longest_s:.4f} s for {len(data)} bytes"
        if found.output > MOST_OUTPUT * len(data) + ALLOWED:
            yield f"{found.output} bytes from {len(data)}"
        if with_memory and (memory := highest_memory(work, data)) > MOST_MEMORY * len(data) + 2 * ALLOWED:
            yield f"{memory} bytes of memory for {len(data)}"
        before = data, found.seconds


# ---- requests

SCHEMA = {
    "type": "object", "$ref": "#/$defs/Filter", "required": ["a"], "properties": {"a": {"type": ["string", "null"]}},
    "$defs": {"Filter": {"type": "object", "encrypted": True, "properties": {
        "and": {"type": "array", "items": {"$ref": "#/$defs/Filter"}}, "not": {"anyOf": [{"$ref": "#/$defs/Filter"}, {"type": "null"}]},
        "one": {"oneOf": [{"$ref": "#/$defs/Other"}, {"const": 1}]}, "kind": {"enum": ["a", "b"]},
    }}, "Other": {"allOf": [{"$ref": "#/$defs/Filter"}, {"minLength": 1}], "additionalProperties": {"type": "string"}}},
}  # fmt: skip
FUNCTION = {"name": "look_up", "description": "Finds.", "parameters": SCHEMA}
NAMESPACE = {"type": "namespace", "name": "files", "tools": [{"type": "function", **FUNCTION}, {"type": "custom", "name": "patch"}]}
RICH: dict[str, tuple[dict[str, Any], ...]] = {
    "openai_chat": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": SCHEMA}}},
        {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "auto", "tools": [{"type": "function", "function": {"name": "look_up"}}]}}},
        {"functions": [FUNCTION], "messages": [
            {"role": "user", "content": ["Well?", {"type": "text", "text": "So?"}]},
            {"role": "assistant", "content": None, "function_call": {"name": "look_up", "arguments": "{}"}},
            {"role": "function", "name": "look_up", "content": "[]"}]},
    ),
    "openai_responses": (
        {"text": {"format": {"type": "json_schema", "name": "f", "schema": SCHEMA}}},
        {"tools": [NAMESPACE], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look_up"}]}},
        {"tools": [{"type": "tool_search", "execution": "client", "parameters": SCHEMA}], "input": [
            {"type": "additional_tools", "role": "developer", "tools": [NAMESPACE]},
            {"type": "agent_message", "author": "a", "recipient": "b", "content": [{"type": "input_text", "text": "Go."}]},
            {"type": "tool_search_call", "execution": "client", "call_id": "call_s1", "arguments": {"query": "files"}},
            {"type": "tool_search_output", "execution": "client", "call_id": "call_s1", "tools": [NAMESPACE]},
            {"type": "ghost_snapshot", "text": ["x"]}, {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
            {"role": "user", "content": "Well?"}]},
        {"input": [{"type": "item_reference", "id": "msg_stored"}, {"id": "fc_stored"}, {"role": "user", "content": "Well?"}]},
        {"previous_response_id": "resp_stored"},
    ),
    "anthropic_messages": (
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"tools": [{"name": "look_up", "input_schema": SCHEMA}], "system": [{"type": "text", "text": "Be terse."}], "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Well?"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "call_a7", "name": "look_up", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_a7", "content": [{"type": "text", "text": "x"}]}]}]},
    ),
}  # fmt: skip


def stored() -> Kept:
    """What a consumer may have: large thoughts, signatures and responses of earlier turns, under the ids of the seeds."""
    memory = Kept()
    thought = [{"text": "", "signature": "s" * STORED, "redacted": None}]
    for call_id in ("call_a7", "toolu_01A", "call_s1"):
        memory.put(f"anthropic_messages/thoughts/{call_id}", thought)
        memory.put(f"thought_signature:{call_id}", "s" * STORED)
        memory.put(f"openai_chat/reasoning_details/{call_id}", [{"type": "reasoning.encrypted", "data": "s" * STORED}])
    words = {"type": "message", "id": "msg_stored", "role": "assistant", "content": [{"type": "output_text", "text": "x" * STORED}]}
    call = {"type": "function_call", "id": "fc_stored", "call_id": "call_z", "name": "f", "arguments": "{}"}
    memory.put("response:resp_stored", {"response": {"id": "resp_stored", "output": [words, call]}, "items": [words, call]})
    for item in (words, call):
        memory.put(f"response_item:{item['id']}", "resp_stored")
    return memory


def asked(front: Dialect, path: str, memory: Any) -> RequestContext:
    return RequestContext("POST", f"/v1{path}", "", {}, "req-1", memory, seal_key=b"only for tests, of course")


def request_of(front: Dialect, body: bytes, memory: Any) -> Request:
    assert front.read_steps is not None
    members = read_object(body)
    for name, most in front.max_items.items():
        if isinstance(members.get(name), list) and len(members[name]) > most:
            raise Refused("too many")
    return stepped(front.read_steps(members, asked(front, front.paths[0], memory)))


def translating(front: Dialect, back: Dialect, model: str) -> Work:
    """A request of a client, as an endpoint gets it."""
    memory = stored()

    def run(body: bytes) -> int:
        assert back.write_steps is not None
        try:
            request = request_of(front, body, memory)
            large = replace(request, model=model, large=request.large or len(body) > PARSED_BYTES)
            sending = stepped(back.write_steps(large, Options(reasoning_history="reasoning_content"), memory))
        except Refused as refused:
            return len(refused.message)
        return len(sending.path) + len(sending.body)

    return Work(f"{front.name} to {back.name} {model}", run, ordinary_request(front))


def counting(front: Dialect) -> Work:
    """What is answered without an endpoint: counts of tokens."""
    memory = stored()

    def run(body: bytes) -> int:
        assert front.local is not None
        found = front.local(asked(front, front.paths[0] + ("/count_tokens" if front.local_steps else "/input_tokens"), memory), body)
        return 0 if found is None else len(found.body)

    return Work(f"{front.name} counted", run, ordinary_request(front))


def storing(is_socket: bool) -> Work:
    """A conversation of Responses that is stored, returned, listed, continued and deleted; on a WebSocket as well."""
    front = next(one for one in fronts() if one.name == "openai_responses")
    before = stored()

    def run(body: bytes) -> int:
        assert front.renderer is not None and front.stored_steps is not None and front.read_steps is not None
        memory, output = before.copy(), 0
        socket = Kept() if is_socket else None

        def context(path: str = "", method: str = "POST") -> RequestContext:
            large_bytes = len(body) if len(body) > PARSED_BYTES else 0
            return replace(asked(front, front.paths[0] + path, memory), method=method, socket=socket, large_bytes=large_bytes)

        try:
            members = read_object(body)
            if isinstance(members.get("input"), list) and len(members["input"]) > front.max_items["input"]:
                return 0
            if is_socket:
                assert front.websocket is not None
                output += len(front.websocket.read_message(inspect_json(body), "m"))
            request = stepped(front.read_steps({**members, "store": True}, context()))
            renderer = front.renderer(request, context())
            written = in_one_step(lambda: renderer.render([Begin(), TextDelta("Hello"), Finish("stop"), End()]))
            while renderer.has_more:
                written += in_one_step(lambda: renderer.render([]))
            response = stepped(renderer.response_steps()).body
            identity = json.loads(response)["id"] if response.startswith(b'{"id"') else "resp_unknown"
            output += len(written) + len(response)
            stepped(front.read_steps({"model": "m", "input": "go on", "previous_response_id": identity}, context()))
            for path, method in (("", "GET"), ("/input_items", "GET"), ("", "DELETE")):
                steps = front.stored_steps(context(f"/{identity}{path}", method))
                assert steps is not None
                output += len(stepped(steps).body)
        except Refused as refused:
            return output + len(refused.message)
        return output

    return Work(f"stored{' and on a socket' if is_socket else ''}", run, ordinary_request(front))


def ordinary_request(front: Dialect) -> bytes:
    members = members_of(front, {})
    return grow_to(Growing("", members, _turns_of(members)), SIZES[-1])


def _turns_of(members: dict[str, Any]) -> tuple[Growth, ...]:
    return tuple(Growth((name,), "repeated") for name, value in members.items() if isinstance(value, list)) or (
        Growth(("queryResult", "queryText"), "longer"),
    )


def grow_to(one: Growing, size: int) -> bytes:
    return written(one.at(one.count_for(size)))


def written(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def request_seeds(front: Dialect) -> list[tuple[str, dict[str, Any]]]:
    known = "openai_chat" if front.name == "simple_chat" else front.name
    seeds = [(sample.what, members_of(front, sample.asked[known])) for sample in REQUESTS if known in sample.asked]
    seeds += [(f"rich {number}", members_of(front, members)) for number, members in enumerate(RICH.get(known, ()))]
    seeds += [(one.name, json.loads(one.data)) for one in transcripts.REQUESTS if one.dialect == front.name]
    # Long ones have more places, and are worth more of the time.
    return [one for one in seeds for _ in range(1 + len(written(one[1])) // 256)] or [("plain", members_of(front, {}))]


def request_works() -> list[tuple[Dialect, Work]]:
    found = []
    for front in fronts():
        for back in backs():
            for model in MODELS.get(back.name, ("m",)):
                found.append((front, translating(front, back, model)))
        if front.local is not None and front.name in ("openai_responses", "anthropic_messages"):
            found.append((front, counting(front)))
        if front.name == "openai_responses":
            found += [(front, storing(is_socket)) for is_socket in (False, True) for _ in range(3)]
    return found


# ---- answers


def frames_of(one: transcripts.Transcript) -> Any:
    """The values of an answer: those of its frames or lines, or its body."""
    if one.kind == "json":
        return json.loads(one.data)
    if one.kind == "ndjson":
        return [json.loads(line) for line in one.data.splitlines() if line.strip()]
    found = []
    for line in one.data.splitlines():
        text = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:"):
            found.append(text.decode() if text == b"[DONE]" else json.loads(text))
    return found


def answer_bytes(kind: str) -> Callable[[Any], bytes]:
    """How an endpoint writes such values."""

    def frame(value: Any) -> bytes:
        if kind == "ndjson":
            return written(value) + b"\n"
        name = b"event: %b\n" % value["type"].encode() if isinstance(value, dict) and isinstance(value.get("type"), str) else b""
        return name.replace(b"\n\n", b"\n") + b"data: " + (value.encode() if isinstance(value, str) else written(value)) + b"\n\n"

    return written if kind == "json" else lambda frames: b"".join(map(frame, frames))


def rendering(back: Dialect, front: Dialect, kind: str, stream: bool, ordinary: bytes) -> Work:
    """An endpoint's answer, as a client gets it."""
    body = written(members_of(front, {"stream": stream}))

    def run(data: bytes) -> int:
        assert back.reader is not None and front.renderer is not None
        memory = Kept()
        request = replace(request_of(front, body, memory), stream=kind != "json")
        reader = back.reader(replace(request, model=NEWEST.get(back.name, "m")), Options(), memory)
        renderer = front.renderer(replace(request, stream=stream), asked(front, front.paths[0], memory))
        output = 0

        def rendered(events: list[Event]) -> int:
            size = len(in_one_step(lambda: renderer.render(events)))
            while renderer.has_more:
                size += len(in_one_step(lambda: renderer.render([])))
            return size

        def decoded(piece: bytes) -> list[Event]:
            return in_one_step(lambda: reader.decode(piece))

        for at in range(0, len(data), 4096):
            output += rendered(decoded(data[at : at + 4096]))
            while reader.has_more:
                output += rendered(decoded(b""))
        output += rendered(in_one_step(reader.begin_finish))
        while reader.has_more:
            output += rendered(decoded(b""))
        return output + len(stepped(renderer.response_steps()).body)

    return Work(f"{back.name} {kind} to {front.name} {'stream' if stream else 'plain'}", run, ordinary)


def passing(back: Dialect, kind: str, ordinary: bytes) -> Work:
    """An answer that passes: what a tap reads of it, and what takes the usage out."""

    def run(data: bytes) -> int:
        assert back.tap is not None
        tap, remover, output = Tap(back.tap), UsageChunkFilter(), 0
        for at in range(0, len(data), 4096):
            tap.observe(data[at : at + 4096])
            output += len(remover.filter(data[at : at + 4096]))
        tap.observed  # noqa: B018 - it is read when it is asked for
        return output + len(remover.flush())

    return Work(f"{back.name} {kind} passing", run, ordinary)


def failing(back: Dialect, ordinary: bytes) -> Work:
    """An answer with a status that is an error."""
    return Work(f"{back.name} error", lambda data: len(repr(back.read_error(500, {"content-type": "text/plain"}, data))), ordinary)


def answer_works() -> list[tuple[transcripts.Transcript, Work]]:
    found: list[tuple[transcripts.Transcript, Work]] = []
    by_kind: dict[tuple[str, str], bytes] = {}
    for one in transcripts.ANSWERS:
        back = next(it for it in backs() if it.name == one.dialect)
        as_bytes = answer_bytes(one.kind)
        if (one.dialect, one.kind) not in by_kind:
            grown = Growing("", frames_of(one), (_in_the_middle(frames_of(one)),))
            by_kind[one.dialect, one.kind] = as_bytes(grown.at(grown.count_for(ANSWER_SIZES[-1])))
        ordinary = by_kind[one.dialect, one.kind]
        for front in fronts():
            found += [(one, rendering(back, front, one.kind, stream, ordinary)) for stream in (False, True)]
        found += [(one, passing(back, one.kind, ordinary)), (one, failing(back, ordinary))]
    return found


def _in_the_middle(value: Any) -> Growth:
    """Growth of an answer as answers grow: more frames, or a longer text."""
    if isinstance(value, list):
        return Growth((), "entry", entry=len(value) // 2)
    path, _ = max((one for one in places(value) if isinstance(one[1], str)), key=lambda one: len(one[1]))
    return Growth(path, "longer")


# ---- searching


def search(seconds: float, seed: int) -> list[str]:
    """Counterexamples that are found within this time, each with how to make it again."""
    rng = random.Random(seed)
    requests, answers = request_works(), answer_works()
    found: list[str] = []
    deadline = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < deadline:
        tried += 1
        if rng.random() < 0.6:
            front, work = rng.choice(requests)
            name, document = rng.choice(request_seeds(front))
            as_bytes: Callable[[Any], bytes] = written
        else:
            one, work = rng.choice(answers)
            name, document, as_bytes = one.name, frames_of(one), answer_bytes(one.kind)
        mutant = growing(rng, name, document)
        found += [f"{work.name}: {name}, {mutant.growths}: {fault}" for fault in faults(work, mutant, as_bytes, tried % 4 == 0)]
    assert tried, "one document takes all the time"
    return found


@pytest.mark.fuzz
def test_no_small_input_is_large_work() -> None:
    found = search(FUZZ_SECONDS, 20261129)
    assert not found, "\n".join(found)
