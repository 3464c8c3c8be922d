"""The laws of the house: each test names the offender by file and line, and is shown to catch a planted one."""

from __future__ import annotations

import ast
import pathlib
import re
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("dataclass", "lazy_regex"),  # floor -1
    ("errors", "clock", "registry", "usage", "money"),
    ("schema", "wire", "work_queue", "process_tree"),
    ("protocols", "limits", "stores", "telemetry"),
    ("config", "routing", "access", "upstream"),
    ("plan", "importers", "acme"),
    ("proxy",),
    ("server",),
    ("daemon",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS, start=-1) for room in rooms}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

# A foreign library, and the files (or folders, with a slash) that may import it.
DOORS: dict[str, tuple[str, ...]] = {
    "yaml": ("relayd/config/load.py",),
    "pycurl": ("relayd/upstream/transport/",),
    "dns": ("relayd/upstream/dns_client.py",),
    "statsd": ("relayd/telemetry/sinks/statsd.py",),
    "acme": ("relayd/acme/client.py",),
    "cryptography": ("relayd/acme/", "relayd/wire/seal.py", "relayd/server/certificate.py"),
    "josepy": ("relayd/acme/client.py",),
    "jwt": ("relayd/access/token_signature.py",),
    "redis": ("relayd/stores/_redis/client.py", "relayd/stores/_redis/scan.py"),
    "requests": ("relayd/acme/connections.py",),
    "urllib3": ("relayd/acme/connections.py",),
    "tornado": ("relayd/server/", "relayd/daemon/", "relayd/upstream/transport/", "relayd/clock.py"),
}
ENVIRONMENT = (
    "relayd/schema/secrets.py",
    "relayd/daemon/",
    "relayd/cli/",
    "relayd/telemetry/journal",
    "relayd/telemetry/native.py",  # JOURNAL_STREAM
    "relayd/telemetry/access_log.py",  # NO_COLOR
)
CLOCK = ("relayd/clock.py",)
FILE_LINES, FUNCTION_LINES, MEDIAN_LINES = 500, 80, 200
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "core", "misc", "mgr", "manager", "ctx", "cfg"}


