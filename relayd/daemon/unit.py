"""The unit of the service as it is installed, as far as it decides what relayd may read and write (systemd.exec(5)).

The files are read without systemd, so that the answer is the same in a container and on a machine that is being set up.
"""

from __future__ import annotations

import glob
import grp
import os
import pwd
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
MADE = {
    "RuntimeDirectory": "/run", "StateDirectory": "/var/lib", "LogsDirectory": "/var/log",
    "CacheDirectory": "/var/cache",
}
HOMES = ("/home", "/root", "/run/user")
TRUE = ("yes", "true", "on", "1")


@dataclass(frozen=True, slots=True)
class Unit:
    """What a service may do. `settings` are the lines of [Service], lists joined."""

    name: str
    settings: dict[str, list[str]]

    def last(self, key: str) -> str:
        return (self.settings.get(key) or [""])[-1]

    def made(self) -> list[str]:
        """The folders that systemd makes for the service."""
        return [f"{top}/{name}" for key, top in MADE.items() for name in self._words(key)]

    def makes(self, folder: str) -> bool:
        """Whether systemd makes this folder before a start."""
        return _within(folder, self.made())

    def environment(self) -> dict[str, str]:
        """The variables by which systemd names those folders."""
        found = {}
        for key, top in MADE.items():
            if names := self._words(key):
                variable = key.replace("Directory", "_DIRECTORY").upper()
                found[variable] = ":".join(f"{top}/{name}" for name in names)
        return found

    @property
    def writable_hint(self) -> str:
        kept = [folder for folder in self.made() if not folder.startswith("/run/")]
        return " or ".join(kept) or "a folder in ReadWritePaths="

    def forbids_writing(self, file: str) -> str:
        """The rule that forbids it; empty where none does."""
        path = os.path.realpath(file)
        writable = [*self.made(), *(word.lstrip("-+") for word in self._words("ReadWritePaths"))]
        if self._on("PrivateTmp"):
            writable += ["/tmp", "/var/tmp"]
        if _within(path, writable) or _within(path, ["/dev", "/proc", "/sys"]):
            return ""
        protects = self.last("ProtectSystem").lower()
        readonly = {"strict": ["/"], "full": ["/usr", "/boot", "/efi", "/etc"]}.get(
            protects, ["/usr", "/boot", "/efi"] if protects in TRUE else []
        )
        if _within(path, readonly):
            return f"ProtectSystem={protects}"
        if self.last("ProtectHome").lower() == "read-only" and _within(path, HOMES):
            return "ProtectHome=read-only"
        named = [word.lstrip("-+") for word in self._words("ReadOnlyPaths")]
        return "ReadOnlyPaths=" if _within(path, named) else self.hides(file)

    def hides(self, file: str) -> str:
        """The rule by which the service does not see a file; empty where it does."""
        path = os.path.realpath(file)
        if self.last("ProtectHome").lower() in (*TRUE, "tmpfs") and _within(path, HOMES):
            return f"ProtectHome={self.last('ProtectHome')}"
        if self._on("PrivateTmp") and _within(path, ["/tmp", "/var/tmp"]):
            return f"PrivateTmp={self.last('PrivateTmp')}"
        named = [word.lstrip("-+") for word in self._words("InaccessiblePaths")]
        return "InaccessiblePaths=" if _within(path, named) else ""

    def become(self) -> str:
        """Take over the user and the groups of the service; why that is not possible, or nothing. Needs root."""
        user, group = self.last("User") or "root", self.last("Group")
        try:
            account = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        except KeyError:
            return f"{self.name} runs as the user {user}, which does not exist"
        try:
            gid = account.pw_gid if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
            named = self._words("SupplementaryGroups")
            more = [int(one) if one.isdigit() else grp.getgrnam(one).gr_gid for one in named]
        except KeyError as error:
            return f"{self.name} names a group that does not exist: {error.args[0]}"
        try:
            os.setgroups(sorted({*os.getgrouplist(account.pw_name, gid), *more}))
            os.setresgid(gid, gid, gid)
            os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
        except OSError as error:
            return f"cannot become the user {user}: {error.strerror}"
        return ""

    def _words(self, key: str) -> list[str]:
        return [word for line in self.settings.get(key, []) for word in line.split()]

    def _on(self, key: str) -> bool:
        return self.last(key).lower() in (*TRUE, "disconnected")


def installed(name: str, folders: Iterable[str] = FOLDERS) -> Unit | None:
    """The unit of this name with its drop-ins, or the one in this file; None where there is none."""
    folders = tuple(folders)
    if "/" in name:
        return Unit(os.path.basename(name), _settings([name])) if os.path.isfile(name) else None
    main = next((f"{folder}/{name}" for folder in folders if os.path.isfile(f"{folder}/{name}")), None)
    if main is None:
        return None
    dropped: dict[str, str] = {}
    for folder in reversed(folders):
        for file in glob.glob(f"{glob.escape(folder)}/{name}.d/*.conf"):
            dropped[os.path.basename(file)] = file
    return Unit(name, _settings([main, *(dropped[one] for one in sorted(dropped))]))


def _settings(files: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in files:
        section = ""
        for line in _lines(file):
            if line.startswith("["):
                section = line.strip("[]")
            elif section == "Service" and "=" in line:
                key, _, value = line.partition("=")
                if value.strip():
                    found.setdefault(key.strip(), []).append(value.strip())
                else:
                    found[key.strip()] = []  # an empty value takes back what stood there before
    return found


def _lines(file: str) -> Iterator[str]:
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:
            text = opened.read(1 << 20)
    except OSError:
        return
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and line.strip()[0] not in "#;":
            yield line.strip()


def _within(path: str, folders: Iterable[str]) -> bool:
    return any(folder == "/" or path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)
