"""Checks of the machine before a start binds its listeners. `relayd check` and a reload run the same checks.

1. Nothing is opened for writing, created or changed, and no port is bound.
2. A defect is a fault; a future defect, such as a certificate that expires soon, is a warning.
3. Given the unit of the service, its sandbox is checked too: which paths it makes read-only and which it hides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import os
import ssl
import stat
from collections.abc import Container, Iterator
from dataclasses import field, replace
from typing import Any

from relayd import clock, registry
from relayd.acme.state import State
from relayd.config.https import acme_sections
from relayd.config.listener import Tls
from relayd.config.load import Loaded, load
from relayd.config.model import Config
from relayd.config.store import STORES
from relayd.daemon.endpoint_lists import CHECKED
from relayd.daemon.generations import SYSTEM_STATE
from relayd.daemon.state_dir import acme_folder, shared_folder
from relayd.daemon.unit import Unit
from relayd.dataclass import dataclass
from relayd.errors import ConfigError, Finding
from relayd.plan.compile import compile_plan
from relayd.plan.specs import discovery_spec, stamps_of
from relayd.schema import Secret
from relayd.schema.plugins import options_of
from relayd.server.demo_upstream import demo_spec
from relayd.server.tls import PemFault, authorities_end_s_of, load_authorities, load_pair, make_context, validity_of
from relayd.stores import Bounds
from relayd.upstream.discovered import discovery

DAY_S = 86400
AUTHORITY = "authority"
AUTHORITIES = ("ca", "directory_ca")  # of servers that relayd connects to
PEM = ("cert", "key", "ca", "client_ca", "directory_ca")
_NO_TEXTS = (type(None), bool, int, float)
ACME_MODULES = ("acme", "josepy")
WARN_S, URGENT_S = 30 * DAY_S, 7 * DAY_S


@dataclass(frozen=True, slots=True)
class Expiry:
    """The expiry of a file of certificates. `kind` is listener, upstream or store for one that relayd presents to its
    peers, with the name of these, and authority for one that verifies peers, with its setting as name."""

    kind: str
    name: str
    path: str  # the key of the configuration
    file: str
    ends_s: float

    @property
    def left_s(self) -> float:
        """Seconds until the expiry; negative afterwards."""
        return self.ends_s - clock.wall()

    def describe(self) -> dict[str, object]:
        """The entry of /status."""
        return {
            "of": self.kind, "name": self.name, "file": self.file, "expires_at": self.ends_s,
            "left_s": int(self.left_s), "warning": self.warning(),
        }

    def warning(self) -> str:
        """The warning, more urgent in the last week; empty if the expiry is far away."""
        left_s, day = self.left_s, day_of(self.ends_s)
        noun = "an authority" if self.kind == AUTHORITY else "the certificate"
        if left_s <= 0:
            return f"{noun.upper()} HAS EXPIRED on {day}: {self.file}"
        if left_s > WARN_S:
            return ""
        lead = f"{noun.upper()} EXPIRES SOON, " if left_s <= URGENT_S else f"{noun} expires "
        return f"{lead}{remaining(left_s)}, on {day}: {self.file}"


@dataclass(slots=True)
class Preflight:
    """The results: findings, not yet located in the files, and the expiry of certificates."""

    findings: list[Finding] = field(default_factory=list)
    expiries: list[Expiry] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        return [one for one in self.findings if one.level == "error"]

    def fault(self, path: str, message: str, suggestion: str = "") -> None:
        self.findings.append(Finding("", 0, 0, path, message, suggestion))


def load_checked(path: str, unit: Unit | None = None) -> tuple[Loaded, Preflight]:
    """Load a configuration and run all checks. Raises ConfigError with every finding, located in the files."""
    loaded = load(path)
    result = preflight(loaded.config, loaded.files, unit)
    faults: list[Finding] = []
    try:
        compile_plan(loaded.config, 1, builtin={"demo": demo_spec("")})
    except ConfigError as refused:
        faults += refused.findings
    if faults or result.faults:
        raise ConfigError(loaded.located([*faults, *result.findings]))
    return replace(loaded, warnings=(*loaded.warnings, *loaded.located(result.findings))), result


def preflight(config: Config, files: tuple[str, ...] = (), unit: Unit | None = None) -> Preflight:
    """Run all checks. `files`: the files of the configuration."""
    result = Preflight()
    _listeners(config, result)
    _acme_library(config, result)
    _authorities(config, result)
    _client_certificates(config, result)
    _upstreams(config, result)
    result.expiries += authority_expiries(config, {one.path for one in result.faults})
    for path, file in _files_written(config):
        if fault := write_fault(file, unit):
            result.fault(path, fault[0], fault[1])
    if unit is not None:
        for path, file in (*(("", file) for file in files), *_files_read(config)):
            if rule := unit.hides(file):
                result.fault(path, f"{file} is not visible to {unit.name} ({rule})", "move it to /etc/relayd")
    for one in result.expiries:
        if warning := one.warning():
            suggestion = "renew it, then reload relayd"
            result.findings.append(Finding("", 0, 0, one.path, warning, suggestion, level="warning"))
    return result


def pem_stamps(config: Config) -> dict[str, tuple[str, ...]]:
    """The files of certificates, private keys and authorities by configuration key, each with a stamp that changes with
    its contents."""
    read = _files_read(config)
    return {path: (file, *stamps_of(file)) for path, file in read if path.rpartition(".")[2] in PEM}


def day_of(wall_s: float) -> str:
    return datetime.datetime.fromtimestamp(wall_s, datetime.UTC).strftime("%Y-%m-%d")


def remaining(left_s: float) -> str:
    days = int(left_s // DAY_S)
    return f"in {days} days" if days > 1 else f"in {max(int(left_s // 3600), 0)} hours"


def _listeners(config: Config, result: Preflight) -> None:
    for name, listener in config.listeners.items():
        if listener.tls is None:
            continue
        try:
            make_context(name, listener.tls, State(acme_folder()))
        except ConfigError as refused:
            result.findings += refused.findings
            continue
        result.expiries += listener_expiries(name, listener.tls)


def listener_expiries(name: str, tls: Tls) -> list[Expiry]:
    """The expiry of the certificate files of a listener, without those from ACME, and of its clients' authorities.
    Raises PemFault."""
    found = [
        Expiry("listener", name, f"listeners.{name}.tls.certificates[{number}]", one.cert, validity_of(one.cert).ends_s)
        for number, one in enumerate(tls.certificates)
    ]
    if tls.client_ca is not None and (ends_s := authorities_end_s_of(tls.client_ca)) is not None:
        path = f"listeners.{name}.tls.client_ca"
        found.append(Expiry(AUTHORITY, path, path, tls.client_ca, ends_s))
    return found


def authority_expiries(config: Config, faulty: Container[str] = ()) -> list[Expiry]:
    """The expiry of the files of authorities of servers, except those of the settings `faulty`."""
    found = []
    for path, file in _files_read(config):
        if path.rpartition(".")[2] in AUTHORITIES and path not in faulty:
            with contextlib.suppress(PemFault):
                if (ends_s := authorities_end_s_of(file)) is not None:
                    found.append(Expiry(AUTHORITY, path, path, file, ends_s))
    return found


def _acme_library(config: Config, result: Preflight) -> None:
    """`tls.acme` needs a library that is not a dependency of the package."""
    for name, _ in acme_sections(config.listeners):
        if missing := [module for module in ACME_MODULES if not registry.is_installed(module)]:
            message = f"needs the package python3-acme ({missing[0]} is missing)"
            result.fault(f"listeners.{name}.tls.acme", message, "apt install python3-acme")


def _authorities(config: Config, result: Preflight) -> None:
    """The files of authorities that verify the servers that relayd connects to: upstreams, stores, ACME directories."""
    for path, file in _files_read(config):
        if path.rpartition(".")[2] in AUTHORITIES:
            try:
                load_authorities(file)
            except PemFault as fault:
                result.fault(path, str(fault), fault.suggestion)


def _client_certificates(config: Config, result: Preflight) -> None:
    """The certificates that relayd presents to these servers."""
    read = dict(_files_read(config))
    for path, cert in read.items():
        key = read.get(f"{path.removesuffix('.cert')}.key")
        if path.endswith(".tls.cert") and key is not None:
            try:
                load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert, key)
                if path == "store.tls.cert":
                    result.expiries.append(Expiry("store", path, path, cert, validity_of(cert).ends_s))
            except PemFault as fault:
                result.fault(path, str(fault), fault.suggestion)


def _upstreams(config: Config, result: Preflight) -> None:
    for name, upstream in config.upstreams.items():
        path, cert = f"upstreams.{name}.tls.cert", upstream.tls.cert
        if cert is not None and not any(one.path == path for one in result.faults):
            result.expiries.append(Expiry("upstream", name, path, cert, validity_of(cert).ends_s))
        if (spec := discovery_spec(upstream.discovery)) is not None:
            checked, where = discovery(spec, CHECKED), f"upstreams.{name}.discovery.{spec.kind}"
            for key, reason in checked.faults():
                result.fault(f"{where}.{key}", reason)
            for key, warning in checked.cautions():
                result.findings.append(Finding("", 0, 0, f"{where}.{key}", warning, level="warning"))


def _files_written(config: Config) -> Iterator[tuple[str, str]]:
    """The files that relayd will write, with their configuration keys."""
    log = config.telemetry.access_log
    if (file := log.file) is not None and log.format not in ("off", "journal"):
        yield "telemetry.access_log.file", os.path.abspath(file)
    for name, _ in acme_sections(config.listeners):
        folder = acme_folder()
        yield f"listeners.{name}.tls.acme", os.path.join(folder, "lock") if os.path.isdir(folder) else folder
    section = config.store
    if section.kind is None:  # a default that cannot be opened is replaced by memory
        return
    file_of = getattr(registry.load(STORES, section.kind), "file_of", None)
    if file_of is not None:
        bounds = Bounds(section.entries, int(section.size), float(section.ttl), shared_folder() or SYSTEM_STATE)
        yield "store.path", file_of(options_of(section, STORES, section.kind), bounds)


def write_fault(file: str, unit: Unit | None = None) -> tuple[str, str] | None:
    """The error and a suggestion if a file could not be written or created; None if it could."""
    folder = os.path.dirname(file)
    if unit is not None:
        if rule := unit.forbids_writing(file):
            return f"{file} cannot be written by {unit.name} ({rule})", f"write below {unit.writable_folders}"
        if unit.manages(folder) and (unit.dynamic or not os.path.exists(folder)):
            return None  # systemd creates it before the start, or changes its owner to the dynamic user
    try:
        mode = os.stat(file).st_mode
        if stat.S_ISDIR(mode):
            return f"{file} cannot be opened: Is a directory", ""
        if os.access(file, os.W_OK, effective_ids=True):
            return None
        return _denied(file, file, "this user may not write it")
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"{file} cannot be opened: {error.strerror}", ""
    if not os.path.isdir(folder):
        return f"{file} cannot be opened: No such file or directory", f"the folder {folder} does not exist"
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return _denied(file, folder, f"this user may not write in {folder}")
    return None


def _denied(file: str, existing: str, suggestion: str) -> tuple[str, str]:
    """The error of a file that cannot be written. `existing`: the file, or the folder in which it would be made."""
    if os.statvfs(existing).f_flag & os.ST_RDONLY:
        return f"{file} cannot be opened: Read-only file system", ""
    return f"{file} cannot be opened: Permission denied", suggestion


def secrets_of(config: Config) -> Iterator[tuple[str, Secret]]:
    """All secrets of a configuration, with their keys."""
    yield from ((path, value) for path, value in _texts("", config) if isinstance(value, Secret))


def _files_read(config: Config) -> Iterator[tuple[str, str]]:
    """The files that relayd reads, with their configuration keys."""
    for path, value in _texts("", config):
        if isinstance(value, Secret):
            kind, _, file = value.source.partition(" ")
            if kind == "file":
                yield path, file
        elif value.startswith("/") and path.rpartition(".")[2] in PEM:
            yield path, value


@functools.cache
def _keys_of(kind: type) -> tuple[tuple[str, str], ...] | None:
    """The keys of a section, with the names of their members; None if this is no section."""
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple((str(one.metadata.get("key") or one.name), one.name) for one in dataclasses.fields(kind))


def _texts(path: str, value: Any) -> list[tuple[str, str | Secret]]:
    """All texts and secrets in a value of the configuration, with their keys. Most values are numbers or None."""
    if isinstance(value, (str, Secret)):
        return [(path, value)]
    found: list[tuple[str, str | Secret]] = []
    if (keys := _keys_of(value.__class__)) is not None:
        for key, name in keys:
            if (inner := getattr(value, name)).__class__ not in _NO_TEXTS:
                found += _texts(f"{path}.{key}" if path else key, inner)
    elif hasattr(value, "items"):
        for name, inner in value.items():
            found += _texts(f"{path}.{name}", inner)
    elif isinstance(value, (tuple, list)):
        for number, inner in enumerate(value):
            found += _texts(f"{path}[{number}]", inner)
    return found
