"""What the handbook, relayd-security(7) and README.Debian name is there: commands, options, keys, files, directives, events."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator

import pytest

from relayd.cli.main import verbs
from tests.docs.completion import options

TOP = pathlib.Path(__file__).resolve().parent.parent
PAGES = {
    "handbook": (TOP / "debian/handbook.md").read_text(encoding="utf-8"),
    "security": re.sub(r"\\f[BIRP]|\\&", "", (TOP / "debian/man/relayd-security.7").read_text(encoding="utf-8"))
    .replace("\\-", "-"),
    "readme": (TOP / "debian/relayd.README.Debian").read_text(encoding="utf-8"),
}
UNITS = "".join(path.read_text(encoding="utf-8") for path in sorted((TOP / "systemd").glob("relayd*")))
EXAMPLES = TOP / "debian/examples"
SCHEMA = json.loads((TOP / "conf/relayd.schema.json").read_text(encoding="utf-8"))
# Words between backticks that are no keys: of the YAML's values, of other programs, of a table's own column.
VALUES = {"file", "status", "start", "none"}


def key_names(node: object) -> Iterator[str]:
    """Every key that the schema knows, wherever it stands."""
    if isinstance(node, dict):
        for name, inner in node.items():
            if name == "properties":
                yield from inner
            yield from key_names(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from key_names(inner)


def properties(node: dict[str, object]) -> dict[str, dict[str, object]]:
    """The keys directly below a node, through references, alternatives and maps of names."""
    if "$ref" in node:
        target: object = SCHEMA
        for part in str(node["$ref"]).removeprefix("#/").split("/"):
            assert isinstance(target, dict)
            target = target[part]
        assert isinstance(target, dict)
        return properties(target)
    found: dict[str, dict[str, object]] = dict(node.get("properties", {}))  # type: ignore[call-overload]
    for word in ("anyOf", "oneOf", "allOf"):
        for inner in node.get(word, []):  # type: ignore[attr-defined]
            found |= properties(inner)
    for word in ("additionalProperties", "items"):
        inner = node.get(word)
        if isinstance(inner, dict):
            found |= properties(inner)
    return found


KEYS = set(key_names(SCHEMA))


def is_key(path: str) -> bool:
    node: dict[str, object] = SCHEMA
    for part in path.split("."):
        below = properties(node)
        if part not in below:
            return False
        node = below[part]
    return True


def test_the_schema_is_walked_as_it_should_be() -> None:
    assert is_key("daemon.drain_timeout") and is_key("listeners.tls.certificates") and is_key("upstreams.endpoints")
    assert not is_key("daemon.nothing") and not is_key("nothing")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_exists(page: str) -> None:
    for verb, rest in re.findall(r"(?:`|^    |# |\b)relayd ([a-z]+)((?: +(?:-{1,2}[a-z-]+|[A-Z0-9]+)\b)*)", PAGES[page], re.M):
        if verb in ("does", "goes", "for", "needs", "may", "is", "run", "has", "and") and verb not in verbs():
            continue
        if verb not in verbs():
            assert f"relayd {verb}" not in re.findall(r"`([^`]+)`", PAGES[page]), verb
            continue
        there = {name for action in options(verb) for name in action.option_strings}
        assert set(re.findall(r"-{1,2}[a-z-]+", rest)) <= there, f"relayd {verb}{rest}"


def test_every_command_of_the_pages_between_quotes_is_one() -> None:
    for page in PAGES.values():
        for verb in re.findall(r"`relayd ([a-z]+)", page):
            assert verb in verbs(), verb


MEMBERS = {"extra_body", "image_generation"}  # of the bodies of AI APIs


def test_every_key_that_is_named_exists() -> None:
    for words in re.findall(r"`([^`\n]+)`", PAGES["handbook"]):
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", words):
            assert is_key(words), words
        elif re.fullmatch(r"[a-z_]+", words) and words not in VALUES:
            assert words in KEYS, words
        elif words.startswith("telemetry:"):
            assert all(name in KEYS for name in re.findall(r"([a-z_]+):", words)), words
    for line in re.findall(r"^    (listeners: .+?)(?:  +#.*)?$", PAGES["handbook"], re.M):
        assert all(name in KEYS or name == "public" for name in re.findall(r"([a-z_]+):", line)), line
    for words in re.findall(r"\b([a-z]+_[a-z_]+|tls\.verify)\b", PAGES["security"]):
        assert words in MEMBERS or words.rpartition(".")[2] in KEYS, words


def test_every_directive_that_the_security_page_claims_stands_in_the_unit() -> None:
    claimed = re.findall(r"\b([A-Z][A-Za-z]+=[A-Za-z_@-]+)", PAGES["security"])
    assert len(claimed) > 20
    unit = (TOP / "systemd/relayd.service").read_text(encoding="utf-8")
    assert [one for one in claimed if f"\n{one}" not in unit] == []


def test_the_docker_socket_is_granted_by_the_administrator_alone() -> None:
    assert "docker" not in (TOP / "debian/apparmor/usr.bin.relayd").read_text()
    rule = "/run/docker.sock rw,"
    assert rule in (TOP / "debian/examples/docker.conf").read_text()


def test_both_units_are_one_sandbox() -> None:
    def settings(name: str) -> set[str]:
        lines = (TOP / "systemd" / name).read_text(encoding="utf-8").splitlines()
        return {line for line in lines if "=" in line and not line.startswith("#")}

    different = {line.partition("=")[0] for line in settings("relayd.service") ^ settings("relayd@.service")}
    assert different == {"Description", "Conflicts", "RuntimeDirectory", "StateDirectory"}


def test_every_example_that_is_named_is_there_and_every_one_there_is_named() -> None:
    text = "".join(PAGES.values())
    there = {path.name for path in EXAMPLES.iterdir()}
    named = set(re.findall(r"([\w-]+\.(?:conf|cfg)|relayd\.tests\.yaml)\b", text)) - {"deb.conf"}
    assert named - {"relayd.tests.yaml"} <= there
    assert there <= named
    for unit in re.findall(r"relayd@?\d?\.(?:service|socket)", text):
        assert (TOP / "systemd" / re.sub(r"@\d", "@", unit)).exists(), unit


def test_every_log_event_that_is_named_is_written_somewhere() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (TOP / "relayd").rglob("*.py"))
    for event in re.findall(r"^\| ([a-z]+_[a-z_]+) \|", PAGES["handbook"], re.M):
        assert f'"{event}"' in source, event


def test_the_numbers_of_the_handbook_are_those_of_the_declarations() -> None:
    text = PAGES["handbook"]
    sample = (TOP / "conf/relayd.full.yaml").read_text(encoding="utf-8")
    assert re.search(r"drain_timeout: 25s", sample) and "`daemon.drain_timeout` (25s" in text
    assert re.search(r"handover_timeout: 1h", sample) and "`daemon.handover_timeout` (1h" in text
    assert "LimitNOFILE=65536" in UNITS and "asks for 65536" in text
    assert "the last 20 of them" in text
    assert "MAX_GENERATIONS = 20" in (TOP / "relayd/daemon/generations.py").read_text(encoding="utf-8")


def test_the_configurations_that_the_readme_points_to_are_in_the_package() -> None:
    shipped = (TOP / "debian/relayd.examples").read_text(encoding="utf-8").split()
    files = {path.relative_to(TOP).as_posix() for pattern in shipped for path in TOP.glob(pattern)}
    there = {path.relative_to(TOP).as_posix() for path in (TOP / "conf/examples").glob("*.yaml")}
    assert there and there <= files and "conf/examples/tests" in files
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    assert "conf/examples/" in readme and "/usr/share/doc/relayd/examples/" in readme


def test_no_example_promises_what_relayd_does_not_do() -> None:
    text = (EXAMPLES / "docker.conf").read_text(encoding="utf-8")
    assert 'endpoints: ["unix:/run/docker.sock"]' in text and "discovery: {docker: ...}" in text
    proxy = (EXAMPLES / "docker-proxy.conf").read_text(encoding="utf-8")
    source = (TOP / "relayd/upstream/discovery/docker.py").read_text(encoding="utf-8")
    assert "{ path /containers/json /events }" in proxy
    assert set(re.findall(r'f"(/[a-z/]+)[^"]*\?filters', source)) == {"/containers/json", "/events"}


def test_the_log_folder_of_the_unit_is_the_one_that_logrotate_and_the_documents_know() -> None:
    for name in ("relayd.service", "relayd@.service"):
        assert "\nLogsDirectory=relayd\n" in (TOP / "systemd" / name).read_text(encoding="utf-8")
    rotation = (TOP / "debian/relayd.logrotate").read_text(encoding="utf-8")
    assert rotation.startswith("/var/log/relayd/*.log {") and "relayd reopen --socket" in rotation
    assert "/var/log/relayd/" in PAGES["readme"]
    assert "/var/log/relayd" in (TOP / "debian/relayd.postrm").read_text(encoding="utf-8")
