"""The grammar of Caddyfiles: tokens, quotes, blocks, snippets and imports (caddyserver.com/docs/caddyfile/concepts).

A line is a directive with arguments; `{` at its end opens a block, `}` alone on a line closes it. Texts in double quotes
know `\\"`, texts in backticks are raw, `<<NAME` begins a text of several lines. `{$NAME:default}` is a variable of the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.importers._directive import Directive
from relayd.importers._report import Item, Report
from relayd.importers._sources import BLOCKS, DEPTH, Source, SourceError, Sources
from relayd.lazy_regex import lazy_regex

_WORD = lazy_regex(r'"(?P<quoted>(?:\\.|[^"\\])*)"|`(?P<raw>[^`]*)`|(?P<plain>[^\s"`][^\s]*)', re.DOTALL)
_VARIABLE = lazy_regex(r"\{\$(?P<name>[^}:]+)(?::(?P<default>[^}]*))?\}")
_ARGUMENT = lazy_regex(r"\{args[.\[](?P<index>\d+)\]?\}")


@dataclass(slots=True)
class Parser:
    """Parses a Caddyfile with its imports and snippets. `variables` are those of the environment. Owned by one import."""

    sources: Sources
    report: Report
    variables: Mapping[str, str] = field(default_factory=dict)
    snippets: dict[str, Directive] = field(default_factory=dict)
    depth: int = 0  # of imports
    blocks: int = 0  # that are open

    def parse(self, source: Source) -> list[Directive]:
        """The top level: global options (an empty name), snippets `(name)` and sites."""
        self.report.source(source.name, source.text)
        lines = list(self._lines(source))
        found, end = self._block(source, lines, 0, None, nested=False)
        if end < len(lines):
            raise SourceError(f"{source.name}:{lines[end][0]}: unexpected }}")
        if len(found) > 1 and all(one.block is None for one in found) and found:  # one site without braces
            site = Directive(found[0].name, found[0].args, found[0].item, found[1:])
            return [site]
        return self._expanded(found)

    def _lines(self, source: Source) -> Iterator[tuple[int, int, list[str]]]:
        """The tokens of each line that has any, with its first and last line number."""
        text, position, line = source.text, 0, 1
        tokens: list[str] = []
        first = 1
        while position < len(text):
            sign = text[position]
            if sign == "\n":
                if tokens:
                    yield first, line, tokens
                tokens, position, line = [], position + 1, line + 1
            elif sign in " \t\r":
                position += 1
            elif sign == "#":
                end = text.find("\n", position)
                position = len(text) if end < 0 else end
            elif text.startswith("\\\n", position):
                position, line = position + 2, line + 1
            else:
                found = _WORD.match(text, position)
                if found is None:
                    raise SourceError(f"{source.name}:{line}: a quote is not closed")
                if not tokens:
                    first = line
                token = self._token(found)
                if found["plain"] is not None and (here := re.match(r"<<([A-Za-z0-9_-]+)\n", text[position:])):
                    closing = re.compile(rf"^([ \t]*){re.escape(here[1])}", re.MULTILINE).search(text, position + here.end())
                    if closing is None:
                        raise SourceError(f"{source.name}:{line}: a text is not closed")
                    body = text[position + here.end() : closing.start()].rstrip("\n")
                    token = "\n".join(one.removeprefix(closing[1]) for one in body.split("\n"))
                    line += text.count("\n", position, closing.end())
                    position = closing.end()
                else:
                    line += found[0].count("\n")
                    position = found.end()
                tokens.append(token)
        if tokens:
            yield first, line, tokens

    def _token(self, found: re.Match[str]) -> str:
        if found["raw"] is not None:
            return found["raw"]
        text = found["plain"] if found["quoted"] is None else found["quoted"].replace('\\"', '"').replace("\\\\", "\\")
        return _VARIABLE.sub(lambda one: self.variables.get(one["name"], one["default"] or ""), text)

    def _block(
        self, source: Source, lines: list[tuple[int, int, list[str]]], position: int, outer: Item | None, *, nested: bool
    ) -> tuple[list[Directive], int]:
        """The directives up to the closing brace; the position of that line."""
        result: list[Directive] = []
        self.blocks += 1
        if self.blocks > BLOCKS:
            raise SourceError(f"{source.name}: blocks are nested deeper than {BLOCKS}")
        while position < len(lines):
            first, last, tokens = lines[position]
            if tokens == ["}"]:
                self.blocks -= 1
                if not nested:
                    return result, position
                return result, position + 1
            opens = tokens[-1] == "{"
            tokens = tokens[:-1] if opens else tokens
            while not nested and tokens and tokens[-1].endswith(",") and not opens and position + 1 < len(lines):
                position += 1  # addresses of a site on several lines
                tokens = [*tokens, *lines[position][2]]
                last = lines[position][1]
                opens = tokens[-1] == "{"
                tokens = tokens[:-1] if opens else tokens
            position += 1
            item = self.report.item(source.name, first, last, tokens[0].rstrip(",") if tokens else "", outer)
            made = Directive(tokens[0] if tokens else "", tokens[1:], item)
            if opens:
                made.block, position = self._block(source, lines, position, item, nested=True)
            result.append(made)
        if nested:
            raise SourceError(f"{source.name}: a block is not closed")
        self.blocks -= 1
        return result, position

    def _expanded(self, found: list[Directive]) -> list[Directive]:
        """The top level with snippets taken out and imports replaced."""
        for one in found:
            if one.name.startswith("(") and one.name.endswith(")"):
                self.snippets[one.name[1:-1]] = one
                one.item.exact("used where it is imported")
        return [one for one in self._imports(found) if not one.name.startswith("(")]

    def _imports(self, block: list[Directive]) -> list[Directive]:
        result: list[Directive] = []
        self.depth += 1
        if self.depth > DEPTH * 2:
            raise SourceError("imports are nested too deeply")
        for one in block:
            if one.name == "import" and one.args:
                result += self._import(one)
                continue
            if one.block is not None and not one.name.startswith("("):
                one.block = self._imports(one.block)
            result.append(one)
        self.depth -= 1
        return result

    def _import(self, one: Directive) -> list[Directive]:
        snippet = self.snippets.get(one.args[0])
        if snippet is not None:
            one.item.exact()
            return self._imports([_with_arguments(inner, one.args[1:]) for inner in snippet.block or []])
        sources = self.sources.included(one.args[0], one.item.file)
        if not sources:
            one.item.by_hand("was not found here; convert it together with the others")
            return []
        one.item.exact(f"reads {len(sources)} file{'s' * (len(sources) > 1)}")
        return [inner for source in sources for inner in self.parse(source)]


def _with_arguments(one: Directive, args: list[str]) -> Directive:
    """A directive of a snippet with {args[0]} replaced."""

    def token(text: str) -> str:
        return _ARGUMENT.sub(lambda found: args[int(found["index"])] if int(found["index"]) < len(args) else found[0], text)

    block = None if one.block is None else [_with_arguments(inner, args) for inner in one.block]
    return Directive(token(one.name), [token(arg) for arg in one.args], one.item, block)
