"""Generator of relayd-protocols(7) from the dialects: their docstrings, their drops, and the translations of samples.

`python3 -m tests.docs.protocols_page > debian/man/relayd-protocols.7` writes the page.
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
    "If a client and its upstream speak the same dialect, `relayd` passes the bytes of requests and responses through "
    "unchanged, except for the model name and the key if configured, and for what `relayd` wrote into earlier responses "
    "(unsigned thinking, reasoning and item ids of translated responses), which is removed. Other requests, "
    "and requests that refer to a response or summary that only `relayd` has, are parsed to a canonical form "
    "and written in the dialect of the upstream, and the response is translated in the same way, streamed or plain. "
    "`protocol` of the route is the dialect of its clients, `protocol` of the upstream the dialect of its endpoints; "
    "see `relayd.yaml`(5).",
    "A feature that cannot be translated is either refused, with status 400 and the name of the field, or dropped as "
    "documented here. A truncated response is reported to the client as a failure in its dialect, never presented as a "
    "complete response.",
)
LIMITS = (
    "Requests: the body limit of the route, at most 64 levels of nesting, and at most 1024 tools.",
    "Responses: at most 16 MiB per line of a stream (Messages and Ollama 4 MiB), 64 MiB and a million values for a "
    "plain response, 1024 tool calls, and 4096 items or blocks. The data of a response that is stored until its end is "
    "limited to 64 MiB, arguments from a Chat endpoint and blocks for a Messages client to 16 MiB. If an upstream "
    "exceeds a limit, the response is a 502, or an error of the dialect if the stream has begun.",
)


def roff(text: str) -> str:
    """Escape text for roff; `code` becomes bold."""
    for sign, shown in (("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("^", "\\(ha"), ("~", "\\(ti")):
        text = text.replace(sign, shown)
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return "\\&" + text if text.startswith(".") else text


def about(name: str) -> str:
    """The first paragraph of the docstring of a dialect's module."""
    return " ".join((modules.load("relayd.protocols", name).__doc__ or "").split("\n\n")[0].split())


def sides(dialect: Dialect) -> str:
    """The supported sides of a dialect: paths of clients, and endpoints."""
    parts = []
    if dialect.read_request is not None:
        parts.append(f"Clients: {', '.join(f'`...{path}`' for path in dialect.paths)}.")
    else:
        parts.append("Clients: pass-through only.")
    parts.append("Endpoints: yes." if dialect.write_request is not None else "Endpoints: no.")
    return " ".join(parts)


def dialect_section(dialect: Dialect) -> Iterator[str]:
    """The section of one dialect: description, supported sides, dropped features."""
    yield f".SS {roff(dialect.name)} ({roff(dialect.title)})"
    yield roff(about(dialect.name))
    yield ".PP"
    yield roff(sides(dialect))
    for text in dialect.drops:
        yield from (".IP \\(bu 2", roff(text))


def options_section() -> Iterator[str]:
    """The keys of `dialect:`, from their declaration."""
    yield ".SH OPTIONS"
    yield roff("`dialect:` of an upstream configures special requirements and abilities of its endpoints.")
    # The docstring consists of entries `name, name: description.`
    text = " ".join((inspect.getdoc(Options) or "").split())
    names = "|".join(one.name for one in dataclasses.fields(Options))
    entries = list(re.finditer(rf"\b((?:{names})(?:, (?:{names}))*): ", text))
    stops = [found.start() for found in entries[1:]] + [len(text)]
    for found, stop in zip(entries, stops, strict=True):
        description = text[found.end() : stop].strip()
        yield from (".TP", f"\\fB{roff(found[1])}\\fR", roff(description[:1].upper() + description[1:]))


def listed(title: str, entries: Iterable[str]) -> Iterator[str]:
    """One line of a pair: a result and its features."""
    entries = list(entries)
    if entries:
        yield from (".TP", f".I {title}", roff(", ".join(entries) + "."))


def pair_section(front: str, back: str, rows: list[tuple[Sample, pairs.Found]]) -> Iterator[str]:
    """The results of translating requests from one dialect to another."""
    yield f".SS {roff(front)} to {roff(back)}"
    for fate in pairs.FATES:
        of = [(sample.what, found) for sample, found in rows if found.fate == fate]
        if fate == pairs.REFUSED:
            yield from listed(fate, (f"{what} (`{found.param}`)" for what, found in of))
        else:
            yield from listed(fate, (what for what, _ in of))


def answer_section(front: str, rows: list[tuple[Answered, pairs.Found]]) -> Iterator[str]:
    """The results of translating responses to one dialect."""
    yield f".SS to {roff(front)}"
    for fate in (pairs.CARRIED, pairs.DROPPED):
        yield from listed(fate, (answered.what for answered, found in rows if found.fate == fate))


def page() -> str:
    """The whole page."""
    lines = [
        '.\\" Generated by tests.docs.protocols_page; do not edit.',
        '.TH RELAYD\\-PROTOCOLS 7 "" relayd "relayd manual"',
        ".SH NAME", "relayd\\-protocols \\- AI dialects and the translation between them",
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
        roff("The results for each pair of dialects, determined by translating a sample of each feature. `carried`: the "
             "feature is sent to the endpoint. `reworded`: it is sent in another form. `by option`: it is sent if an "
             "option of the upstream enables it. `dropped`: it is omitted. `refused`: the response is a 400 that names "
             "the field in brackets. Features that the client's dialect does not have are not listed."),
    ]  # fmt: skip
    for (front, back), rows in pairs.every_request().items():
        if front != "dialogflow" and front != back:
            lines += pair_section(front, back, rows)
    lines += [".SH ANSWERS", "The parts of a response that a client receives, for endpoints of any dialect."]
    for front, responses in pairs.every_answer().items():
        lines += answer_section(front, responses)
    lines.append(".SH LIMITS")
    for number, text in enumerate(LIMITS):
        lines += ([".PP"] if number else []) + [roff(text)]
    lines += [".SH SEE ALSO", ".BR relayd (8),", ".BR relayd.yaml (5)", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(page())