@dataclass(frozen=True)
class Source:
    """One file of relayd: its path from the top of the repository, its text, its tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        parts = self.path.removesuffix(".py").split("/")
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        """The first word below relayd; empty for relayd/__init__.py."""
        return (self.module.split(".") + [""])[1]

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def source(path: str, text: str) -> Source:
    try:
        return Source(path, text, ast.parse(text, path))
    except SystemError:  # Python before 3.11.5 may lose count of its own depth, once (cpython gh-106905)
        return Source(path, text, ast.parse(text, path))


def house() -> list[Source]:
    return [
        source(str(path.relative_to(TOP)), path.read_text(encoding="utf-8"))
        for path in sorted(TOP.glob("relayd/**/*.py"))
    ]


def is_at(path: str, places: Iterable[str]) -> bool:
    return any(path == place or (not place.endswith(".py") and path.startswith(place)) for place in places)


def imports(one: Source) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Line, module and imported names of every absolute import; `import a.b` has no names."""
    for node in ast.walk(one.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or "", tuple(alias.name for alias in node.names)


def own_imports(one: Source, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Line and module of every import of relayd's own, submodules told from names."""
    for line, module, names in imports(one):
        if module.split(".")[0] != "relayd":
            continue
        inner = [f"{module}.{name}" for name in names if f"{module}.{name}" in modules]
        if len(inner) < len(names) or not names:
            yield line, module
        yield from ((line, name) for name in inner)


# The laws. Each takes the whole house and yields the offences.


def law_imports_point_down(files: list[Source]) -> Iterator[str]:
    modules = {one.module for one in files}
    for one in files:
        if one.room and one.room not in FLOOR_OF:
            yield f"{one.path}:1: the room {one.room} is on no floor"
            continue
        for line, module in own_imports(one, modules):
            room = (module.split(".") + [""])[1]
            if room in ("", one.room):
                continue
            if not one.room:
                yield f"{one.path}:{line}: relayd/__init__.py imports nothing of its own, but imports {module}"
            elif room not in FLOOR_OF:
                yield f"{one.path}:{line}: imports {module}, which is on no floor"
            elif FLOOR_OF[room] > FLOOR_OF[one.room]:
                yield f"{one.path}:{line}: floor {FLOOR_OF[one.room]} imports {module} of floor {FLOOR_OF[room]} above"
            elif FLOOR_OF[room] == FLOOR_OF[one.room]:
                yield f"{one.path}:{line}: {one.room} imports its neighbour {module}"


def law_the_transport_imports_what_it_moves_bytes_for_and_never_the_reverse(files: list[Source]) -> Iterator[str]:
    modules = {one.module for one in files}
    for one in files:
        if one.module.startswith("relayd.upstream") and not one.module.startswith("relayd.upstream.transport"):
            for line, module in own_imports(one, modules):
                if module.startswith("relayd.upstream.transport"):
                    yield f"{one.path}:{line}: upstream/ decides without {module}; connections are handed in"


PLUG_INS = ("relayd.access.authenticators", "relayd.stores", "relayd.telemetry.sinks", "relayd.upstream.balancers",
            "relayd.importers", "relayd.upstream.discovery")
# A bounded memory of this process is of use by itself, whatever the configuration's store is.
BOUNDED_MEMORY = ("relayd/proxy/gateway.py", "relayd/proxy/websocket_session.py", "relayd/proxy/dry_run.py")


def law_nobody_names_a_plug_in(files: list[Source]) -> Iterator[str]:
    modules = {one.module for one in files}
    for one in files:
        for line, module in own_imports(one, modules):
            folder, _, kind = module.rpartition(".")
            if folder not in PLUG_INS or kind.startswith("_") or one.module.startswith(f"{folder}."):
                continue
            if not (module == "relayd.stores.memory" and one.path in BOUNDED_MEMORY):
                yield f"{one.path}:{line}: names {module}, which only its folder's registry may"


def law_imports_are_absolute_and_never_inside_functions(files: list[Source]) -> Iterator[str]:
    for one in files:
        inside = set()
        for function in functions(one.tree):
            inside |= {id(n) for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)}
        for node in ast.walk(one.tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                yield f"{one.path}:{node.lineno}: relative import"
            if id(node) in inside:
                yield f"{one.path}:{node.lineno}: import inside a function"  # type: ignore[attr-defined]
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                yield f"{one.path}:{node.lineno}: import of *"


def law_each_foreign_library_has_one_door(files: list[Source]) -> Iterator[str]:
    for one in files:
        for line, module, _ in imports(one):
            doors = DOORS.get(module.split(".")[0])
            if doors is not None and not is_at(one.path, doors):
                yield f"{one.path}:{line}: imports {module}, whose door is {', '.join(doors)}"


def law_imports_make_no_cycle(files: list[Source]) -> Iterator[str]:
    modules = {one.module: one for one in files}
    edges = {one.module: {m for _, m in own_imports(one, set(modules)) if m in modules} for one in files}
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> Iterator[str]:
        if module in trail:
            ring = trail[trail.index(module) :] + [module]
            yield f"{modules[module].path}:1: import cycle {' -> '.join(ring)}"
        elif module not in done:
            for following in sorted(edges[module]):
                yield from walk(following, [*trail, module])
            done.add(module)

    for module in sorted(edges):
        yield from walk(module, [])


def law_files_stay_small(files: list[Source]) -> Iterator[str]:
    for one in files:
        if len(one.lines) > FILE_LINES:
            yield f"{one.path}:{FILE_LINES}: the file has {len(one.lines)} lines, allowed are {FILE_LINES}"
    counts = [len(one.lines) for one in files if not one.path.endswith("__init__.py")]
    if counts and statistics.median(counts) >= MEDIAN_LINES:
        yield f"relayd:0: the median file has {statistics.median(counts)} lines, allowed are fewer than {MEDIAN_LINES}"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def law_functions_stay_small(files: list[Source]) -> Iterator[str]:
    for one in files:
        for node in functions(one.tree):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > FUNCTION_LINES:
                yield f"{one.path}:{node.lineno}: {node.name} has {count} lines, allowed are {FUNCTION_LINES}"


def law_nothing_prints(files: list[Source]) -> Iterator[str]:
    for one in files:
        for node in ast.walk(one.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield f"{one.path}:{node.lineno}: print"


def law_broad_excepts_stand_at_rescue_doors(files: list[Source]) -> Iterator[str]:
    for one in files:
        for node in ast.walk(one.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = any(
                c is None or (isinstance(c, ast.Name) and c.id in ("Exception", "BaseException")) for c in caught
            )
            if broad and not re.search(r"# rescue door: \S", one.lines[node.lineno - 1]):
                yield f"{one.path}:{node.lineno}: broad except without `# rescue door: reason`"


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def law_the_clock_is_asked_for_the_time(files: list[Source]) -> Iterator[str]:
    told = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.datetime.now", "date.today"}
    for one in files:
        if is_at(one.path, CLOCK):
            continue
        for line, module, names in imports(one):
            if module == "time" and {"time", "time_ns"} & set(names):
                yield f"{one.path}:{line}: takes the time from outside relayd.clock"
        for node in ast.walk(one.tree):
            if isinstance(node, ast.Attribute) and dotted(node) in told:
                yield f"{one.path}:{node.lineno}: {dotted(node)} outside relayd.clock"


def law_the_environment_is_read_in_few_places(files: list[Source]) -> Iterator[str]:
    for one in files:
        if is_at(one.path, ENVIRONMENT):
            continue
        for line, module, names in imports(one):
            if module == "os" and {"environ", "getenv"} & set(names):
                yield f"{one.path}:{line}: reads the environment"
        for node in ast.walk(one.tree):
            if isinstance(node, ast.Attribute) and dotted(node) in ("os.environ", "os.getenv", "os.environb"):
                yield f"{one.path}:{node.lineno}: reads the environment"


def law_modules_say_what_they_are(files: list[Source]) -> Iterator[str]:
    for one in files:
        if not ast.get_docstring(one.tree):
            yield f"{one.path}:1: the module opens without a docstring"
        stem = pathlib.PurePosixPath(one.path).stem
        if stem in VAGUE:
            yield f"{one.path}:1: {stem} is no word of the trade"
        future = any(module == "__future__" and "annotations" in names for _, module, names in imports(one))
        if not future and stem != "__init__":
            yield f"{one.path}:1: from __future__ import annotations is missing"


DIALECT_NAMES = frozenset(
    path.parent.name for path in TOP.glob("relayd/protocols/*/__init__.py")
)  # a folder of protocols/ is a dialect
SPEAKS = ("relayd/server/demo_upstream.py",
          "relayd/wire/key_filter.py",  # what the demonstration answers; words that people write where no key is needed
          "relayd/importers/")  # which dialect the words of another program mean


def law_only_protocols_knows_dialects_by_name(files: list[Source]) -> Iterator[str]:
    for one in files:
        if one.room == "protocols" or is_at(one.path, SPEAKS):
            continue
        for node in ast.walk(one.tree):
            if isinstance(node, ast.Constant) and node.value in DIALECT_NAMES:
                yield f"{one.path}:{node.lineno}: names the dialect {node.value}; ask a field of Dialect"


def law_expressions_of_modules_are_compiled_on_their_first_use(files: list[Source]) -> Iterator[str]:
    """A process uses few of them, and each is compiled in the time of a start. Functions compile what they compose."""
    for one in files:
        inner = {id(node) for each in ast.walk(one.tree) if isinstance(each, FUNCTIONS) for node in ast.walk(each)}
        for node in ast.walk(one.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile" and id(node) not in inner:
                yield f"{one.path}:{node.lineno}: re.compile in a module; declare it with lazy_regex"


LAWS: tuple[Callable[[list[Source]], Iterator[str]], ...] = (
    law_imports_point_down,
    law_the_transport_imports_what_it_moves_bytes_for_and_never_the_reverse,
    law_nobody_names_a_plug_in,
    law_imports_are_absolute_and_never_inside_functions,
    law_each_foreign_library_has_one_door,
    law_imports_make_no_cycle,
    law_files_stay_small,
    law_functions_stay_small,
    law_nothing_prints,
    law_broad_excepts_stand_at_rescue_doors,
    law_the_clock_is_asked_for_the_time,
    law_the_environment_is_read_in_few_places,
    law_modules_say_what_they_are,
    law_only_protocols_knows_dialects_by_name,
    law_expressions_of_modules_are_compiled_on_their_first_use,
)


def law_every_package_has_its_tests(files: Iterable[str], tests: Iterable[str]) -> Iterator[str]:
    """Every relayd/a has a folder tests/unit/a with tests. How much of each file they reach is `make cover`'s business."""
    folders = {str(pathlib.PurePosixPath(test).parent) for test in tests}
    packages = {pathlib.PurePosixPath(path).parent for path in files if not path.endswith(("__init__.py", "__main__.py"))}
    for package in sorted(packages):
        mirror = str("tests/unit" / package.relative_to("relayd"))
        if mirror not in folders:
            yield f"{package}: has no tests in {mirror}"


# Put together so that this file does not offend itself.
MACHINE_PATH = re.compile(r"(?:^|[^A-Za-z0-9_.$})])/(?:" + "|".join(("work", "farm", "root", "home")) + r")/\w")


def law_no_path_of_one_machine(texts: Iterable[tuple[str, str]]) -> Iterator[str]:
    for path, text in texts:
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line):
                yield f"{path}:{number}: a path of one machine"


@pytest.fixture(scope="module")
def whole_house() -> list[Source]:
    return house()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__.removeprefix("law_"))
def test_the_house_keeps_the_law(law: Callable[[list[Source]], Iterator[str]], whole_house: list[Source]) -> None:
    offences = list(law(whole_house))
    assert not offences, "\n" + "\n".join(offences)


def test_every_package_has_its_tests(whole_house: list[Source]) -> None:
    tests = {str(path.relative_to(TOP)) for path in TOP.glob("tests/unit/**/test_*.py")}
    offences = list(law_every_package_has_its_tests((one.path for one in whole_house), tests))
    assert not offences, "\n" + "\n".join(offences)


def test_no_file_names_a_path_of_one_machine() -> None:
    kinds = ("*.py", "*.md", "*.sh", "*.yaml", "*.toml", "*.service", "*.socket", "Makefile", "run", "rules", "control")
    folders = ("relayd", "tests", "conf", "systemd", "debian", ".ci")
    found = {path for folder in folders for kind in kinds for path in (TOP / folder).rglob(kind)}
    found |= {path for kind in kinds for path in TOP.glob(kind)}
    texts = ((str(p.relative_to(TOP)), p.read_text(encoding="utf-8")) for p in sorted(found) if p.is_file())
    offences = list(law_no_path_of_one_machine(texts))
    assert not offences, "\n" + "\n".join(offences)


def test_the_top_level_holds_only_what_the_house_plan_names() -> None:
    folders = {"relayd", "conf", "systemd", "tests", "debian"}
    built = {"build", "dist", "node_modules", "relayd.egg-info"}
    found = {path.name for path in TOP.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert found - built == folders


# Every law catches what it forbids, and lets pass what it allows.

HEAD = '"""A module."""\n\nfrom __future__ import annotations\n\n'
LONG_FUNCTION = "def long() -> None:\n" + "    x = 1\n" * 80

PLANTED: tuple[tuple[Callable[[list[Source]], Iterator[str]], dict[str, str], str], ...] = (
    (
        law_imports_point_down,
        {"relayd/wire/sse.py": HEAD + "from relayd.proxy.exchange import Exchange\n"},
        "relayd/wire/sse.py:5: floor 1 imports relayd.proxy.exchange of floor 5 above",
    ),
    (
        law_imports_point_down,
        {"relayd/routing/table.py": HEAD + "import relayd.access.consumers\n"},
        "relayd/routing/table.py:5: routing imports its neighbour relayd.access.consumers",
    ),
    (law_imports_point_down, {"relayd/attic/x.py": HEAD}, "relayd/attic/x.py:1: the room attic is on no floor"),
    (
        law_imports_point_down,
        {
            "relayd/config/model.py": HEAD + "if TYPE_CHECKING:\n    from relayd import plan\n",
            "relayd/plan/__init__.py": "",
        },
        "relayd/config/model.py:6: floor 3 imports relayd.plan of floor 4 above",
    ),
    (
        law_the_transport_imports_what_it_moves_bytes_for_and_never_the_reverse,
        {
            "relayd/upstream/balancers/x.py": HEAD + "from relayd.upstream.transport.pool import Pool\n",
            "relayd/upstream/transport/pool.py": HEAD + "from relayd.upstream.endpoint import Endpoint\n",
        },
        "relayd/upstream/balancers/x.py:5: upstream/ decides without relayd.upstream.transport.pool; "
        "connections are handed in",
    ),
    (
        law_nobody_names_a_plug_in,
        {
            "relayd/telemetry/telemetry.py": HEAD + "from relayd.telemetry.sinks import statsd\n",
            "relayd/telemetry/sinks/statsd.py": HEAD,
        },
        "relayd/telemetry/telemetry.py:5: names relayd.telemetry.sinks.statsd, which only its folder's registry may",
    ),
    (
        law_imports_are_absolute_and_never_inside_functions,
        {"relayd/wire/sse.py": HEAD + "from . import http1\n"},
        "relayd/wire/sse.py:5: relative import",
    ),
    (
        law_imports_are_absolute_and_never_inside_functions,
        {"relayd/wire/sse.py": HEAD + "class A:\n    async def f(self):\n        if self:\n            import json\n"},
        "relayd/wire/sse.py:8: import inside a function",
    ),
    (
        law_imports_are_absolute_and_never_inside_functions,
        {"relayd/wire/sse.py": HEAD + "from json import *\n"},
        "relayd/wire/sse.py:5: import of *",
    ),
    *(
        (
            law_each_foreign_library_has_one_door,
            {"relayd/proxy/pipeline.py": HEAD + f"import {library}\n"},
            f"relayd/proxy/pipeline.py:5: imports {library}, whose door is {', '.join(DOORS[library])}",
        )
        for library in DOORS
    ),
    (
        law_imports_make_no_cycle,
        {
            "relayd/wire/a.py": HEAD + "from relayd.wire import b\n",
            "relayd/wire/b.py": HEAD + "from relayd.wire.c import C\n",
            "relayd/wire/c.py": HEAD + "import relayd.wire.a\n",
        },
        "relayd/wire/a.py:1: import cycle relayd.wire.a -> relayd.wire.b -> relayd.wire.c -> relayd.wire.a",
    ),
    (
        law_files_stay_small,
        {"relayd/wire/a.py": HEAD + "x = 1\n" * 497, "relayd/wire/b.py": HEAD, "relayd/wire/c.py": HEAD},
        "relayd/wire/a.py:500: the file has 501 lines, allowed are 500",
    ),
    (
        law_files_stay_small,
        {"relayd/wire/a.py": "\n" * 200},
        "relayd:0: the median file has 200 lines, allowed are fewer than 200",
    ),
    (
        law_functions_stay_small,
        {"relayd/wire/a.py": LONG_FUNCTION},
        "relayd/wire/a.py:1: long has 81 lines, allowed are 80",
    ),
    (law_nothing_prints, {"relayd/wire/a.py": "x = 1\nprint(x)\n"}, "relayd/wire/a.py:2: print"),
    *(
        (
            law_broad_excepts_stand_at_rescue_doors,
            {"relayd/wire/a.py": f"try:\n    pass\nexcept{caught}:  # a rescue door:\n    pass\n"},
            "relayd/wire/a.py:3: broad except without `# rescue door: reason`",
        )
        for caught in ("", " Exception", " BaseException as error", " (OSError, Exception)")
    ),
    (
        law_the_clock_is_asked_for_the_time,
        {"relayd/proxy/a.py": "import time\nnow = time.time()\n"},
        "relayd/proxy/a.py:2: time.time outside relayd.clock",
    ),
    (
        law_the_clock_is_asked_for_the_time,
        {"relayd/proxy/a.py": "from time import time\n"},
        "relayd/proxy/a.py:1: takes the time from outside relayd.clock",
    ),
    (
        law_the_environment_is_read_in_few_places,
        {"relayd/proxy/a.py": "import os\nhome = os.environ['HOME']\n"},
        "relayd/proxy/a.py:2: reads the environment",
    ),
    (
        law_the_environment_is_read_in_few_places,
        {"relayd/proxy/a.py": "from os import getenv\n"},
        "relayd/proxy/a.py:1: reads the environment",
    ),
    (
        law_modules_say_what_they_are,
        {"relayd/wire/utils.py": HEAD},
        "relayd/wire/utils.py:1: utils is no word of the trade",
    ),
    (
        law_modules_say_what_they_are,
        {"relayd/wire/a.py": "from __future__ import annotations\n"},
        "relayd/wire/a.py:1: the module opens without a docstring",
    ),
    (
        law_modules_say_what_they_are,
        {"relayd/wire/a.py": '"""A module."""\n'},
        "relayd/wire/a.py:1: from __future__ import annotations is missing",
    ),
    (
        law_only_protocols_knows_dialects_by_name,
        {"relayd/proxy/a.py": HEAD + "def f(dialect):\n    return dialect.name == 'ollama'\n"},
        "relayd/proxy/a.py:6: names the dialect ollama; ask a field of Dialect",
    ),
    (
        law_expressions_of_modules_are_compiled_on_their_first_use,
        {"relayd/wire/a.py": HEAD + "FORM = re.compile('a')\ndef f(text):\n    return re.compile(re.escape(text))\n"},
        "relayd/wire/a.py:5: re.compile in a module; declare it with lazy_regex",
    ),
)


@pytest.mark.parametrize(("law", "files", "offence"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_offender_is_named_by_file_and_line(
    law: Callable[[list[Source]], Iterator[str]], files: dict[str, str], offence: str
) -> None:
    assert list(law([source(path, text) for path, text in files.items()])) == [offence]


def test_every_law_has_a_planted_offender() -> None:
    assert {law for law, _, _ in PLANTED} == set(LAWS)


LAWFUL = {
    "relayd/__init__.py": '"""The package."""\n',
    "relayd/errors.py": HEAD,
    "relayd/clock.py": HEAD + "import time\nfrom tornado.ioloop import IOLoop\nwall = time.time\n",
    "relayd/wire/headers.py": HEAD + "from relayd.errors import ExchangeError\n",
    "relayd/wire/http1.py": HEAD + "from relayd.wire.headers import FieldEdits\n",
    "relayd/config/load.py": HEAD + "import yaml\nfrom relayd.schema import section\n",
    "relayd/upstream/transport/driver.py": HEAD + "import pycurl\nimport tornado.ioloop\n",
    "relayd/telemetry/sinks/statsd.py": HEAD + "import statsd\n",
    "relayd/daemon/notify.py": HEAD + "import os\nsocket = os.environ.get('NOTIFY_SOCKET')\n",
    "relayd/server/connection.py": HEAD
    + "try:\n    pass\nexcept Exception:  # rescue door: one exchange, not the process\n    pass\n",
    "relayd/cli/main.py": HEAD + "def main() -> None:\n    x = 1\n" + "    x += 1\n" * 78,
}


def test_a_lawful_house_gives_no_offence() -> None:
    files = [source(path, text) for path, text in LAWFUL.items()]
    assert [offence for law in LAWS for offence in law(files)] == []


def test_a_package_without_tests_is_named() -> None:
    files = ["relayd/__init__.py", "relayd/clock.py", "relayd/telemetry/sinks/statsd.py"]
    tests = {"tests/unit/test_clock.py", "tests/unit/telemetry/test_journal.py"}
    expected = "relayd/telemetry/sinks: has no tests in tests/unit/telemetry/sinks"
    assert list(law_every_package_has_its_tests(files, tests)) == [expected]
    assert not list(law_every_package_has_its_tests(files, tests | {"tests/unit/telemetry/sinks/test_any.py"}))


@pytest.mark.parametrize("folder", ["work", "root", "home", "farm"])
def test_a_path_of_one_machine_is_named(folder: str) -> None:
    assert list(law_no_path_of_one_machine([("Makefile", f"a\nX = /{folder}/x\n")])) == [
        "Makefile:2: a path of one machine"
    ]
    assert not list(law_no_path_of_one_machine([("Makefile", f"upstream/{folder}/x $base/{folder}/x\n")]))
