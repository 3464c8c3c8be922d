"""The client of an ACME directory (RFC 8555), by python3-acme 2.1 to 5: account, order, renewal information.

1. Every call blocks: only the thread that orders uses this module. Each request has a timeout, and all calls of a
   session together have SESSION_TIMEOUT_S.
2. All errors are raised as AcmeFault, with the pause that the directory asks for.
3. An account is registered once per directory and kept in the state.
"""

from __future__ import annotations

import base64
import datetime
import email.utils
import hashlib
import json
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import josepy
from acme import challenges, client, errors, messages
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from relayd import __version__, clock
from relayd.acme.connections import Connections, read_bounded
from relayd.acme.state import TOKEN
from relayd.config.acme import Acme
from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex

T = TypeVar("T")
REQUEST_TIMEOUT_S = 20
ORDER_TIMEOUT_S = 120.0  # for the validation of a name, and again for the issuance
SESSION_TIMEOUT_S = 300.0  # for all calls of a session, without the waits between them and the time of hooks
NONCE_ATTEMPTS = 8  # a busy directory discards nonces (RFC 8555 6.5)
POLL_S, MAX_POLL_S = 0.25, 5.0
NO_ACCOUNT = "accountDoesNotExist"
DEACTIVATED = lazy_regex(r"^unauthorized: .*deactivated", re.IGNORECASE | re.DOTALL)
# How python3-acme (the first) or urllib3 says that there is no connection, and the reason.
NO_CONNECTION = lazy_regex(r"(?:^Requesting [^ :]*:|Failed to establish a new connection:)\s*(.+?)[\"')]*$")


class AcmeFault(Exception):
    """The directory or the network failed. `retry_after_s`: the pause that the directory asks for, 0 without one."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Stopped(Exception):
    """relayd ends; the order is abandoned."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge to answer. `value`: the content of the TXT record `_acme-challenge` (dns-01)."""

    kind: str
    domain: str
    token: str
    authorization: str
    value: str


class Answering(Protocol):
    """Answers a challenge while its context is open."""

    def __call__(self, challenge: Challenge) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class Window:
    """The time in which the authority suggests to renew (RFC 9773 4.2), in Unix seconds. `retry_after_s`: when to ask
    again, None if the directory does not say."""

    start_s: float
    end_s: float
    retry_after_s: float | None


class Accounts(Protocol):
    """Where accounts are kept."""

    def read_account(self, directory: str) -> dict[str, Any]: ...

    def write_account(self, directory: str, account: dict[str, Any]) -> None: ...


class _ReplacingOrder:
    """A new order that names the certificate which it replaces (RFC 9773 5); the library does not know this field."""

    def __init__(self, order: Any, replaces: str) -> None:
        self._order, self._replaces = order, replaces

    def json_dumps(self, **options: Any) -> str:
        """The order as JSON: all that the library needs to sign it."""
        return json.dumps({**json.loads(self._order.json_dumps()), "replaces": self._replaces}, **options)


