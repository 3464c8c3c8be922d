"""The path of the admin socket: the configured one, or one in a private folder if the user cannot create the default.

1. The daemon writes its socket path into a note, named by its configuration file, for the commands to find.
2. Without a note a command searches the address in the text of the file, which may be invalid: no YAML is parsed here.
3. A folder that another user could have created is neither used nor trusted.
"""

from __future__ import annotations

import glob
import hashlib
import os
import socket
import tempfile
from collections.abc import Mapping

from relayd.lazy_regex import lazy_regex

DEFAULT_FILE = "/etc/relayd.yaml"
DEFAULT_ADDRESS = "unix:/run/relayd/admin.sock"
PRIVATE = "private"
SYSTEM_FOLDER = "/run/relayd"
SECTION = lazy_regex(r"""(?m)(?:^|[{,])(?P<indent>[ \t]*)["']?admin["']?[ \t]*:[ \t]*""")
ADDRESS = lazy_regex(r"""(?m)^[^#\n]*?\baddress["']?[ \t]*:[ \t]*["']?(?P<address>unix:/[^\s"',}#]+|private\b)""")


def socket_file(address: str) -> str:
    return address.removeprefix("unix:")


def service_folder(environment: Mapping[str, str] | None = None) -> str:
    """The runtime folder that systemd created for this service (RuntimeDirectory=); empty without one.

    Each instance has its own, so several instances can run on one file.
    """
    environment = os.environ if environment is None else environment
    return environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]


def private_folder(environment: Mapping[str, str] | None = None) -> str:
    """The folder for sockets of a user other than that of the system service."""
    environment = os.environ if environment is None else environment
    if service_folder(environment):
        return service_folder(environment)
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK):
        return os.path.join(runtime, "relayd")
    return os.path.join(tempfile.gettempdir(), f"relayd-{os.getuid()}")


def make_private_folder(path: str) -> str:
    """Create a folder with mode 0700, or verify that an existing one belongs to this user.

    Raises OSError if it belongs to another user: in a world-writable parent any user could have created it first.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.lstat(path)
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path} is writable by others or belongs to another user")
    return path


def can_bind(path: str) -> bool:
    """True if a socket could be created at this path, including its folder."""
    folder = os.path.dirname(path) or "."
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK | os.X_OK)


def socket_path(address: str, environment: Mapping[str, str] | None = None) -> str:
    """The path of the daemon's admin socket. Only the default address has a fallback."""
    if address == PRIVATE:
        return os.path.join(private_folder(environment), "admin.sock")
    path = socket_file(address)
    service = service_folder(environment)
    if address == DEFAULT_ADDRESS and service:
        return os.path.join(service, "admin.sock")
    if address != DEFAULT_ADDRESS or can_bind(path):
        return path
    return os.path.join(private_folder(environment), "admin.sock")


def unheld(path: str, address: str, environment: Mapping[str, str] | None = None) -> str:
    """The path, or a path of this process alone if another relayd listens there.

    Two relayds on one machine that configure no socket of their own both serve. A service always has the path of its
    unit, because its commands search it there.
    """
    if address not in (DEFAULT_ADDRESS, PRIVATE) or service_folder(environment) or not is_held(path):
        return path
    return os.path.join(private_folder(environment), f"admin-{os.getpid()}.sock")


def is_moved(path: str, address: str, environment: Mapping[str, str] | None = None) -> bool:
    """True if the daemon listens at another path than the one that its configuration asks for."""
    return path != (socket_path(address, environment) if address == PRIVATE else socket_file(address))


def is_held(path: str) -> bool:
    """True if a process listens at this path."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
        return True


def written_address(text: str) -> str:
    """The admin address in the text of a relayd.yaml, valid or not; the default if it sets none.

    `relayd reload` must find the daemon even if the file has faults, so the text is searched, not loaded.
    """
    for section in SECTION.finditer(text):
        found = ADDRESS.search(section_body(text[section.end() :], len(section["indent"])))
        if found is not None:
            return found["address"]
    return DEFAULT_ADDRESS


def section_body(rest: str, indent: int) -> str:
    """The value of a key: up to its closing brace, or all following lines indented more than the key."""
    if rest.startswith("{"):
        return rest.partition("}")[0]
    first, *lines = rest.split("\n")
    body = [first]
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#") and len(line) - len(line.lstrip()) <= indent:
            break
        body.append(line)
    return "\n".join(body)


def running_instances(service: str = SYSTEM_FOLDER) -> list[str]:
    """The names of the running relayd@NAME.service: systemd removes the runtime folder of an instance that ends."""
    return sorted(path.removeprefix(f"{service}-") for path in glob.glob(f"{glob.escape(service)}-*"))


def notes_folder(environment: Mapping[str, str] | None = None) -> str:
    """The folder for the notes of a daemon of this user."""
    if service_folder(environment):
        return service_folder(environment)
    return SYSTEM_FOLDER if can_bind(os.path.join(SYSTEM_FOLDER, "note")) else private_folder(environment)


def note_path(folder: str, config_file: str) -> str:
    name = hashlib.sha256(os.path.abspath(config_file).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return os.path.join(folder, f"{name}.admin")


def write_note(config_file: str, path_of_socket: str) -> str:
    """Write the note with the admin socket of the daemon of this file. Returns its path, or an empty string on failure.

    With the note a command finds the daemon even if the file is invalid, or already names another socket. The note of a
    socket in the private folder is there too: systemd removes SYSTEM_FOLDER with the service that owns it.
    """
    folder = private_folder() if os.path.dirname(path_of_socket) == private_folder() else notes_folder()
    path = note_path(folder, config_file)
    try:
        if folder in (SYSTEM_FOLDER, service_folder()):
            os.makedirs(folder, mode=0o755, exist_ok=True)
        else:
            make_private_folder(folder)
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(path_of_socket)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        return ""
    return path


def read_note(path: str) -> str:
    """The content of a note; empty if it is missing, or if its owner is not trusted (root, this user, the folder's)."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            found = os.fstat(file.fileno())
            trusted = os.stat(os.path.dirname(path)).st_uid
            return file.read(4096) if found.st_uid in (0, os.getuid(), trusted) else ""
    except OSError:
        return ""


def remove_note(path: str, socket: str) -> None:
    """Remove a note if it still names this socket."""
    if path and read_note(path) == socket:
        try:
            os.unlink(path)
        except OSError:
            pass


def candidates(config_file: str, text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """The socket paths at which a command looks for the daemon of this file, in order."""
    private, service = private_folder(environment), service_folder(environment)
    folders = [service] if service else [SYSTEM_FOLDER, private]
    found = [read_note(note_path(folder, config_file)) for folder in folders]
    address = written_address(text)
    if address != PRIVATE:
        found.append(socket_file(address))
    if address in (DEFAULT_ADDRESS, PRIVATE):
        found.append(os.path.join(private, "admin.sock"))
    return [path for path in dict.fromkeys(found) if path]
