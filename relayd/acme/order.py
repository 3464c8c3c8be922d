"""One attempt to obtain a certificate, and its bookkeeping. Only the thread that orders loads this module, and
with it the ACME library.

1. An attempt is recorded as failed before it begins: a restart loop cannot exceed the limits of an authority.
2. Nothing is ordered if the record or the certificate could not be stored.
3. The certificate in use is replaced only by one that is complete and has the requested name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from relayd import clock
from relayd.acme import schedule
from relayd.acme.client import AcmeClient, AcmeFault, Challenge, Stopped
from relayd.acme.dns_hook import HookFault, run_hook
from relayd.acme.keys import Leaf, challenge_pem, key_pem, new_key, read_leaf, request_pem
from relayd.acme.sharing import Lease
from relayd.acme.spec import CertificateSpec
from relayd.acme.state import MAX_BYTES, UNFINISHED, Record, State
from relayd.dataclass import dataclass
from relayd.schema.files import FileFault, read_file

RECORD_PREFIX = "_acme-challenge."


@dataclass(frozen=True, slots=True)
class Orderer:
    """The means of an attempt. `environment`: of the DNS hook. `lease` shares writes to the state."""

    state: State
    environment: Mapping[str, str]
    lease: Lease

    def attempt(self, spec: CertificateSpec, record: Record, chance: float) -> Record:
        """Obtain a certificate. Returns the new record, with an error if the attempt failed. Raises Stopped; OSError if
        the state cannot be written."""
        now = clock.wall()
        failing = replace(
            record, failures=record.failures + 1, tried_at=now, error=UNFINISHED,
            next_try=now + schedule.pause_s(record.failures + 1, chance),
        )
        self._write_record(spec, failing)
        self.state.remove_challenges()
        self.lease.end_answer()
        try:
            with self.state.reserve(spec.name):
                done = self._try_directories(spec, record, failing, chance)
        except Stopped:
            self._write_record(spec, record)
            raise
        self._write_record(spec, done)
        return done

    def _write_record(self, spec: CertificateSpec, record: Record) -> None:
        self.state.write_record(spec.name, record)
        self.lease.share(spec.name)

    def _try_directories(self, spec: CertificateSpec, record: Record, failing: Record, chance: float) -> Record:
        """The record after the first directory that issues, or after all have failed."""
        kind = spec.kinds[record.failures % len(spec.kinds)]
        reasons, held = [], {}
        for url in spec.section.directory:
            now = clock.wall()
            if record.held.get(url, 0.0) > now:
                held[url] = record.held[url]
                reasons.append(f"{url}: asked for a pause of {held[url] - now:.0f} s more")
                continue
            client = AcmeClient(url, spec.section, self.state, self.lease.halt)
            try:
                return self._issue(spec, client, url, kind, chance, self._replaced(spec, record, url))
            except AcmeFault as fault:
                reasons.append(f"{url}: {fault}")
                if fault.retry_after_s:
                    held[url] = now + schedule.hold_s(fault.retry_after_s)
            except HookFault as fault:
                reasons.append(str(fault))
            finally:
                client.close()
                self.lease.share_account(url)
        next_try = failing.next_try
        if len(held) == len(spec.section.directory):  # no directory may be asked earlier
            next_try = max(next_try, min(held.values()))
        return replace(failing, error="; ".join(reasons), held=held, next_try=next_try)

    def _replaced(self, spec: CertificateSpec, record: Record, url: str) -> str:
        """The identifier of the certificate in use, if this directory has issued it; else empty."""
        leaf = examine(self.state, spec.name) if record.directory == url else None
        return "" if leaf is None else leaf.identifier

    def _issue(
        self, spec: CertificateSpec, client: AcmeClient, url: str, kind: str, chance: float, replaces: str
    ) -> Record:
        key = new_key(spec.section.key_type)
        answering = partial(self._answering, spec)
        chain = client.obtain(request_pem(key, spec.name), kind, answering, replaces).encode("ascii", "replace")
        pem = key_pem(key) + chain
        try:
            leaf = read_leaf(pem)
        except ValueError as error:
            raise AcmeFault(f"the certificate that was issued {error}") from None
        if spec.name not in leaf.names or leaf.ends_s <= clock.wall():
            raise AcmeFault(f"the certificate that was issued is not valid for {spec.name}")
        self.state.write_certificate(spec.name, pem)
        now = clock.wall()
        record = Record(
            directory=url, tried_at=now, renew_at=schedule.renewal_time(leaf.begins_s, leaf.ends_s, chance),
        )
        return self._with_suggestion(record, client, leaf, chance)

    def ask(self, spec: CertificateSpec, record: Record, leaf: Leaf, chance: float) -> Record:
        """Ask the authority when to renew (ARI). Returns the new record, stored. Raises OSError and Stopped."""
        client = AcmeClient(record.directory, spec.section, self.state, self.lease.halt)
        try:
            done = self._with_suggestion(record, client, leaf, chance)
        finally:
            client.close()
        self._write_record(spec, done)
        return done

    def _with_suggestion(self, record: Record, client: AcmeClient, leaf: Leaf, chance: float) -> Record:
        """The record with the time of renewal that the authority suggests. A fault keeps the planned one."""
        now = clock.wall()
        try:
            window = client.renewal_window(leaf.identifier) if leaf.identifier else None
        except AcmeFault:
            return replace(record, ask_at=now + schedule.ask_again_s(None))
        if window is None:
            planned = schedule.renewal_time(leaf.begins_s, leaf.ends_s, chance)
            renew_at = planned if record.suggested or not record.renew_at else record.renew_at
            return replace(record, suggested=False, renew_at=renew_at, ask_at=now + schedule.ASK_MOST_S)
        renew_at = record.renew_at
        if not record.suggested or not window.start_s <= renew_at <= window.end_s:
            renew_at = schedule.suggested_time(window.start_s, window.end_s, chance)
        renew_at = min(renew_at, schedule.latest_renewal(leaf.begins_s, leaf.ends_s))
        ask_at = now + schedule.ask_again_s(window.retry_after_s)
        return replace(record, suggested=True, renew_at=renew_at, ask_at=ask_at)

    @contextlib.contextmanager
    def _answering(self, spec: CertificateSpec, challenge: Challenge) -> Iterator[None]:
        """Answer a challenge while the context is open. Raises HookFault."""
        kind, state = challenge.kind, self.state
        if kind == "dns-01":
            self._run_hook(spec, "set", challenge)
            try:
                yield
            finally:
                with contextlib.suppress(HookFault, Stopped):  # the record does no harm
                    self._run_hook(spec, "delete", challenge)
            return
        key = add_challenge(state, kind, challenge.domain, challenge.token, challenge.authorization)
        try:
            self.lease.answer(kind, challenge.domain, challenge.token, challenge.authorization)
            yield
        finally:
            state.remove_challenge(kind, key)
            self.lease.end_answer()

    def _run_hook(self, spec: CertificateSpec, action: str, challenge: Challenge) -> None:
        section = spec.section
        environment = {
            **self.environment, "CERTBOT_DOMAIN": challenge.domain, "CERTBOT_VALIDATION": challenge.value,
        }
        argv = (*section.dns_hook, action, RECORD_PREFIX + challenge.domain, challenge.value)
        try:
            run_hook(argv, float(section.dns_hook_timeout), environment, self.lease.halt)
        except HookFault:
            if self.lease.halt.is_set():  # which has killed it
                raise Stopped from None
            raise


def add_challenge(state: State, kind: str, domain: str, token: str, authorization: str) -> str:
    """Answer a challenge of http-01 or tls-alpn-01 from now on. Returns its key in the state. Raises OSError."""
    content = authorization.encode("ascii")
    key = token if kind == "http-01" else domain
    state.add_challenge(kind, key, content if kind == "http-01" else challenge_pem(domain, content))
    return key


def examine(state: State, name: str) -> Leaf | None:
    """The certificate of a name; None without a usable one. A damaged file is set aside. Raises OSError."""
    path = state.certificate_file(name)
    if not os.path.exists(path):
        return None
    try:
        leaf = read_leaf(read_file(path, MAX_BYTES)[0])
    except FileFault as fault:
        raise OSError(f"{path}: {fault}") from None
    except (ValueError, TypeError):
        state.set_certificate_aside(name)
        return None
    return leaf if name in leaf.names else None