class _Network(client.ClientNetwork):  # type: ignore[misc]  # the library is not type-checked
    """Repeats requests whose nonce was rejected; the library itself repeats them once. `replaces` is added to new
    orders, unless it is empty."""

    replaces = ""

    def post(self, url: str, obj: Any, *arguments: Any, **options: Any) -> Any:
        if self.replaces and isinstance(obj, messages.NewOrder):
            obj = _ReplacingOrder(obj, self.replaces)
        for _ in range(NONCE_ATTEMPTS // 2 - 1):
            try:
                return super().post(url, obj, *arguments, **options)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return super().post(url, obj, *arguments, **options)


class AcmeClient:
    """A session with one directory. Used for one attempt."""

    def __init__(
        self, url: str, section: Acme, accounts: Accounts, stop: threading.Event,
        timeout_s: float = SESSION_TIMEOUT_S,
    ) -> None:
        self._url, self._section, self._accounts, self._stop = url, section, accounts, stop
        self._paused_s: list[float] = []  # Retry-After of the last response
        self._account = accounts.read_account(url)
        self._key = _account_key(self._account)
        self._network = _Network(
            self._key, alg=josepy.RS256, user_agent=f"relayd/{__version__}", timeout=REQUEST_TIMEOUT_S
        )
        if section.directory_ca is not None:
            self._network.verify_ssl = section.directory_ca
        self._connections, self._timeout_s = Connections(self._network.session), timeout_s
        self._left_s = timeout_s
        self._network.session.hooks["response"] += [self._note_retry_after, read_bounded]
        self._client: Any = None

    def close(self) -> None:
        self._network.session.close()

    def _note_retry_after(self, response: Any, **_: Any) -> None:
        seconds = retry_after(response.headers.get("Retry-After"))
        self._paused_s[:] = [] if seconds is None else [seconds]

    def _call(self, call: Callable[[], T]) -> T:
        """The result of a call of the library. Raises AcmeFault instead of its errors, Stopped once relayd ends."""
        if self._stop.is_set():
            raise Stopped
        self._paused_s.clear()
        begun_s = clock.monotonic()
        timer = self._connections.cut_after(max(self._left_s, 0.0))
        try:
            return call()
        except messages.Error as error:
            code = f"{error.code}: " if error.code else ""
            raise AcmeFault(f"{code}{error.detail or error.title or error.typ}", sum(self._paused_s)) from error
        except (errors.Error, josepy.errors.Error, OSError, ValueError, KeyError, AttributeError) as error:
            if self._connections.are_cut:
                raise AcmeFault(f"the directory took longer than {self._timeout_s:.0f} s in all") from error
            raise AcmeFault(_reason(error), sum(self._paused_s)) from error
        finally:
            timer.cancel()
            self._left_s -= clock.monotonic() - begun_s

    def _directory(self) -> Any:
        if self._client is None:
            directory = self._call(lambda: client.ClientV2.get_directory(self._url, self._network))
            self._client = client.ClientV2(directory, self._network)
        return self._client

    def caa_identities(self) -> tuple[str, ...]:
        """The names under which CAA records permit this authority (RFC 8555 9.7.6); empty if it does not say."""
        meta = self._directory().directory["meta"]
        return tuple(str(one) for one in getattr(meta, "caa_identities", None) or ())

    # ---- the account

    def _log_in(self) -> None:
        """Use the stored account, or register one."""
        self._directory()
        uri = self._account.get("uri")
        if not uri:
            self._register()
            return
        contact = _contact(self._section.email)
        body = messages.Registration(contact=contact)
        self._network.account = messages.RegistrationResource(uri=uri, body=body)
        if tuple(self._account.get("contact", ())) != contact and contact:
            self._call(lambda: self._client.update_registration(self._network.account))
            self._store_account(uri)

    def _register(self) -> None:
        self._network.account = None
        options: dict[str, Any] = {"terms_of_service_agreed": True}
        if self._section.email:
            options["email"] = self._section.email
        eab = self._section.eab
        if eab is not None:
            options["external_account_binding"] = self._call(lambda: messages.ExternalAccountBinding.from_data(
                self._key.public_key(), eab.kid, eab.hmac.reveal(), self._client.directory
            ))
        self._store_account("")  # the key first: a registered key must not be lost
        wanted = messages.NewRegistration.from_data(**options)

        def register() -> str:
            try:
                return str(self._client.new_account(wanted).uri)
            except errors.ConflictError as known:  # the key is registered already
                uri = str(known.location)
                self._network.account = messages.RegistrationResource(uri=uri, body=messages.Registration())
                return uri

        self._store_account(self._call(register))

    def _store_account(self, uri: str) -> None:
        self._account = {"uri": uri, "contact": _contact(self._section.email), "key": self._key.to_json()}
        self._accounts.write_account(self._url, self._account)

    # ---- orders

    def obtain(self, request: bytes, kind: str, answering: Answering, replaces: str = "") -> str:
        """Order a certificate for a request (PEM), answering challenges of one kind. Returns the chain (PEM).

        `replaces` is the identifier (RFC 9773 4.1) of the certificate of this directory that is renewed."""
        try:
            self._log_in()
            order = self._new_order(request, replaces)
        except AcmeFault as fault:
            if DEACTIVATED.search(str(fault)):
                self._key = self._network.key = _account_key({})  # a key has one account for ever (RFC 8555 7.3.6)
            elif not str(fault).startswith(NO_ACCOUNT):
                raise
            self._register()  # the directory has lost the account
            order = self._new_order(request, replaces)
        for authorization in order.authorizations:
            if authorization.body.status == messages.STATUS_PENDING:
                self._authorise(authorization, kind, answering)
        # naive local time, as the library compares it
        deadline = datetime.datetime.fromtimestamp(clock.wall() + ORDER_TIMEOUT_S)
        return str(self._call(lambda: self._client.finalize_order(order, deadline)).fullchain_pem)

    def _new_order(self, request: bytes, replaces: str) -> Any:
        """A new order; without `replaces` if the directory has no renewal information, or refuses that order."""
        if replaces and self._renewal_info():
            self._network.replaces = replaces
            try:
                return self._call(lambda: self._client.new_order(request))
            except AcmeFault as fault:  # RFC 9773 5: such as alreadyReplaced, or a certificate of another account
                is_refusal = isinstance(fault.__cause__, (messages.Error, errors.ConflictError))
                if not is_refusal or fault.retry_after_s or str(fault).startswith((NO_ACCOUNT, "rateLimited")):
                    raise
            finally:
                self._network.replaces = ""
        return self._call(lambda: self._client.new_order(request))

    def _authorise(self, authorization: Any, kind: str, answering: Answering) -> None:
        """Prove control of one name."""
        domain = str(authorization.body.identifier.value)
        offered = {str(one.chall.to_json().get("type")): one for one in authorization.body.challenges}
        found = offered.get(kind)
        if found is None:
            kinds = ", ".join(sorted(offered)) or "nothing"
            raise AcmeFault(f"the directory offers no {kind} for {domain}, but {kinds}")
        # Read from the JSON: python3-acme 2 to 5 differ in the challenges that they know.
        challenge = make_challenge(kind, domain, str(found.chall.to_json().get("token")), self._thumbprint())
        with answering(challenge):
            response = challenges.HTTP01Response(key_authorization=challenge.authorization)  # {} for every kind
            self._call(lambda: self._client.answer_challenge(found, response))
            self._await(authorization, domain)

    def _thumbprint(self) -> str:
        """The thumbprint of the account's key (RFC 7638)."""
        return str(josepy.b64encode(self._key.thumbprint(hash_function=hashes.SHA256)).decode("ascii"))

    def _await(self, authorization: Any, domain: str) -> None:
        """Wait until the authority has decided. Raises AcmeFault if control was not proven."""
        end, pause_s = clock.monotonic() + ORDER_TIMEOUT_S, POLL_S
        while clock.monotonic() < end:
            if self._stop.wait(pause_s):
                raise Stopped
            pause_s = min(pause_s * 1.5, MAX_POLL_S)
            updated, _ = self._call(lambda: self._client.poll(authorization))
            if updated.body.status == messages.STATUS_VALID:
                return
            if updated.body.status not in (messages.STATUS_PENDING, messages.STATUS_PROCESSING):
                reasons = [one.error for one in updated.body.challenges if one.error is not None]
                reason = f"{reasons[0].code}: {reasons[0].detail}" if reasons else str(updated.body.status)
                raise AcmeFault(f"the authority could not verify {domain}: {reason}")
        raise AcmeFault(f"the authority did not verify {domain} within {ORDER_TIMEOUT_S:.0f} s")

    # ---- renewal information

    def _renewal_info(self) -> str:
        """The URL of renewal information; empty if the directory offers none."""
        return str(self._directory().directory.to_partial_json().get("renewalInfo", ""))

    def renewal_window(self, identifier: str) -> Window | None:
        """The suggested window of a certificate; None if the directory offers no renewal information."""
        base = self._renewal_info()
        if not base:
            return None
        response = self._call(lambda: self._network.get(f"{base.rstrip('/')}/{identifier}"))
        window = self._call(lambda: response.json()["suggestedWindow"])
        start, end = (self._call(lambda key=key: _unix(window[key])) for key in ("start", "end"))  # type: ignore[misc]
        return Window(start, end, retry_after(response.headers.get("Retry-After")))


def identities(url: str, section: Acme) -> tuple[str, ...]:
    """Read a directory. Returns the names under which CAA records permit its authority. Raises AcmeFault."""
    one = AcmeClient(url, section, _NoAccounts(), threading.Event())
    try:
        return one.caa_identities()
    finally:
        one.close()


class _NoAccounts:
    """No account is used or kept."""

    def read_account(self, directory: str) -> dict[str, Any]:
        return {}

    def write_account(self, directory: str, account: dict[str, Any]) -> None:
        raise AssertionError("nothing is registered")


def make_challenge(kind: str, domain: str, token: str, thumbprint: str) -> Challenge:
    """A challenge with its key authorization (RFC 8555 8.1) and TXT value (8.4). Raises AcmeFault for a token with
    characters that RFC 8555 does not allow."""
    if TOKEN.fullmatch(token.encode("utf-8", "replace")) is None:
        raise AcmeFault(f"the directory sent an invalid token for {domain}")
    authorization = f"{token}.{thumbprint}"
    digest = hashlib.sha256(authorization.encode("ascii")).digest()
    return Challenge(kind, domain, token, authorization, base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii"))


def retry_after(value: str | None) -> float | None:
    """The seconds of a Retry-After field, a number or a date (RFC 9110 10.2.3); None without a usable one."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - clock.wall(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


def _unix(text: str) -> float:
    """Unix seconds of an RFC 3339 time. Raises ValueError."""
    return datetime.datetime.fromisoformat(text).timestamp()


def _account_key(account: dict[str, Any]) -> Any:
    """The stored key, or a new one."""
    if "key" in account:
        return josepy.JWK.from_json(account["key"])
    return josepy.JWKRSA(key=rsa.generate_private_key(public_exponent=65537, key_size=2048))


def _contact(address: str) -> tuple[str, ...]:
    return (f"mailto:{address}",) if address else ()


def _reason(error: Exception) -> str:
    """A short text for an error of the network or the library."""
    text = " ".join(str(error).split())
    if "Read timed out" in text or "timed out" in text:
        return f"the directory did not respond within {REQUEST_TIMEOUT_S} s"
    if refused := NO_CONNECTION.search(text):
        return f"the directory cannot be reached: {refused[1][:300]}"
    inner = text.rpartition("(Caused by ")[2] if "(Caused by " in text else text
    return f"{type(error).__name__}: {inner[:300]}".rstrip(": ")
