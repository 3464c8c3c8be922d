"""Masks secrets in a line of a source by its words alone, whether or not a converter has read it.

It masks rather too much than too little: the report names file and line, where the value can be read.
"""

from __future__ import annotations

import re

from relayd.lazy_regex import lazy_regex
from relayd.wire.redact import is_secret_name

MASK = "***"
_USERINFO = lazy_regex(r"(?<=://)[^/\s@\"']+(?=@)")
_NAME = lazy_regex(r"(?<![\w.\-])[\w.\-]+")
_SCHEME = r"(?:(?:bearer|basic|token)(?:\s|\\ )+)?"
# What follows a name: `: value`, `=value`, `, value`, ` value`, the name or the value in quotes.
_VALUE = lazy_regex(
    rf"(?:[\"'`)]{{0,2}}\s*[:=,]\s*|[\"'`)]?\s+)(?:\[\s*)?(?:\"(?P<double>[^\"]*)|'(?P<single>[^']*)|`(?P<back>[^`]*)"
    rf"|(?P<plain>{_SCHEME}(?:\\.|\$\{{[^}}]*\}}|[^\s,;\"'`{{}}\[\]()\\])+))",
    re.IGNORECASE,
)
# What continues a value after its closing quote, as a shell reads it: 'one'"two"three.
_REST = lazy_regex(r"(?:\"[^\"]*\"?|'[^']*'?|[^\s,;:\"'`{}\[\]()\\]+)+")
# A file, a variable, a reference, an option, a switch: names of secrets rather than secrets.
_HARMLESS = lazy_regex(r"|/.*|\$\{?\w+[^$]*\}?|%\[.*|os\.environ/.*|\{.*|-{1,2}[a-z]+|on|off|true|false|yes|no|null|none|if|unless|\d{1,4}", re.IGNORECASE)
# Values that are recognised without their name: tokens after a scheme, hashes of passwords, keys with a known beginning.
_BY_FORM = lazy_regex(
    r"(?<=\bbearer )[^\s\"'`,;$%{]+|(?<=\bbasic )[A-Za-z0-9+/=]{8,}|[^\s\"'`,=:]+:\$(?:apr1|2[abxy]?|[156])\$[^\s\"'`,]+"
    r"|\$(?:apr1|2[abxy]|[156])\$[^\s\"'`,]+|(?<=hooks\.slack\.com/services/)[^\s\"'`]+|(?<=/api/webhooks/)[^\s\"'`]+"
    r"|\b(?:sk|gsk|hf|ghp|xai|pplx)[-_][A-Za-z0-9_\-]{4,}", re.IGNORECASE,
)


# Long values of random characters: a UUID, hexadecimal digits, or a mixture that changes often between kinds of characters.
_RUN = lazy_regex(r"[A-Za-z0-9_\-+]{20,}={0,2}")
_HEXADECIMAL = lazy_regex(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{20,}", re.IGNORECASE)
_CHANGE = lazy_regex(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])|(?<=[A-Z])(?=[a-z][A-Z0-9])")
# The length between two changes is on average at most this in a random value, with and without digits; words and dates
# have longer parts. A single part in one case has LEAST_CHANGES.
MOST_LENGTH, MOST_LENGTH_OF_LETTERS, LEAST_CHANGES = 5, 3, 4
_ONE_CASE = lazy_regex(r"(?:[a-z0-9]{20,}|[A-Z0-9]{20,})={0,2}")


def masked_form(text: str) -> str:
    """A text without user information of URLs and without texts in the form of a secret."""
    return _RUN.sub(_masked_run, _BY_FORM.sub(MASK, _USERINFO.sub(MASK, text)))


def _masked_run(found: re.Match[str]) -> str:
    return MASK if looks_random(found[0]) else found[0]


def looks_random(text: str) -> bool:
    """True for a long text that is rather a random value than words: model names, dates and host names are not."""
    if text.isdecimal():
        return False
    changes = sum(1 for _ in _CHANGE.finditer(text))
    if not any(sign.isdecimal() for sign in text):
        return len(text) <= MOST_LENGTH_OF_LETTERS * changes
    return (
        len(text) <= MOST_LENGTH * changes or _HEXADECIMAL.fullmatch(text) is not None
        or (changes >= LEAST_CHANGES and _ONE_CASE.fullmatch(text) is not None)
    )


def masked_source(text: str) -> str:
    """A line of a source without what its words show to be a secret."""
    text = masked_form(text)
    parts, at = [], 0
    for name in _NAME.finditer(text):
        if name.start() < at or not is_secret_name(name[0]):
            continue
        found = _VALUE.match(text, name.end())
        if found is None or found.lastgroup is None or _HARMLESS.fullmatch(found[found.lastgroup]):
            continue
        parts += [text[at : found.start(found.lastgroup)], MASK]
        at = found.end(found.lastgroup)
        if rest := _REST.match(text, at + (found.lastgroup != "plain")):
            at = rest.end()
    return "".join([*parts, text[at:]])
