"""The installed systemd unit of the service: the settings that restrict which files relayd may use (systemd.exec(5)).

The unit files are parsed without systemd, so the results are the same in a container and on a machine being set up.
"""

from __future__ import annotations

import glob
import grp
import os
import pwd
import re
from collections.abc import Iterable, Iterator

from relayd.dataclass import dataclass

FOLDERS = (
    "/etc/systemd/system.control", "/run/systemd/system.control", "/etc/systemd/system", "/run/systemd/system",
    "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system",
)
MANAGED = {
    "RuntimeDirectory": "/run", "StateDirectory": "/var/lib", "LogsDirectory": "/var/log",
    "CacheDirectory": "/var/cache",
}
HOMES = ("/home", "/root", "/run/user")
TRUE = ("yes", "true", "on", "1")
# Settings implied by DynamicUser=yes, unless the unit sets a stricter value: the implied value, the stricter ones.
IMPLIED = {
    "ProtectSystem": ("strict", ("strict",)), "ProtectHome": ("read-only", (*TRUE, "tmpfs")), "PrivateTmp": ("yes", ()),
}
DYNAMIC_UID = 61184  # the first UID that systemd assigns for DynamicUser=
# Settings that change the visible files or the variables of a service, and that this module does not model.
NOT_MODELLED = (
    "RootDirectory", "RootImage", "BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "MountImages",
    "ExtensionImages", "ExtensionDirectories", "PassEnvironment", "PAMName",
)


