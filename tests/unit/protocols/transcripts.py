"""Golden files: what clients ask and endpoints answer, and what each other dialect makes of it.

    golden/requests/DIALECT/NAME.json      what a client sent           golden/sent/DIALECT-NAME.txt
    golden/answers/DIALECT/NAME.KIND       what an endpoint answered    golden/rendered/DIALECT-NAME.txt

`python3 -m tests.unit.protocols.transcripts --write` writes sent/ and rendered/ anew; read the difference before you
commit it. KIND is sse, ndjson or json; ids and times that are made here stand as `#1`, `#2`, ... in the order of their
first appearance.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import re
import sys
from dataclasses import dataclass, replace

from relayd.protocols.canon import Event, Message, ReasoningDelta, Request, Text, TextDelta, ToolDelta
from relayd.protocols.dialect import Dialect, Options, Refused
from tests.aids.memories import Forgetful
from tests.docs import pairs as _pairs

FOLDER = pathlib.Path(__file__).parent / "golden"
_MINTED = re.compile(r"\b(chatcmpl|chat|resp|msg|fc|ctc|rs|call|toolu)([-_])[0-9a-f]{24,}\b")
_TIMES = re.compile(r'("(?:created|created_at|completed_at)": ?)[0-9]{10}\b')
_PROOF = re.compile(r"relayd-thought-1\.[A-Za-z0-9_=-]+")


@dataclass(frozen=True, slots=True)
class Transcript:
    """One file below requests/ or answers/."""

    dialect: str
    name: str
    kind: str
    data: bytes

    @property
    def golden(self) -> pathlib.Path:
        """Where is kept what it becomes."""
        return FOLDER / ("sent" if self in REQUESTS else "rendered") / f"{self.dialect}-{self.name}.txt"


def _found(folder: str) -> tuple[Transcript, ...]:
    paths = sorted(path for path in (FOLDER / folder).glob("*/*.*") if path.is_file())
    return tuple(Transcript(path.parent.name, path.stem, path.suffix[1:], path.read_bytes()) for path in paths)


REQUESTS, ANSWERS = _found("requests"), _found("answers")


def named(text: str) -> str:
    """The text with minted ids numbered and times left out."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], f"{match[1]}{match[2]}#{len(numbers) + 1}")

    return _PROOF.sub("relayd-thought-1.#", _TIMES.sub(r"\1#", _MINTED.sub(number, text)))


# ---- requests


def sent(transcript: Transcript) -> str:
    """What each endpoint's dialect makes of a client's request."""
    front = next(one for one in _pairs.fronts() if one.name == transcript.dialect)
    made = []
    for back in _pairs.backs():
        made.append(f"== {back.name}\n")
        try:
            going = _pairs.send_body(front, back, transcript.data, Options())
        except Refused as refused:
            made.append(f"refused {refused.status} {refused.param}: {refused.message}\n")
            continue
        made.append(f"POST {going.path}\n" + "".join(f"{name}: {value}\n" for name, value in going.headers))
        made.append(json.dumps(json.loads(going.body), ensure_ascii=False, indent=1) + "\n")
    return named("".join(made))


# ---- answers


def events_of(transcript: Transcript, cuts: list[int] | None = None) -> list[Event]:
    """The events of an answer that comes cut at these places."""
    back = next(one for one in _pairs.backs() if one.name == transcript.dialect)
    assert back.reader is not None
    request = Request(_pairs.NEWEST.get(back.name, "m"), (Message("user", (Text("hi"),)),))
    reader = back.reader(replace(request, stream=transcript.kind != "json"), Options(), Forgetful())
    events: list[Event] = []
    for start, stop in itertools.pairwise([0, *(cuts or ()), len(transcript.data)]):
        events += reader.decode(transcript.data[start:stop])
    return events + reader.finish()


def joined(events: list[Event]) -> list[Event]:
    """The events with neighbouring pieces of one kind and place joined."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if (isinstance(event, TextDelta) and isinstance(last, TextDelta) and event.choice == last.choice) or (isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta) and not last.signature and not event.signature):
            found[-1] = replace(last, text=last.text + event.text)
        elif isinstance(event, ToolDelta) and isinstance(last, ToolDelta) and event.index == last.index:
            found[-1] = replace(last, arguments=last.arguments + event.arguments)
        else:
            found.append(event)
    return found


def rendering(front: Dialect, events: list[Event], stream: bool, one_by_one: bool = False) -> str:
    """What a client of this dialect gets."""
    assert front.read_request is not None and front.renderer is not None
    context = _pairs.ask_in(front)
    asked = {"stream": stream, **({"stream_options": {"include_usage": True}} if front.name == "openai_chat" else {})}
    request = front.read_request(json.dumps(_pairs.members_of(front, asked)).encode(), context)
    renderer = front.renderer(request, context)
    renderer.set_upstream_name("upstream-1")
    out = b"".join(renderer.render([event]) for event in events) if one_by_one else renderer.render(events)
    if request.stream:
        return out.decode()
    whole = renderer.response()
    return f"{whole.status}\n{json.dumps(json.loads(whole.body), ensure_ascii=False, indent=1)}\n"


def rendered(transcript: Transcript) -> str:
    """What each client's dialect makes of an endpoint's answer, in the form in which it came."""
    stream = transcript.kind != "json"
    made = []
    for front in _pairs.fronts():
        if stream and front.name in ("simple_chat", "dialogflow"):
            continue  # they have no streams
        made.append(f"== {front.name}\n{rendering(front, events_of(transcript), stream)}")
    return named("".join(made))


def becomes(transcript: Transcript) -> str:
    """The golden text of a transcript."""
    return sent(transcript) if transcript in REQUESTS else rendered(transcript)


if __name__ == "__main__":
    for one in REQUESTS + ANSWERS:
        text = becomes(one)
        if not one.golden.exists() or one.golden.read_bytes() != text.encode():
            if "--write" in sys.argv[1:]:
                one.golden.parent.mkdir(exist_ok=True)
                one.golden.write_bytes(text.encode())
            sys.stdout.write(f"{'written' if '--write' in sys.argv[1:] else 'differs'}: {one.golden.name}\n")
