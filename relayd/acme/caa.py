"""Whether CAA records permit an authority to issue a certificate for a name (RFC 8659). No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from relayd.lazy_regex import lazy_regex

RECORD = lazy_regex(r'(\d{1,3})\s+([A-Za-z0-9]+)\s+"?([^"]*)"?')
KNOWN_TAGS = frozenset({"issue", "issuewild", "iodef", "contactemail", "contactphone", "issuemail", "issuevmc"})
CRITICAL = 0x80


def names_to_ask(name: str) -> list[str]:
    """The names whose CAA records may apply, the most specific first: the name and its parents (RFC 8659 3)."""
    labels = name.removeprefix("*.").split(".")
    return [".".join(labels[index:]) for index in range(len(labels))]


def refusal(name: str, records: Iterable[str], identities: Sequence[str]) -> str:
    """Why these records forbid an authority with these `identities` (its caaIdentities) to certify a name, or empty.

    `records`: those of the first of `names_to_ask` that has any, as text: `0 issue "letsencrypt.org"`.
    """
    parsed = [found.groups() for record in records if (found := RECORD.fullmatch(record.strip()))]
    for flags, tag, _ in parsed:
        if int(flags) & CRITICAL and tag.lower() not in KNOWN_TAGS:
            return f"a critical record {tag} is unknown to authorities"
    values = [value for _, tag, value in parsed if tag.lower() == "issue"]
    if name.startswith("*."):
        values = [value for _, tag, value in parsed if tag.lower() == "issuewild"] or values
    if not values:
        return ""
    permitted = [value.partition(";")[0].strip().lower() for value in values]
    if {one.lower() for one in identities} & set(permitted):
        return ""
    listed = ", ".join(one for one in permitted if one) or "no authority"
    return f"they permit {listed}, not {' or '.join(identities)}"
