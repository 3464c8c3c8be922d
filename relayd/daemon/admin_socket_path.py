"""Where the admin socket is: what the configuration says, or a private place for somebody who may not write there.

1. The daemon notes its socket under the name of its configuration file, for the commands that look for it.
2. Without a note a command reads the address off the file's text, which may be broken: no YAML is parsed here.
3. In a folder that others could have made nothing is put and nothing is believed.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping

DEFAULT_FILE = "/etc/relayd.yaml"
DEFAULT_ADDRESS = "unix:/run/relayd/admin.sock"
PRIVATE = "private"
SYSTEM_FOLDER = "/run/relayd"
SECTION = re.compile(r"""(?m)(?:^|[{,])(?P<indent>[ \t]*)["']?admin["']?[ \t]*:[ \t]*""")
ADDRESS = re.compile(r"""(?m)^[^#\n]*?\baddress["']?[ \t]*:[ \t]*["']?(?P<address>unix:/[^\s"',}#]+|private\b)""")


def socket_file(address: str) -> str:
    return address.removeprefix("unix:")


def service_folder(environment: Mapping[str, str] | None = None) -> str:
    """The folder that the service manager made for this service (RuntimeDirectory=), nothing without one.

    Each instance has its own, so that many relayds may run on one file.
    """
    environment = os.environ if environment is None else environment
    return environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]


def private_folder(environment: Mapping[str, str] | None = None) -> str:
    """The folder for sockets of somebody who is not the system's relayd."""
    environment = os.environ if environment is None else environment
    if service_folder(environment):
        return service_folder(environment)
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK):
        return os.path.join(runtime, "relayd")
    return os.path.join(tempfile.gettempdir(), f"relayd-{os.getuid()}")


def make_private_folder(path: str) -> str:
    """Make a folder that nobody else can enter, or make sure that it is one.

    Raises OSError when it belongs to somebody else: in a world-writable folder anybody could have made it first.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.lstat(path)
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path} is writable by others or belongs to somebody else")
    return path


def can_bind(path: str) -> bool:
    """Whether a socket could be made at this path, its folder included."""
    folder = os.path.dirname(path) or "."
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK | os.X_OK)


def socket_path(address: str, environment: Mapping[str, str] | None = None) -> str:
    """Where the daemon makes its admin socket. Only the default address has a second choice."""
    if address == PRIVATE:
        return os.path.join(private_folder(environment), "admin.sock")
    path = socket_file(address)
    service = service_folder(environment)
    if address == DEFAULT_ADDRESS and service:
        return os.path.join(service, "admin.sock")
    if address != DEFAULT_ADDRESS or can_bind(path):
        return path
    return os.path.join(private_folder(environment), "admin.sock")


def written_address(text: str) -> str:
    """The admin address in the text of a relayd.yaml, even in one that is broken; the default when it says none.

    `relayd reload` must find the daemon exactly when the file has faults, so the file is only looked at, not loaded.
    """
    for section in SECTION.finditer(text):
        found = ADDRESS.search(section_body(text[section.end() :], len(section["indent"])))
        if found is not None:
            return found["address"]
    return DEFAULT_ADDRESS


def section_body(rest: str, indent: int) -> str:
    """What belongs to a key: up to its closing brace, or every further line that is indented more than the key."""
    if rest.startswith("{"):
        return rest.partition("}")[0]
    first, *lines = rest.split("\n")
    body = [first]
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#") and len(line) - len(line.lstrip()) <= indent:
            break
        body.append(line)
    return "\n".join(body)


def notes_folder(environment: Mapping[str, str] | None = None) -> str:
    """Where a daemon of this user notes its admin socket."""
    if service_folder(environment):
        return service_folder(environment)
    return SYSTEM_FOLDER if can_bind(os.path.join(SYSTEM_FOLDER, "note")) else private_folder(environment)


def note_path(folder: str, config_file: str) -> str:
    name = hashlib.sha256(os.path.abspath(config_file).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return os.path.join(folder, f"{name}.admin")


def write_note(config_file: str, socket: str) -> str:
    """Note the admin socket of the daemon that runs on this file; where, or nothing when it could not be noted.

    With it a command finds the daemon also when the file is broken, or already names another socket.
    """
    folder = notes_folder()
    path = note_path(folder, config_file)
    try:
        if folder in (SYSTEM_FOLDER, service_folder()):
            os.makedirs(folder, mode=0o755, exist_ok=True)
        else:
            make_private_folder(folder)
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(socket)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        return ""
    return path


def read_note(path: str) -> str:
    """What a note says; nothing when there is none, or one that neither root nor this user wrote."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            found = os.fstat(file.fileno())
            trusted = os.stat(os.path.dirname(path)).st_uid
            return file.read(4096) if found.st_uid in (0, os.getuid(), trusted) else ""
    except OSError:
        return ""


def remove_note(path: str, socket: str) -> None:
    """Remove a note that still names this socket."""
    if path and read_note(path) == socket:
        try:
            os.unlink(path)
        except OSError:
            pass


def candidates(config_file: str, text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """Where a command looks for the daemon that runs on this file, in order."""
    private, service = private_folder(environment), service_folder(environment)
    folders = [service] if service else [SYSTEM_FOLDER, private]
    found = [read_note(note_path(folder, config_file)) for folder in folders]
    address = written_address(text)
    if address != PRIVATE:
        found.append(socket_file(address))
    if address in (DEFAULT_ADDRESS, PRIVATE):
        found.append(os.path.join(private, "admin.sock"))
    return [path for path in dict.fromkeys(found) if path]
