"""relayd-protocols(7), made from the dialects: their docstrings, their drops, and what becomes of each sample.

`python3 -m tests.docs.protocols_page > debian/man/relayd-protocols.7` writes it anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator

from relayd import registry as modules
from relayd.protocols import registry
from relayd.protocols.dialect import Dialect, Options
from tests.docs import pairs
from tests.docs.samples import Answered, Sample

DESCRIPTION = (
    "Where a client and its upstream speak the same dialect, `relayd` passes the bytes of requests and answers on as "
    "they are; only the model's name and the key change where the configuration says so. Where they differ, a request "
    "is read into one canonical form and written in the upstream's dialect, and the answer comes back the same way, "
    "streamed or plain. The route's `protocol` says what its clients speak, the upstream's `protocol` what its "
    "endpoints speak; see `relayd.yaml`(5).",
    "What cannot be carried is either refused, with status 400 and the name of the field, or left out as this page "
    "says. An answer that ends too early reaches the client as a failure in its own dialect, never as a complete "
    "answer.",
)
LIMITS = (
    "Requests: bodies as long as the route's body limit, nested at most 64 levels deep, with at most 1024 tools.",
    "Answers: a line of a stream at most 16 MiB (Messages and Ollama 4 MiB), a plain answer at most 64 MiB with a "
    "million values; at most 1024 calls of tools and 4096 items or blocks. What of an answer is kept until its end "
    "takes at most 64 MiB, arguments from a Chat endpoint and blocks for a Messages client 16 MiB. An upstream that "
    "sends more is answered for with 502, or with the dialect's error where the stream has begun.",
)


def roff(text: str) -> str:
    """Text that roff shows as it is; `code` becomes bold."""
    for sign, shown in (("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("^", "\\(ha"), ("~", "\\(ti")):
        text = text.replace(sign, shown)
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return "\\&" + text if text.startswith(".") else text


def about(name: str) -> str:
    """The first sentence of a dialect's module."""
    return " ".join((modules.load("relayd.protocols", name).__doc__ or "").split("\n\n")[0].split())


def sides(dialect: Dialect) -> str:
    """Who may speak it, and where."""
    said = []
    if dialect.read_request is not None:
        said.append(f"Clients: {', '.join(f'`...{path}`' for path in dialect.paths)}.")
    else:
        said.append("Clients are served by pass-through only.")
    said.append("Endpoints: yes." if dialect.write_request is not None else "Endpoints: none speak it.")
    return " ".join(said)


def dialect_section(dialect: Dialect) -> Iterator[str]:
    """One dialect: what it is, who speaks it, what it cannot carry."""
    yield f".SS {roff(dialect.name)} ({roff(dialect.title)})"
    yield roff(about(dialect.name))
    yield ".PP"
    yield roff(sides(dialect))
    for text in dialect.drops:
        yield from (".IP \\(bu 2", roff(text))


def options_section() -> Iterator[str]:
    """The keys of `dialect:`, in the words of their declaration."""
    yield ".SH OPTIONS"
    yield roff("An upstream's `dialect:` says what its endpoints need or take beyond their dialect.")
    # The docstring says `name, name: what it means.` in sentences; each begins an entry.
    said = " ".join((inspect.getdoc(Options) or "").split())
    word = "|".join(one.name for one in dataclasses.fields(Options))
    places = list(re.finditer(rf"\b((?:{word})(?:, (?:{word}))*): ", said))
    stops = [found.start() for found in places[1:]] + [len(said)]
    for found, stop in zip(places, stops, strict=True):
        meaning = said[found.end() : stop].strip()
        yield from (".TP", f"\\fB{roff(found[1])}\\fR", roff(meaning[:1].upper() + meaning[1:]))


def listed(title: str, entries: Iterable[str]) -> Iterator[str]:
    """One line of a pair: a word, and what it is true of."""
    entries = list(entries)
    if entries:
        yield from (".TP", f".I {title}", roff(", ".join(entries) + "."))


def pair_section(front: str, back: str, rows: list[tuple[Sample, pairs.Found]]) -> Iterator[str]:
    """What becomes of a request from a client of one dialect for an endpoint of another."""
    yield f".SS {roff(front)} to {roff(back)}"
    for fate in pairs.FATES:
        of = [(sample.what, found) for sample, found in rows if found.fate == fate]
        if fate == pairs.REFUSED:
            yield from listed(fate, (f"{what} (`{found.param}`)" for what, found in of))
        else:
            yield from listed(fate, (what for what, _ in of))


def answer_section(front: str, rows: list[tuple[Answered, pairs.Found]]) -> Iterator[str]:
    """What of an answer a client of one dialect gets to know."""
    yield f".SS to {roff(front)}"
    for fate in (pairs.CARRIED, pairs.DROPPED):
        yield from listed(fate, (answered.what for answered, found in rows if found.fate == fate))


def page() -> str:
    """The whole page."""
    lines = [
        '.\\" Generated by tests.docs.protocols_page; do not edit.',
        '.TH RELAYD\\-PROTOCOLS 7 "" relayd "relayd manual"',
        ".SH NAME", "relayd\\-protocols \\- AI dialects, and what becomes of a request between two of them",
        ".SH DESCRIPTION", roff(DESCRIPTION[0]),
    ]  # fmt: skip
    for paragraph in DESCRIPTION[1:]:
        lines += [".PP", roff(paragraph)]
    lines.append(".SH DIALECTS")
    for dialect in registry.dialects():
        lines += dialect_section(dialect)
    lines += options_section()
    lines += [
        ".SH REQUESTS",
        roff("For each pair, as it was found out by translating a sample of everything: `carried` reaches the "
             "endpoint; `reworded` reaches it in other words; `by option` reaches it where the upstream's options say "
             "so; `dropped` is left out; `refused` is a 400 that names the field in brackets. What a client's dialect "
             "has no words for is not listed."),
    ]  # fmt: skip
    for (front, back), rows in pairs.every_request().items():
        if front != "dialogflow" and front != back:
            lines += pair_section(front, back, rows)
    lines += [".SH ANSWERS", "What a client gets to know of an answer, whatever endpoint gave it."]
    for front, told in pairs.every_answer().items():
        lines += answer_section(front, told)
    lines.append(".SH LIMITS")
    for number, text in enumerate(LIMITS):
        lines += ([".PP"] if number else []) + [roff(text)]
    lines += [".SH SEE ALSO", ".BR relayd (8),", ".BR relayd.yaml (5)", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(page())
