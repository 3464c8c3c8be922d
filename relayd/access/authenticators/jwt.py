"""Tokens of an identity provider: JSON Web Tokens (RFC 7519) that its keys have signed.

A token is accepted if its algorithm is one of `algorithms`, its signature is right, `iss` is the issuer, `aud` contains the
audience, and `exp`, `nbf` and `iat` agree with the clock. A token without `exp`, with `crit`, or of more than 16 KiB is
refused. Verified tokens are remembered until they expire or the keys change.

Keys come from `jwks`, a file or a URL, or from `secret`. A URL is read in the background: at the start, every `refresh`,
and at most once a minute because of a token with an unknown kid, whose request waits for this reading. An issuer that
does not answer, or answers something else, changes nothing: the keys that were read last stay in use, after a restart for
`keep`. Tokens are answered 503 only while no key is known.

The consumer in log and counters is the name of the entry, or with `consumer_claim` NAME/CLAIM: rates and budgets with
`each: consumer` then count for each member. Needs python3-jwt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, NamedTuple

from relayd import clock
from relayd.access.client_request import ClientRequest
from relayd.access.credential import AI_KEY_FIELDS, Credential, bearer_key, plain_key
from relayd.access.key_set import (
    FAMILIES,
    MAX_BYTES,
    MISSING,
    KeySet,
    KeySetFault,
    UnknownKey,
    can_verify,
    parse_key_set,
    secret_set,
)
from relayd.access.key_source import KeySource, SourceSpec
from relayd.access.token import TokenFault, is_compact
from relayd.access.token_claims import ClaimRules, Party
from relayd.errors import OptionError
from relayd.schema import Duration, Secret, section, setting
from relayd.schema.files import FileFault, read_file
from relayd.wire.field_syntax import FRAMING, TOKEN
from relayd.wire.http_url import is_local, url_fault

RANK = 1
MAX_VERIFIED = 4096
AUTHORIZATION = "Authorization"
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]


@section()
class KeySetSource:
    """Where the issuer's keys are: a JWK Set (RFC 7517)."""

    file: str | None = setting(default=None, doc="A file. It is read again within seconds when it changes.", pattern="/.*", example="/etc/relayd/jwks.json")
    url: str | None = setting(default=None, doc="An http or https URL, without redirects. At most 256 KiB with 64 keys are read.", example="https://issuer.example/.well-known/jwks.json")
    ca: str | None = setting(default=None, doc="File with the authorities of an https URL; without it those of the system.", pattern="/.*")
    refresh: Duration = setting(default=Duration(600), doc="How often the URL is read.", minimum=10, maximum=86400)
    timeout: Duration = setting(default=Duration(5), doc="How long one reading may take.", minimum=0.1, maximum=60)
    keep: Duration = setting(default=Duration(86400), doc="How old the keys from a URL may be that are used after a restart, until the URL is read again. They are in the state directory.", zero_is_off=True, maximum=30 * 86400)

    def check(self) -> Iterable[tuple[str, str]]:
        if (self.file is None) == (self.url is None):
            yield "", "needs exactly one of file and url"
        if self.url is not None and (fault := url_fault(self.url)):
            yield "url", fault
        if self.ca is not None and self.url is None:
            yield "ca", "has a meaning only with url"
        if self.file is not None and (fault := file_fault(self.file)):
            yield "file", fault

    def caution(self) -> Iterable[tuple[str, str]]:
        if self.url is not None and self.url.startswith("http://") and not is_local(self.url):
            yield "url", "WITHOUT TLS, ANYBODY ON THE WAY CAN REPLACE THE KEYS and make tokens; use https"


@section()
class Issuer:
    """Tokens of one issuer."""

    issuer: str = setting(doc="The claim `iss` of a token, exactly.", example="https://issuer.example")
    audience: str | None = setting(default=None, doc="A text that the claim `aud` of a token must contain. Without it, tokens with the claim are refused, because they are meant for another service.", example="relayd")
    algorithms: tuple[Algorithm, ...] = setting(default=("RS256",), doc="The algorithms that a token may have. Each is used with keys of its own kind only.", example=["RS256", "ES256"])
    jwks: KeySetSource | None = setting(default=None, doc="The keys of the issuer.")
    secret: Secret | None = setting(default=None, doc="The secret of HS256, HS384 and HS512, of at least 32 bytes. Whoever knows it can make tokens.")
    leeway: Duration = setting(default=Duration(30), doc="How far the issuer's clock may differ.", minimum=0, maximum=600)
    header: str = setting(default=AUTHORIZATION, doc="The field with the token: `Authorization: Bearer TOKEN`, or only the token in another field.", pattern=TOKEN)
    consumer_claim: str | None = setting(default=None, doc="Claim with the name of the consumer inside of this entry, which is then called ENTRY/NAME. A token without it is refused. Claims in objects are written with dots, as in `act.sub`.", pattern=r"\S{1,256}", example="sub")
    group_claim: str | None = setting(default=None, doc="Claim with the name of the group, one of `groups`. A token without it, or with an unknown group, is refused.", pattern=r"\S{1,256}", example="team")
    models_claim: str | None = setting(default=None, doc="Claim with the patterns of the models that the token permits: a list, or a text with blanks between them. They replace those of the entry and of the group.", pattern=r"\S{1,256}", example="models")

    def check(self) -> Iterable[tuple[str, str]]:
        if not can_verify():
            yield "", MISSING
        if (self.jwks is None) == (self.secret is None):
            yield "", "needs exactly one of jwks and secret"
        if not self.algorithms:
            yield "algorithms", "is empty, so that no token could be accepted"
        for index, name in enumerate(self.algorithms):
            is_secret = FAMILIES[name][0] == "oct"
            if is_secret and self.jwks is not None and self.jwks.url is not None:
                yield f"algorithms[{index}]", "needs a secret, which no URL may publish"
            elif not is_secret and self.secret is not None:
                yield f"algorithms[{index}]", "needs public keys; write jwks"
        if self.secret is not None and can_verify():
            try:
                secret_set(self.secret.reveal().encode())
            except KeySetFault as fault:
                yield "secret", str(fault)
        if self.header.lower() in FRAMING:
            yield "header", "belongs to the framing of the message"