@dataclass(frozen=True, slots=True)
class Unit:
    """The settings of a service. `settings`: the lines of [Service], all values of a key in one list."""

    name: str
    settings: dict[str, list[str]]

    def value(self, key: str) -> str:
        written = (self.settings.get(key) or [""])[-1]
        if key in IMPLIED and self.settings.get("DynamicUser", [""])[-1:][0].lower() in TRUE:
            implied, stricter = IMPLIED[key]
            return written if written.lower() in stricter else implied
        return written

    def values(self, key: str) -> list[str]:
        """All values of a key, one per line of the unit, with the specifiers of systemd.unit(5) expanded."""
        prefix, _, instance = self.name.rpartition(".")[0].partition("@")
        known = {
            "%": "%", "n": self.name, "N": self.name.rpartition(".")[0], "p": prefix, "i": instance, "I": instance,
            "S": "/var/lib", "C": "/var/cache", "L": "/var/log", "t": "/run", "E": "/etc", "T": "/tmp", "V": "/var/tmp",
        }
        return [re.sub("%(.)", lambda found: known.get(found[1], found[0]), one) for one in self.settings.get(key, [])]

    @property
    def dynamic(self) -> bool:
        """True if systemd allocates the user: DynamicUser= is set and no user of that name exists."""
        return self._is_enabled("DynamicUser") and not _user_exists(self._user_name)

    def not_modelled(self) -> list[str]:
        """The settings of this unit that `relayd check` does not model although they could change its results."""
        return [f"{key}= of {self.name}" for key in NOT_MODELLED if self.settings.get(key)]

    def managed_folders(self) -> list[str]:
        """The folders that systemd creates for the service (RuntimeDirectory=, StateDirectory= and others)."""
        private = ("", "/private") if self.dynamic else ("",)
        return [
            f"{top}{inner}/{name}" for key, top in MANAGED.items() for name in self._items(key) for inner in private
        ]

    def manages(self, folder: str) -> bool:
        """True if systemd creates this folder before a start."""
        return _within(folder, self.managed_folders())

    def environment(self) -> dict[str, str]:
        """The variables in which systemd passes the paths of those folders."""
        found = {}
        for key, top in MANAGED.items():
            if names := self._items(key):
                variable = key.replace("Directory", "_DIRECTORY").upper()
                found[variable] = ":".join(f"{top}/{name}" for name in names)
        return found

    @property
    def writable_folders(self) -> str:
        persistent = [folder for folder in self.managed_folders() if not folder.startswith("/run/")]
        return " or ".join(persistent) or "a folder in ReadWritePaths="

    def forbids_writing(self, file: str) -> str:
        """The setting that forbids writing this file; empty if none does."""
        path = os.path.realpath(file)
        writable = [*self.managed_folders(), *(item.lstrip("-+") for item in self._items("ReadWritePaths"))]
        if self._is_enabled("PrivateTmp"):
            writable += ["/tmp", "/var/tmp"]
        if _within(path, writable) or _within(path, ["/dev", "/proc", "/sys"]):
            return ""
        protects = self.value("ProtectSystem").lower()
        readonly = {"strict": ["/"], "full": ["/usr", "/boot", "/efi", "/etc"]}.get(
            protects, ["/usr", "/boot", "/efi"] if protects in TRUE else []
        )
        if _within(path, readonly):
            return f"ProtectSystem={protects}"
        if self.value("ProtectHome").lower() == "read-only" and _within(path, HOMES):
            return "ProtectHome=read-only"
        named = [item.lstrip("-+") for item in self._items("ReadOnlyPaths")]
        return "ReadOnlyPaths=" if _within(path, named) else self.hides(file)

    def hides(self, file: str) -> str:
        """The setting that hides a file from the service; empty if it is visible."""
        path = os.path.realpath(file)
        if self.value("ProtectHome").lower() in (*TRUE, "tmpfs") and _within(path, HOMES):
            return f"ProtectHome={self.value('ProtectHome')}"
        if self._is_enabled("PrivateTmp") and _within(path, ["/tmp", "/var/tmp"]):
            return f"PrivateTmp={self.value('PrivateTmp')}"
        named = [item.lstrip("-+") for item in self._items("InaccessiblePaths")]
        return "InaccessiblePaths=" if _within(path, named) else ""

    @property
    def user(self) -> str:
        """The user of the service, for messages."""
        return "of DynamicUser=" if self.dynamic else self._user_name

    @property
    def _user_name(self) -> str:
        return self.value("User") or (self.name.partition(".")[0] if self._is_enabled("DynamicUser") else "root")

    def identity(self) -> tuple[int, int, list[int]]:
        """The user, the group and all groups of the service. Raises LookupError, with the reason."""
        user, group = self._user_name, self.value("Group")
        account = None
        if not self.dynamic:
            try:
                account = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
            except KeyError:
                raise LookupError(f"{self.name} runs as the user {user}, which does not exist") from None
        own = DYNAMIC_UID if account is None else account.pw_gid
        try:
            invented = not group or (self.dynamic and not group.isdigit() and not _group_exists(group))
            gid = own if invented else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
            named = self._items("SupplementaryGroups")
            more = [int(one) if one.isdigit() else grp.getgrnam(one).gr_gid for one in named]
        except KeyError as error:
            raise LookupError(f"{self.name} names a group that does not exist: {error.args[0]}") from None
        if account is None:
            return DYNAMIC_UID, gid, sorted({gid, *more})
        return account.pw_uid, gid, sorted({*os.getgrouplist(account.pw_name, gid), *more})

    def switch_user(self) -> str:
        """Switch to the user and groups of the service. Returns the error, or an empty string. Needs root."""
        try:
            uid, gid, groups = self.identity()
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except LookupError as error:
            return str(error)
        except OSError as error:
            return f"cannot become the user {self.user}: {error.strerror}"
        return ""

    def _items(self, key: str) -> list[str]:
        return [item for line in self.values(key) for item in line.split()]

    def _is_enabled(self, key: str) -> bool:
        return self.value(key).lower() in (*TRUE, "disconnected")


def _user_exists(user: str) -> bool:
    try:
        return bool(user) and (user.isdigit() or bool(pwd.getpwnam(user)))
    except KeyError:
        return False


def _group_exists(group: str) -> bool:
    try:
        return bool(grp.getgrnam(group))
    except KeyError:
        return False


def load_unit(name: str, folders: Iterable[str] = FOLDERS) -> Unit | None:
    """Load the unit of this name with its drop-ins, or the unit file at this path. None if it does not exist."""
    folders = tuple(folders)
    if "/" in name:
        return Unit(os.path.basename(name), _settings([name])) if os.path.isfile(name) else None
    main = next((f"{folder}/{name}" for folder in folders if os.path.isfile(f"{folder}/{name}")), None)
    if main is None:
        return None
    drop_ins: dict[str, str] = {}
    for folder in reversed(folders):
        for file in glob.glob(f"{glob.escape(folder)}/{name}.d/*.conf"):
            drop_ins[os.path.basename(file)] = file
    return Unit(name, _settings([main, *(drop_ins[one] for one in sorted(drop_ins))]))


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
                    found[key.strip()] = []  # an empty value resets the list
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
