"""What back-ends are asked and what they say, apart from any dialect; `small_model` is the model behind most tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """A call of a tool; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str

    @property
    def values(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.arguments)
        return found


@dataclass(frozen=True)
class Asked:
    """A request as a back-end has read it. `said` are the texts of user and assistant, `results` those of tools."""

    model: str
    stream: bool
    system: str
    said: tuple[tuple[str, str], ...]
    results: tuple[tuple[str, str], ...]
    tools: tuple[str, ...]
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def prompt(self) -> str:
        """The last words of the user."""
        return next((text for role, text in reversed(self.said) if role == "user"), "")


@dataclass(frozen=True)
class Say:
    """An answer. `pieces` are the deltas of its text; `usage` is input, output and cached tokens.

    `breaks` is what becomes of its stream after `frames` frames: cut (reset), ended (a clean end without the dialect's
    last frame), error (an error in the stream), hangs (nothing more until the other side leaves). `gate` is waited for
    before the first frame of content is sent, `gate_after` frames have gone out by then.
    """

    pieces: tuple[str, ...] = ()
    thought: str = ""
    calls: tuple[Call, ...] = ()
    finish: str = ""
    stop: str = ""  # the stop string that was met, where the dialect tells it
    usage: tuple[int, int, int] = (11, 7, 3)
    breaks: str = ""
    frames: int = 2
    gate: threading.Event | None = None
    gate_after: int = 0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def reason(self) -> str:
        """In the words of Chat."""
        return self.finish or ("tool_calls" if self.calls else "stop")


@dataclass(frozen=True)
class Fail:
    """An answer of status 4xx or 5xx in the back-end's own dialect; or `body` of `content_type`, under any status."""

    status: int
    message: str = "The flux is not aligned."
    code: str = ""
    fields: tuple[bytes, ...] = ()
    body: bytes | None = None
    content_type: str = "text/html"


Reply = Say | Fail
Brain = Callable[[Asked], Reply]


def always(reply: Reply) -> Brain:
    """A model that gives one reply to everything."""
    return lambda asked: reply


LOOK_UP = {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False,
}  # fmt: skip


def small_model(asked: Asked) -> Reply:
    """Calls the first tool there is, twice at once, tells what came back, and else repeats what it was asked."""
    if asked.results:
        return Say(("It is ", " and ".join(text for _, text in asked.results), "."), usage=(40, 12, 20))
    if asked.tools:
        calls = tuple(Call(f"call_{number}00000", asked.tools[0], json.dumps({"city": city}, ensure_ascii=False))
                      for number, city in enumerate(("Köln", "Bern")))  # fmt: skip
        return Say(("Let me", " see."), thought="Two cities.", calls=calls)
    return Say(("You", " said: ", asked.prompt, " 🌧"))


@dataclass
class Heard:
    """What a client has read. `failed` is the message of an error inside the stream, or behind a status."""

    text: str = ""
    thought: str = ""
    calls: list[Call] = field(default_factory=list)
    finish: str = ""
    usage: tuple[int, int] | None = None
    failed: str = ""
    whole: bool = False
    answer: dict[str, Any] = field(default_factory=dict)