@section()
class Options:
    """Tokens of one issuer."""

    jwt: Issuer = setting(doc="JSON Web Tokens of an identity provider, verified with its keys. Needs python3-jwt.")


class Verified(NamedTuple):
    """A token that was accepted with these keys, until `expires_s` (Unix seconds)."""

    party: Party
    expires_s: float
    keys: KeySet


class Authenticator:
    """The tokens of one issuer for one entry of `consumers`. `key_source` is None with a secret."""

    rank: ClassVar[int] = RANK

    def __init__(self, options: Options) -> None:
        issuer = self._issuer = options.jwt
        self._field = issuer.header.lower().encode()
        self._read = bearer_key if issuer.header.lower() == AUTHORIZATION.lower() else plain_key
        self._algorithms = frozenset(issuer.algorithms)
        self._rules = ClaimRules(
            issuer.issuer, issuer.audience, float(issuer.leeway), issuer.consumer_claim or "", issuer.group_claim or "",
            issuer.models_claim or "",
        )
        self._verified: dict[bytes, Verified] = {}
        self._secret_keys: KeySet | None = None
        jwks = issuer.jwks
        self.key_source = None if jwks is None else KeySource(
            SourceSpec(
                jwks.file or "", jwks.url or "", jwks.ca, float(jwks.refresh), float(jwks.timeout), float(jwks.keep)
            )
        )

    def prepare(self) -> None:
        """Read the keys, unless they have a URL. Raises OptionError."""
        source, secret = self.key_source, self._issuer.secret
        try:
            if secret is not None:
                self._secret_keys = secret_set(secret.reveal().encode())
            elif source is not None and source.spec.file:
                source.found(read_key_file(source.spec.file), clock.monotonic())
        except (KeySetFault, FileFault) as fault:
            raise OptionError("jwt", str(fault)) from None

    def fields(self) -> Iterable[bytes]:
        """The fields that may carry a token, in lower case."""
        return (self._field,)

    def credentials(self, key_headers: Sequence[str] = AI_KEY_FIELDS) -> Iterable[Credential]:
        """No key is stored."""
        return ()

    def lines(self) -> list[str]:
        """relayd has no token."""
        return []

    def party(self, request: ClientRequest) -> Party | None:
        """The consumer that the token of a request names; None without a token, and for one that is refused."""
        text = request.key_in(self._field, self._read)
        if text is None or not is_compact(text):
            return None
        source = self.key_source
        keys = self._secret_keys if source is None else source.keys
        digest, wall_s = hashlib.sha256(text).digest(), clock.wall()
        known = self._verified.get(digest)
        if known is not None and known.keys is keys and wall_s < known.expires_s:
            return known.party
        try:
            return self._verify(request, text, digest, keys, wall_s)
        except UnknownKey as fault:
            if source is not None:
                source.want(clock.monotonic())
                request.awaited = source if source.is_awaited else request.awaited
            request.refuse(fault)
        except TokenFault as fault:
            request.refuse(fault)
        return None

    def _verify(self, request: ClientRequest, text: bytes, digest: bytes, keys: KeySet | None, wall_s: float) -> Party:
        """Verify a token that is not remembered. Raises TokenFault."""
        self._verified.pop(digest, None)
        token = request.token(text)
        expires_s = self._rules.expiry(token.claims, wall_s)
        if token.alg not in self._algorithms:
            raise TokenFault("the token's algorithm is not permitted")
        party = self._rules.party(token.claims)
        if keys is None:
            request.lacks_keys = True
            raise TokenFault("the keys of the issuer are not known yet")
        keys.verify(token)
        while len(self._verified) >= MAX_VERIFIED:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = Verified(party, expires_s, keys)
        return party


def read_key_file(path: str) -> KeySet:
    """The keys in a file. Raises FileFault or KeySetFault."""
    return parse_key_set(read_file(path, MAX_BYTES)[0])


def file_fault(path: str) -> str:
    """Why a file has no usable keys, or empty."""
    try:
        read_key_file(path)
    except FileFault as fault:
        return f"cannot be read: {fault}"
    except KeySetFault as fault:
        return str(fault) if can_verify() else ""
    return ""
