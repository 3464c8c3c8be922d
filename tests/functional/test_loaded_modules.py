"""What a command and a daemon without optional features import: each library and each package stands here with its reason.

A start imports hundreds of modules, and most of its time is spent there. A library that appears here without need, or one
more package of relayd, is paid for by every start and every command.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.harness.relay import ROOT, Relay

# Libraries that cost a millisecond or more; what is not in this list is not examined.
COSTLY = frozenset({
    "OpenSSL", "acme", "asyncio", "cryptography", "ctypes", "dns", "email", "html", "http", "josepy", "jwt", "logging",
    "multiprocessing", "pycurl", "redis", "requests", "sqlite3", "ssl", "statsd", "tornado", "urllib3", "xml", "yaml",
})  # fmt: skip
VERSIONS = dict.fromkeys(("tornado", "pycurl", "asyncio", "ssl", "http", "email", "html", "logging", "multiprocessing", "yaml"), "shows versions of libraries")
CLIENT = {
    "http": "the admin socket speaks HTTP: http.client", "email": "http.client parses heads with it",
    "ssl": "http.client imports it",
}  # fmt: skip
SECTIONS = {
    "yaml": "the file is YAML", "ssl": "certificates of listeners are verified, those of clients are compared",
    "statsd": "the options of its sink are keys of the file", "sqlite3": "the options of its store are keys of the file",
    "asyncio": "the kinds of discovery are keys of the file", "logging": "imported by asyncio",
    "email": "dates of OTLP responses: the options of its sink are keys of the file",
}  # fmt: skip
PATH = {"tornado": "the path of a request names the streams of its connections", "pycurl": "and those of its upstreams", "http": "names of statuses"}
DAEMON = {**SECTIONS, **PATH, "ctypes": "returns free memory to the kernel", "html": "imported by tornado.escape", "multiprocessing": "imported by tornado.platform"}
COMMANDS = {
    "version": (("version",), VERSIONS, frozenset({"cli", "daemon", "dataclass", "lazy_regex", "registry", "upstream"})),
    "status": (("status", "--socket", "/nonexistent"), CLIENT, frozenset({"cli", "clock", "daemon", "dataclass", "errors", "lazy_regex", "registry"})),
    "reload": (("reload", "--socket", "/nonexistent"), CLIENT, frozenset({"cli", "daemon", "dataclass", "errors", "lazy_regex", "registry"})),
    "check": (("check", "-c", "{file}"), SECTIONS, frozenset({
        "access", "acme", "cli", "clock", "config", "daemon", "dataclass", "errors", "lazy_regex", "limits", "money", "plan", "process_tree", "protocols",
        "registry", "routing", "schema", "server", "stores", "telemetry", "upstream", "usage", "wire",
    })),
}  # fmt: skip
# Of these packages, commands use some modules only; others of the same package are for the daemon.
ONLY = {
    "status": {"daemon": {"admin_socket_path"}},
    "reload": {"daemon": {"admin_socket_path"}},
    "check": {
        "acme": {"state"}, "server": {"demo_upstream", "expiry", "tls"},
        "daemon": {"admin_socket_path", "endpoint_lists", "generations", "preflight", "state_dir", "unit", "unit_environment"},
    },
}
FILE = """
listeners: {{public: {{address: "127.0.0.1:1"}}}}
admin: {{address: "unix:{folder}/admin.sock"}}
upstreams: {{there: {{endpoints: ["http://127.0.0.1:9"]}}}}
routes: [{{name: rest, match: {{prefix: /}}, upstream: there}}]
"""


RUN = """
import sys
from relayd.cli.main import main
try:
    main(sys.argv[1:])
finally:
    sys.stderr.write("".join(f"loaded {name}\\n" for name in sys.modules))
"""


def imported(text: str) -> set[str]:
    """The modules in the output of PYTHONPROFILEIMPORTTIME, which lacks those that a registry loads by name."""
    return set(re.findall(r"^import time: +\d+ \| +\d+ \| *(\S+)$", text, re.M))


def costly(modules: set[str]) -> set[str]:
    return {one.partition(".")[0] for one in modules} & COSTLY


def packages(modules: set[str]) -> set[str]:
    return {one.split(".")[1] for one in modules if one.startswith("relayd.")} - {"__main__"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_imports_what_it_needs_only(command: str, tmp_path: Path) -> None:
    file = tmp_path / "relayd.yaml"
    file.write_text(FILE.format(folder=tmp_path))
    arguments, libraries, allowed = COMMANDS[command]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *(one.format(file=file) for one in arguments)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path,
    )
    modules = set(re.findall(r"^loaded (\S+)$", done.stderr, re.M))
    assert f"relayd.cli.commands.{command}" in modules
    assert costly(modules) - set(libraries) == set(), "libraries that this command does not need"
    assert packages(modules) - allowed == set(), "packages that this command does not need"
    for package, names in ONLY.get(command, {}).items():
        found = {one.split(".")[2] for one in modules if one.startswith(f"relayd.{package}.")}
        assert found - names == set(), f"modules of {package} that this command does not need"


def test_a_daemon_without_optional_features_imports_none_of_their_libraries(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPROFILEIMPORTTIME": "1"}
    with Relay(folder, "http://127.0.0.1:9", environment=environment) as relay:
        modules = imported(relay.error_file.read_text())
    assert "relayd.daemon.lifecycle" in modules
    assert costly(modules) - set(DAEMON) == set(), "libraries of optional features"
    unused = {one for one in modules if one.startswith(("relayd.importers", "relayd.cli.doctor", "relayd.cli.top"))}
    assert unused == set(), "modules of commands"
