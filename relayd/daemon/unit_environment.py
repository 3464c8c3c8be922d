"""The variables and credentials that systemd passes to a service (systemd.exec(5)), evaluated as root.

1. A missing file or a credential that cannot be decrypted is a fault, because systemd does not start the service then.
2. Settings that only systemd itself can evaluate are listed in `unchecked`, never guessed.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import field

from relayd.daemon.unit import Unit
from relayd.dataclass import dataclass

CREDENTIAL_STORES = ("/etc/credstore", "/run/credstore", "/usr/local/lib/credstore", "/usr/lib/credstore")
FILE_BYTES = 1 << 20
DECRYPT = "systemd-creds"


@dataclass(slots=True)
class ServiceEnvironment:
    """Variables and credentials of the service, and the faults that prevent its start."""

    variables: dict[str, str] = field(default_factory=dict)
    credentials: dict[str, bytes] = field(default_factory=dict, repr=False)
    faults: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def folder(self, owner: tuple[int, int]) -> Iterator[None]:
        """Context with the credentials in a temporary folder of the service's user, as at run time."""
        if not self.credentials:
            yield
            return
        directory = tempfile.mkdtemp(prefix="relayd-check-", dir="/run" if os.access("/run", os.W_OK) else None)
        try:
            for name, value in self.credentials.items():
                path = os.path.join(directory, name)
                with open(path, "wb", opener=lambda file, flags: os.open(file, flags, 0o400)) as file:
                    file.write(value)
                os.chown(path, *owner)
            os.chown(directory, *owner)
            self.variables["CREDENTIALS_DIRECTORY"] = directory
            yield
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def service_environment(unit: Unit) -> ServiceEnvironment:
    """Evaluate the settings of the unit. Only reads files."""
    service = ServiceEnvironment()
    for line in unit.values("Environment"):
        service.variables |= _assignments(line)
    for named in unit.values("EnvironmentFile"):
        _environment_file(named, service)
    for line in unit.values("SetCredential"):
        name, _, value = line.partition(":")
        service.credentials[name] = value.encode().decode("unicode_escape").encode("latin-1", "replace")
    for key in ("LoadCredential", "LoadCredentialEncrypted", "ImportCredential"):
        for line in unit.values(key):
            name, _, path = line.partition(":")
            _credential(name, path or name, key, service)
    if unit.values("SetCredentialEncrypted"):
        service.unchecked.append("credentials of SetCredentialEncrypted=")
    return service


def _assignments(line: str) -> dict[str, str]:
    try:
        parts = shlex.split(line)
    except ValueError:
        return {}
    return dict(part.split("=", 1) for part in parts if "=" in part)


def _environment_file(named: str, service: ServiceEnvironment) -> None:
    pattern = named.removeprefix("-")
    paths = sorted(glob.glob(pattern)) or [pattern]
    for path in paths:
        try:
            text = _read(path).decode("utf-8", "replace")
        except OSError as error:
            if not named.startswith("-"):
                service.faults.append(f"EnvironmentFile={named} cannot be read: {error.strerror}")
            continue
        for line in text.replace("\\\n", "").splitlines():
            name, equals, value = line.strip().partition("=")
            if equals and name[:1] not in ("#", ";"):
                service.variables[name.strip()] = _unquoted(value.strip())


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1]
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return re.sub(r"\\(.)", r"\1", value)


def _credential(name: str, path: str, key: str, service: ServiceEnvironment) -> None:
    """Load one credential, or all of a folder. An absolute path must exist unless SetCredential= sets a value."""
    if key == "ImportCredential":
        for sealed in (False, True):
            for found in _stored("*", sealed):
                if fnmatch.fnmatchcase(os.path.basename(found), name):
                    _load(os.path.basename(found), found, sealed, key, service)
        return
    sealed = key == "LoadCredentialEncrypted"
    stored = [*(_stored(path, sealed=True) if sealed else ()), *_stored(path, sealed=False)]
    for location in [path] if os.path.isabs(path) else stored[:1]:
        if os.path.isdir(location):
            for one in sorted(os.listdir(location)):
                _load(f"{name}_{one}", os.path.join(location, one), sealed, key, service)
        elif os.path.exists(location) and stat.S_ISSOCK(os.stat(location).st_mode):
            service.unchecked.append(f"the credential {name}, which systemd reads from the socket {location}")
        elif os.path.exists(location) or name not in service.credentials:
            _load(name, location, sealed, key, service)


def _stored(name: str, sealed: bool) -> list[str]:
    """The files of this name in the credential stores, in the order of precedence."""
    stores = [f"{store}.encrypted" if sealed else store for store in CREDENTIAL_STORES]
    return [found for store in stores for found in sorted(glob.glob(f"{store}/{name}"))]


def _load(name: str, path: str, sealed: bool, key: str, service: ServiceEnvironment) -> None:
    try:
        value = _read(path)
    except OSError as error:
        service.faults.append(f"{key}={name}:{path} cannot be read: {error.strerror}")
        return
    if not sealed:
        service.credentials[name] = value
    elif shutil.which(DECRYPT) is None:
        service.unchecked.append(f"the credential {name}: {DECRYPT} is not installed")
    else:
        opened = subprocess.run([DECRYPT, f"--name={name}", "decrypt", path, "-"], capture_output=True, check=False)
        if opened.returncode:
            output = opened.stderr.decode("utf-8", "replace").strip().splitlines()
            service.faults.append(f"{key}={name}:{path} cannot be decrypted: {output[-1] if output else DECRYPT}")
        else:
            service.credentials[name] = opened.stdout


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(FILE_BYTES)
