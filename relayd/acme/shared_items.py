"""What machines share about certificates, as sealed texts: certificates with their records, accounts, and the challenge
that is pending. Called in threads, because python3-cryptography is large and files are read and written.

    certificate NAME DIGEST    record, key and chain of a name, for the machines that use these directories
    account DIGEST             the account at a directory
    challenge                  what the machine that orders now must prove

1. Every text is sealed with the operator's `sharing_key`, for its id: who can write to the server that keeps it can
   delete it, or bring back an old one, but can neither read it, nor make or exchange one.
2. Of two certificates of a name, every machine uses the one that was issued last, as the certificates themselves say.
   So neither the order in which machines learn of them matters, nor their clocks, nor a text that is brought back.
3. Times of a record count from the moment when it was written: a clock that is wrong on one machine does not postpone
   the attempts of the others.
4. Every machine makes its own certificate for a challenge of tls-alpn-01; only the key authorization is shared.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from relayd import clock
from relayd.acme.keys import Leaf, read_leaf
from relayd.acme.order import add_challenge, examine
from relayd.acme.spec import CertificateSpec
from relayd.acme.state import MAX_BYTES, Record, State
from relayd.dataclass import dataclass
from relayd.schema.files import FileFault, read_file
from relayd.wire.seal import SealError, seal, unseal

CHALLENGE = "challenge"
NO_CERTIFICATE = "0"  # the rank of a record without a certificate
SKEW_S = 10.0  # a smaller difference between two clocks changes nothing
LIFE_MS = 30 * 86400 * 1000  # how long a text is kept after its certificate has ended, and a text without one

__all__ = ["CHALLENGE", "SealError", "SharedItems", "Text", "group_of"]


@dataclass(frozen=True, slots=True)
class Text:
    """A sealed text. Of two of the same id, the one with the higher rank is newer. `life_ms`: when it is not needed any
    more."""

    id: str
    rank: str
    sealed: str
    life_ms: int


def group_of(key: str) -> str:
    """A name for the machines that have the same key, from which nobody can compute the key."""
    return hmac.new(key.encode(), b"relayd acme group", hashlib.sha256).hexdigest()[:16]


class SharedItems:
    """The shared texts of one state. `host`: the name by which others see this machine."""

    def __init__(self, state: State, key: str, host: str, specs: Iterable[CertificateSpec]) -> None:
        self._state, self._key, self._host = state, key.encode(), host
        self._specs = {certificate_id(spec): spec for spec in specs}
        self._directories = {account_id(url): url for spec in self._specs.values() for url in spec.section.directory}
        self._challenge: tuple[str, str] | None = None

    # ---- this machine's

    def certificates(self) -> list[Text]:
        """The certificates that this machine has. Raises OSError."""
        return [text for spec in self._specs.values() if (text := self.certificate(spec)).rank != NO_CERTIFICATE]

    def of_name(self, name: str) -> Text | None:
        """The text of a name, None if the configuration does not have it any more. Raises OSError."""
        return next((self.certificate(spec) for spec in self._specs.values() if spec.name == name), None)

    def certificate(self, spec: CertificateSpec) -> Text:
        """The certificate and the record of a name. Raises OSError."""
        leaf, record = examine(self._state, spec.name), self._state.read_record(spec.name)
        if leaf is not None and record.directory not in spec.section.directory:
            leaf = None  # of an authority that is not used any more: nobody wants it
        pem = "" if leaf is None else _read(self._state.certificate_file(spec.name)).decode("ascii", "replace")
        origin = record.origin or self._host
        data = {"record": asdict(replace(record, origin=origin)), "pem": pem, "written_at": clock.wall()}
        left_ms = 0 if leaf is None else int((leaf.ends_s - clock.wall()) * 1000)
        return self._sealed(certificate_id(spec), rank_of(leaf), data, max(left_ms, 0) + LIFE_MS)

    def account(self, directory: str) -> Text | None:
        """The account at a directory; None without one. Raises OSError."""
        account = self._state.read_account(directory)
        return self._sealed(account_id(directory), "", account, 12 * LIFE_MS) if account.get("uri") else None

    def challenge(self, kind: str, domain: str, token: str, authorization: str) -> Text:
        data = {"kind": kind, "domain": domain, "token": token, "authorization": authorization}
        return self._sealed(CHALLENGE, "", data, 600_000)

    def _sealed(self, name: str, rank: str, data: dict[str, Any], life_ms: int) -> Text:
        return Text(name, rank, seal(self._key, _purpose(name), json.dumps(data)), life_ms)

    # ---- those of others

    def install(self, name: str, sealed: str, age_s: float) -> tuple[str, str]:
        """Write what another machine shares to the state, if it is newer. `age_s`: how long ago it was written. Returns
        the domain whose certificate has changed, and the machine that has obtained it; empty texts if none has. Raises
        SealError, OSError."""
        if name == CHALLENGE:
            self._install_challenge(sealed)
        elif (spec := self._specs.get(name)) is not None:
            return self._install_certificate(spec, self._unsealed(name, sealed), age_s)
        elif (url := self._directories.get(name)) is not None:
            self._install_account(url, self._unsealed(name, sealed))
        return "", ""

    def _unsealed(self, name: str, sealed: str) -> dict[str, Any]:
        data = json.loads(unseal(self._key, _purpose(name), sealed))
        assert isinstance(data, dict)  # nobody else can seal
        return data

    def _install_certificate(self, spec: CertificateSpec, data: dict[str, Any], age_s: float) -> tuple[str, str]:
        pem = str(data["pem"]).encode()
        try:
            record = Record.of(data["record"])
            leaf = read_leaf(pem) if pem else None
        except (TypeError, ValueError):
            return "", ""  # of another version of relayd
        if leaf is not None and (spec.name not in leaf.names or record.directory not in spec.section.directory):
            return "", ""
        offset_s = clock.wall() - age_s - float(data["written_at"])
        record = shifted(record, offset_s if abs(offset_s) > SKEW_S else 0.0)
        present = examine(self._state, spec.name)
        known = self._state.read_record(spec.name)
        if present is not None and known.directory not in spec.section.directory:
            present = None
        if rank_of(leaf) < rank_of(present):
            return "", ""
        if rank_of(leaf) == rank_of(present):
            if replace(record, origin=known.origin) != known:
                self._state.write_record(spec.name, replace(record, origin=known.origin))
            return "", ""
        self._state.write_certificate(spec.name, pem)
        self._state.write_record(spec.name, record)
        return spec.name, record.origin

    def _install_account(self, url: str, account: dict[str, Any]) -> None:
        known = self._state.read_account(url)
        if account.get("uri") and known.get("uri") != account["uri"]:
            self._state.write_account(url, {key: value for key, value in account.items() if key != "directory"})

    def _install_challenge(self, sealed: str) -> None:
        """Answer the pending challenge, and not the last one any more. An empty text: none is pending."""
        if self._challenge is not None:
            self._state.remove_challenge(*self._challenge)
            self._challenge = None
        if sealed:
            data = self._unsealed(CHALLENGE, sealed)
            kind = str(data["kind"])
            self._challenge = kind, add_challenge(
                self._state, kind, str(data["domain"]), str(data["token"]), str(data["authorization"])
            )


def certificate_id(spec: CertificateSpec) -> str:
    return f"certificate {spec.name} {_digest(' '.join(spec.section.directory))}"


def account_id(directory: str) -> str:
    return f"account {_digest(directory)}"


def rank_of(leaf: Leaf | None) -> str:
    """The rank of a certificate: the one that was issued later has the higher one."""
    return NO_CERTIFICATE if leaf is None else f"{max(leaf.begins_s, 1):015.0f} {max(leaf.ends_s, 1):015.0f}"


def shifted(record: Record, offset_s: float) -> Record:
    """A record whose times are those of another clock."""
    if not offset_s:
        return record
    move = {key: getattr(record, key) + offset_s for key in ("tried_at", "next_try", "ask_at") if getattr(record, key)}
    return replace(record, **move, held={url: at + offset_s for url, at in record.held.items()})


def _purpose(name: str) -> bytes:
    return f"relayd acme {name}".encode()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(path: str) -> bytes:
    try:
        return read_file(path, MAX_BYTES)[0]
    except FileFault as fault:
        raise OSError(f"{path}: {fault}") from None
