"""Bytes of a terminal as the names of keys: `up`, `enter`, or the character itself.

A sequence or a character of several bytes may arrive in parts. The escape key sends the byte with which every sequence
begins; `flush` reports it once nothing has followed for some time.
"""

from __future__ import annotations

import codecs

from relayd.lazy_regex import lazy_regex

ESCAPE = "\x1b"
LONGEST_SEQUENCE = 32
# ECMA-48 5.4 (CSI ... final byte), and SS3 with one character.
SEQUENCE = lazy_regex(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~])")
BEGINNING = lazy_regex(r"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")
NAMES = {
    "A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end", "Z": "backtab",
    "1~": "home", "7~": "home", "4~": "end", "8~": "end", "5~": "page_up", "6~": "page_down", "3~": "delete",
}
CONTROLS = {
    "\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\x08": "backspace", "\x15": "clear",
    "\x0c": "redraw", "\x03": "quit", "\x04": "quit", "\x02": "page_up", "\x06": "page_down",
}


class KeyDecoder:
    """Decodes the input of one terminal."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("ignore")
        self._pending = ""

    @property
    def is_waiting(self) -> bool:
        """True after an escape, which is a key if nothing follows."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete."""
        text, keys = self._pending + self._utf8.decode(data), []
        self._pending = ""
        at = 0
        while at < len(text):
            character = text[at]
            if character != ESCAPE:
                keys += [CONTROLS.get(character, character)] if character in CONTROLS or character.isprintable() else []
                at += 1
            elif (found := SEQUENCE.match(text, at)) is not None:
                keys += [NAMES[name]] if (name := found[0][2:]) in NAMES else []
                at = found.end()
            elif BEGINNING.match(text, at) and len(text) - at < LONGEST_SEQUENCE:
                self._pending = text[at:]
                break
            else:  # an escape, and then something else
                keys.append("escape")
                at += 1
        return keys

    def flush(self) -> list[str]:
        """The escape key, if an escape was received and nothing after it. An incomplete sequence is dropped."""
        pending, self._pending = self._pending, ""
        return ["escape"] if pending == ESCAPE else []
