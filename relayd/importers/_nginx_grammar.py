"""The grammar of nginx configurations: tokens, quotes, blocks and includes (nginx.org, "Configuration file's structure").

A directive is a name with arguments that ends with `;` or begins a block. A word ends at a space, `;`, `{` or `}`; in
quotes and after a backslash these characters are part of the word, and `${` begins a variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.importers._directive import Directive
from relayd.importers._report import Item, Report
from relayd.importers._sources import BLOCKS, DEPTH, Source, SourceError, Sources
from relayd.lazy_regex import lazy_regex

_SPACE = " \t\r\n"
_LUA_TEXT = lazy_regex(r"--[^\n]*|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'")  # a comment or a string
_LUA = lazy_regex(r"\w+_by_lua_block")


@dataclass(frozen=True, slots=True)
class Token:
    """A word, or one of `;`, `{` and `}` (then `is_text` is false)."""

    text: str
    line: int
    last: int
    is_text: bool = True


@dataclass(slots=True)
class Lexer:
    """Splits a text into tokens. Raises SourceError for an open quote."""

    source: Source
    position: int = 0
    line: int = 1

    def tokens(self) -> Iterator[Token]:
        text = self.source.text
        while self.position < len(text):
            sign = text[self.position]
            if sign in _SPACE:
                self._skip(1)
            elif sign == "#":
                end = text.find("\n", self.position)
                self.position = len(text) if end < 0 else end
            elif sign in ";{}":
                self._skip(1)
                yield Token(sign, self.line, self.line, is_text=False)
            else:
                yield self._quoted(sign) if sign in "\"'" else self._plain()

    def raw_block(self) -> str:
        """The text up to the brace that closes a block of another language (Lua)."""
        start, depth, text = self.position, 1, self.source.text
        while self.position < len(text):
            sign = text[self.position]
            if found := _LUA_TEXT.match(text, self.position):
                self._skip(len(found[0]))
                continue
            depth += (sign == "{") - (sign == "}")
            self._skip(1)
            if depth == 0:
                return text[start : self.position - 1]
        raise SourceError(f"{self.source.name}:{self.line}: a block is not closed")

    def _skip(self, count: int) -> None:
        self.line += self.source.text.count("\n", self.position, self.position + count)
        self.position += count

    def _quoted(self, quote: str) -> Token:
        first, text = self.line, self.source.text
        parts: list[str] = []
        self._skip(1)
        while self.position < len(text):
            sign = text[self.position]
            if sign == quote:
                self._skip(1)
                return Token("".join(parts), first, self.line)
            if sign == "\\" and self.position + 1 < len(text):
                parts.append(_escaped(text[self.position + 1]))
                self._skip(2)
            else:
                parts.append(sign)
                self._skip(1)
        raise SourceError(f"{self.source.name}:{first}: a quote is not closed")

    def _plain(self) -> Token:
        first, start, text = self.line, self.position, self.source.text
        parts = []
        while self.position < len(text):
            sign = text[self.position]
            if sign in _SPACE or sign in ";}" or (sign == "{" and text[self.position - 1 : self.position] != "$"):
                break
            if sign == "\\" and self.position + 1 < len(text):
                parts.append(_escaped(text[self.position + 1]))
                self._skip(2)
            elif sign == "{":  # ${name}
                end = text.find("}", self.position)
                if end < 0:
                    raise SourceError(f"{self.source.name}:{first}: a variable is not closed")
                parts.append(text[self.position : end + 1])
                self._skip(end + 1 - self.position)
            else:
                parts.append(sign)
                self._skip(1)
        assert self.position > start
        return Token("".join(parts), first, self.line)


def _escaped(sign: str) -> str:
    """The meaning of a backslash before this character: nginx keeps it except before quotes, a backslash, t, r and n."""
    return {"t": "\t", "r": "\r", "n": "\n"}.get(sign, sign if sign in "\"'\\" else f"\\{sign}")


@dataclass(slots=True)
class Parser:
    """Parses files with their includes. Owned by one import."""

    sources: Sources
    report: Report
    open: list[str] = field(default_factory=list)
    depth: int = 0  # of blocks

    def parse(self, source: Source, outer: Item | None = None) -> list[Directive]:
        """The directives of a file. Raises SourceError with file and line."""
        if source.name in self.open or len(self.open) > DEPTH:
            raise SourceError(f"{source.name}: includes itself, or is included too deeply")
        self.open.append(source.name)
        self.report.source(source.name, source.text)
        lexer = Lexer(source)
        directives = self._block(lexer, lexer.tokens(), outer, nested=False)
        self.open.pop()
        return directives

    def _block(self, lexer: Lexer, tokens: Iterator[Token], outer: Item | None, *, nested: bool) -> list[Directive]:
        result: list[Directive] = []
        parts: list[Token] = []
        name = lexer.source.name
        self.depth += 1
        if self.depth > BLOCKS:
            raise SourceError(f"{name}:{lexer.line}: blocks are nested deeper than {BLOCKS}")
        for token in tokens:
            if token.is_text:
                parts.append(token)
            elif token.text == "}":
                if parts or not nested:
                    raise SourceError(f"{name}:{token.line}: unexpected }}" if not parts else
                                      f"{name}:{parts[0].line}: {parts[0].text} lacks its semicolon")
                self.depth -= 1
                return result
            elif not parts:
                raise SourceError(f"{name}:{token.line}: unexpected {token.text}")
            else:
                result += self._directive(lexer, tokens, parts, token, outer)
                parts = []
        if parts:
            raise SourceError(f"{name}:{parts[0].line}: {parts[0].text} lacks its semicolon")
        if nested:
            raise SourceError(f"{name}: a block is not closed")
        self.depth -= 1
        return result

    def _directive(
        self, lexer: Lexer, tokens: Iterator[Token], parts: list[Token], end: Token, outer: Item | None
    ) -> list[Directive]:
        first = parts[0]
        item = self.report.item(lexer.source.name, first.line, max(parts[-1].last, first.line), first.text, outer)
        made = Directive(first.text, [one.text for one in parts[1:]], item)
        if end.text == "{":
            if _LUA.fullmatch(first.text):
                made.args, made.block = [lexer.raw_block()], []
                item.last = lexer.line
            else:
                made.block = self._block(lexer, tokens, item, nested=True)
        if made.name == "include" and made.args:
            return [made, *self._included(made, lexer.source.name)]
        return [made]

    def _included(self, directive: Directive, beside: str) -> Iterator[Directive]:
        found = self.sources.included(directive.args[0], beside)
        if found:
            directive.item.exact(f"reads {len(found)} file{'s' * (len(found) > 1)}")
        elif any(sign in directive.args[0] for sign in "*?["):
            directive.item.exact("matches no file here")
        else:
            directive.item.unsupported("this file was not found here; convert it together with the others")
        for source in found:
            yield from self.parse(source)
