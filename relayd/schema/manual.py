"""Renders the manual page of a configuration file in roff from the sections and their documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from relayd.schema.describe import (
    Key,
    is_one_of,
    is_section,
    keys,
    list_item,
    mapping_value,
    sections_below,
    shorthand_of,
)
from relayd.schema.show import bounds, show_default, show_key_kind, show_value

VALUES = (
    ("duration", "A number with a unit: 250ms, 5s, 2m, 1h, 1d, or a combination: 1h30m. A number without a unit is "
                 "refused, except 0. `off` (or 0) disables a limit if the description of the key says so."),
    ("size", "A number of bytes, or a number with a unit: 512, 64KiB, 32MiB, 1GiB."),
    ("secret", "The location of a secret, never the secret itself. `{file: PATH}` reads the whole file without its "
               "last line break (a relative path begins at the folder of relayd.yaml), `{env: NAME}` an environment "
               "variable, `{credential: NAME}` a credential of systemd (LoadCredential=). A missing or empty secret is "
               "an error; a file that every user can read causes a warning."),
    ("list", "If a list is expected, a single value is a list with one item."),
    ("true | false", "Also yes, no, on and off, without quotes. If a text is expected, these words are texts."),
    ("nothing", "A section, list or mapping without a value after its colon is treated as absent."),
)


def escape(text: str) -> str:
    """Escape a text for roff; `code` becomes bold."""
    for sign, shown in (("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("^", "\\(ha"), ("~", "\\(ti")):
        text = text.replace(sign, shown)
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


def manual(root: type, name: str, *, title: str, description: Iterable[str], files: Iterable[tuple[str, str]],
           example: str, see_also: str) -> str:
    """The page NAME(5) of a document whose outermost section is `root`."""
    lines = [
        '.\\" Generated from the sections of the configuration (make docs); changes made here are lost.',
        f'.TH {escape(name.upper())} 5 "" relayd "File formats"',
        ".SH NAME", f"{escape(name)} \\- {escape(title)}",
        ".SH DESCRIPTION",
    ]
    for number, paragraph in enumerate(description):
        lines += ([".PP"] if number else []) + [escape(paragraph)]
    lines += [".SH VALUES"]
    for choice, meaning in VALUES:
        lines += [".TP", f".B {escape(choice)}", escape(meaning)]
    lines += [".SH KEYS"]
    for path, section in sections_below(root):
        lines += _section(path, section)
    lines += [".SH EXAMPLE", ".nf", *(escape(line) or "\\&" for line in example.splitlines()), ".fi"]
    lines += [".SH FILES"]
    for path, meaning in files:
        lines += [".TP", f".I {escape(path)}", escape(meaning)]
    lines += [".SH SEE ALSO", escape(see_also)]
    return "\n".join(lines) + "\n"


def _section(path: str, section: type) -> Iterator[str]:
    yield f".SS {escape(path) if path else 'Top level'}"
    text = " ".join((section.__doc__ or "").split())
    if path:
        yield escape(text)
    short = shorthand_of(section)
    if short is not None:
        yield escape(f"A single value stands for `{short}`.")
    if is_one_of(section):
        yield "Exactly one of these keys is required."
    for key in keys(section):
        yield from _key(key, path)


def _key(key: Key, path: str) -> Iterator[str]:
    yield ".TP"
    yield f"\\fB{escape(key.name)}:\\fR \\fI{escape(show_key_kind(key))}\\fR"
    yield escape(key.doc)
    inside = next((one for one in (key.bare, list_item(key.bare), mapping_value(key.bare)) if is_section(one)), None)
    facts = []
    default, bound = "" if inside else show_default(key), bounds(key)
    if bound:
        facts.append(f"{bound[0].upper()}{bound[1:]}.")
    if key.required:
        facts.append("Required.")
    elif default:
        facts.append(f"Default: `{default}`.")
    if key.example is not None:
        facts.append(f"Example: `{show_value(key.example)}`.")
    if key.pending:
        facts.append(f"Not in force yet; waits for: {key.pending}.")
    if facts:
        yield escape(" ".join(facts))
