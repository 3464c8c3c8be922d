"""Whatever stands in the file: an accepted configuration, or all of its faults with their places."""

from __future__ import annotations

import json
import os
import pathlib

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relayd.config import load as loading
from relayd.config.load import ALL_BYTES, FILE_BYTES, Loaded, load, load_text
from relayd.errors import ConfigError, Finding
from relayd.schema import Duration
from tests.aids.growth import linear

LEAST = "listeners: {a: {address: '127.0.0.1:8282'}}\nroutes: [{name: r, respond: 200}]\n"

# The example of the design, with places for the folder of its keys.
EXAMPLE = """\
include: /etc/relayd.d/*.yaml
listeners:
  public: {address: "127.0.0.1:8282", timeouts: {header: 10s}}   # host:port, [v6]:port, unix:/path, systemd:NAME
admin: {address: "unix:/run/relayd/admin.sock"}   # health, ready, metrics, status, dashboard, reload; a route may name it
upstreams:
  chutes:
    protocol: openai_chat                         # plain is the default: opaque bytes
    endpoints: ["https://llm.chutes.ai/v1"]       # AI dialects: the API's base, as an SDK's base_url
    auth: {bearer: {file: /etc/relayd/keys/chutes}}
    balance: least_request
    limits: {requests: 8, queue: 64, queue_timeout: 30s}
    breaker: {failures: 5, open_for: 30s}
    timeouts: {connect: 5s, first_byte: 60s, idle: 120s, total: 600s}
    retries: {attempts: 3, backoff: 500ms}
  web:
    endpoints: ["http://127.0.0.1:9001"]          # plain: a path given here is put before the request's path
models:                                           # for routes that choose by model
  "mistral-*": chutes
  fast: {upstream: chutes, model: mistral-small}
routes:                                           # a list: the first match wins
  - {name: responses, match: {path: /v1/responses}, protocol: openai_responses, upstream: chutes, allow: [team]}
  - {name: llm, match: {prefix: /v1/}, protocol: openai_chat, upstream: by_model, allow: [team]}
  - {name: rest, match: {prefix: /}, upstream: web, upgrade: true}   # upgrade: WebSocket and other Upgrade requests
consumers:
  team: {bearer: {file: /etc/relayd/keys/team}}
telemetry:
  access_log: {format: json}                      # text, json, journal; `file: PATH` instead of standard output
  statsd: {address: "127.0.0.1:8125", prefix: relayd}
"""


def refused(text: str) -> list[Finding]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, "r.yaml")
    return [one for one in caught.value.findings if one.level == "error"]


def only(text: str) -> Finding:
    findings = refused(text)
    assert len(findings) == 1, findings
    return findings[0]


def test_the_example_of_the_design_is_accepted_as_it_stands(tmp_path: pathlib.Path) -> None:
    for name in ("chutes", "team"):
        (tmp_path / name).write_text(f"sk-{name}\n")
        (tmp_path / name).chmod(0o600)
    path = tmp_path / "relayd.yaml"
    (tmp_path / "relayd.d").mkdir()
    path.write_text(EXAMPLE.replace("/etc/relayd/keys", str(tmp_path)).replace("/etc/relayd.d", str(tmp_path / "relayd.d")))
    loaded = load(str(path))
    upstream = loaded.config.upstreams["chutes"]
    assert upstream.auth is not None
    assert [key.reveal() for key in upstream.auth.bearer] == ["sk-chutes"]
    assert upstream.timeouts.first_byte == Duration(60)
    assert loaded.config.models["mistral-*"].upstream == "chutes"
    assert loaded.config.models["fast"].model == "mistral-small"
    assert loaded.config.routes[2].upgrade
    assert "sk-" not in repr(loaded)
    assert loaded.warnings == ()


def test_a_missing_secret_is_a_fault_when_the_file_is_checked() -> None:
    faults = refused(EXAMPLE.replace("/etc/relayd/keys", "/nowhere"))
    assert [(one.path, one.line) for one in faults] == [
        ("upstreams.chutes.auth.bearer[0].file", 9), ("consumers.team.bearer.file", 25)]


def test_the_shipped_configuration_is_accepted_without_a_warning() -> None:
    loaded = load(str(pathlib.Path(__file__).parents[3] / "conf" / "relayd.yaml"))
    assert loaded.warnings == ()
    assert [route.upstream for route in loaded.config.routes] == ["admin", "demo"]


def test_a_fault_has_file_line_column_path_and_what_was_meant() -> None:
    fault = next(one for one in refused(LEAST.replace("address", "adress")) if "unknown" in one.message)
    assert str(fault) == "r.yaml:1:17: error: listeners.a.adress: unknown key 'adress' (did you mean address?)"


def test_faults_come_in_the_order_of_lines() -> None:
    lines = [one.line for one in refused("daemon: {x: 1}\nlisteners: {a: {address: b}}\nroutes: [{name: '-- '}]\nzzz: 1\n")]
    assert lines == sorted(lines)
    assert set(lines) == {1, 2, 3, 4}


@pytest.mark.parametrize(("text", "message"), [
    ("a: [", "YAML: "), ("a: b: c", "mapping values are not allowed"), ("a:\n\t- b", "cannot start any token"),
    ("host: *.example.org", "YAML"), ("a: &a [*a]", "refers to itself"), ("a: *b", "anchor"), ("- a", "found a list"),
    ("word", "found a single value"), ("a: 1\n---\nb: 1", "a second document"), ("listeners: !!python/object:os.system {}", "tags"),
    ("a: \"\\uD800\"", ""), ("a: \"\\UFFFFFFFF\"", ""), ("a: \x07", "forbids"), ("? [a]\n: b", "a key must be a scalar"),
    ("<<: 3", "only a mapping can be merged"), ("\ud800", ""), ("%YAML 9.9\n---\na: b", "")
])
def test_a_text_that_is_not_one_plain_yaml_mapping_is_refused_with_its_place(text: str, message: str) -> None:
    faults = refused(text)
    assert any(message in one.message for one in faults), faults
    assert all(one.file == "r.yaml" for one in faults)


def test_hints_help_with_the_usual_slips_of_yaml() -> None:
    assert "spaces" in refused("a:\n\t- b")[0].suggestion
    assert "quoted" in refused("host: *.example.org")[0].suggestion
    assert "quoted" in refused("a: b: c")[0].suggestion
    assert "begins with @" in refused("a: @b")[0].suggestion


def test_a_duplicate_key_names_the_first_one() -> None:
    fault = only(LEAST + "daemon: {}\ndaemon: {}\n")
    assert (fault.line, fault.message, fault.suggestion) == (4, "duplicate key 'daemon'", "first written in line 3")


def test_an_empty_file_needs_a_listener() -> None:
    for text in ("", "# nothing\n", "---\n", "null\n", "\ufeff# mark\n"):
        assert "at least one listener" in refused(text)[0].message


def test_the_words_that_yaml_would_change_stay_what_they_are() -> None:
    loaded = load_text(LEAST + "headers: {via: off, proxy_by: no}\nupstreams: {off: {endpoints: 'http://a'}, 1: {endpoints: 'http://b'}}\n", "r")
    assert loaded.config.headers.via == "off"
    assert loaded.config.headers.proxy_by == "no"
    assert list(loaded.config.upstreams) == ["off", "1"]
    assert only(LEAST + "telemetry: {statsd: {address: a, tags: 1:30}}").path == "telemetry.statsd.tags"


def test_anchors_and_merging_work_within_bounds() -> None:
    loaded = load_text(LEAST + """
upstreams:
  a: &a {endpoints: "http://127.0.0.1:1", http: "2", timeouts: &t {connect: 1s}}
  b: {<<: *a, endpoints: "http://127.0.0.1:2"}
  c: {endpoints: "http://127.0.0.1:3", timeouts: *t}
""", "r")
    upstreams = loaded.config.upstreams
    assert (upstreams["b"].http, upstreams["b"].endpoints[0].url) == ("2", "http://127.0.0.1:2")
    assert upstreams["c"].timeouts.connect == Duration(1)


def test_an_alias_bomb_is_refused_at_once() -> None:
    def refuse(levels: int) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
        assert "more than 200000 values" in only("\n".join(lines)).message

    assert linear(refuse, 10)


@pytest.mark.parametrize("parser", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize(("text", "line", "column"), [
    ("[" * 900_000, 1, 33), ("{a: " * 200_000, 1, 129), ("- " * 100_000, 1, 65), ("? " * 5_000, 1, 65), ("{[" * 5_000, 1, 33),
    ("# one\n\u00e9: " + "[" * 5_000, 2, 35), ("".join(f"{' ' * n}a:\n" for n in range(1100)), 33, 33),
])
def test_a_text_that_is_nested_too_deep_has_one_fault_whatever_bounds_the_parser_has(
    text: str, line: int, column: int, parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(yaml, parser):
        pytest.skip("a PyYAML without libyaml")
    monkeypatch.setattr(loading, "PARSER", getattr(yaml, parser))
    fault = only(text)
    assert (fault.line, fault.column, fault.message) == (line, column, "is nested deeper than 32 levels")


def test_aliases_count_for_the_depth() -> None:
    chain = "\n".join(f"a{n}: &a{n} [{f'*a{n - 1}' if n else 'x'}]" for n in range(60))
    assert "through an alias" in only(chain).message


def test_a_text_that_is_nested_too_deep_is_refused_at_once() -> None:
    assert linear(lambda size: only("[" * size), 50_000)
    assert linear(lambda size: only("- " * size), 25_000)


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"#" * (FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 1024 KiB"):
        load(str(path))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_text("#" * (FILE_BYTES + 1), "r")


@pytest.mark.parametrize(("content", "message"), [
    (b"a: \x00", "is not a text file"), (b"\x7fELF\x00", "is not a text file"), (b"a: b\nc: \xff", "r.yaml:2:4: error: is not UTF-8"),
    ("a: b".encode("utf-16"), ""),
])
def test_a_file_that_is_not_text_is_refused(tmp_path: pathlib.Path, content: bytes, message: str) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "r.yaml"))
    assert message in str(caught.value)


def test_a_file_that_is_not_there_or_not_a_file_is_refused(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "is a directory"), (tmp_path / "pipe", "regular")):
        with pytest.raises(ConfigError) as caught:
            load(str(path))
        assert str(caught.value).startswith(f"{path}: error: cannot be read: ")
        assert message in str(caught.value)


def test_included_files_are_added_and_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "r.yaml").write_text("include: d/*.yaml\nlisteners: {a: {address: '127.0.0.1:1'}}\nroutes: {name: one, respond: 200}\n")
    (tmp_path / "d" / "b.yaml").write_text("routes: [{name: three, respond: 200}]\nlisteners: {b: {address: '127.0.0.1:2'}}\n")
    (tmp_path / "d" / "a.yaml").write_text("routes: [{name: two, match: {path: /x}, respond: 200}]\ntelemetry: {log: {level: debug}}\n")
    (tmp_path / "d" / "ignored.txt").write_text("not: yaml: at all")
    loaded = load(str(tmp_path / "r.yaml"))
    assert [route.name for route in loaded.config.routes] == ["one", "two", "three"]
    assert list(loaded.config.listeners) == ["a", "b"]
    assert loaded.config.telemetry.log.level == "debug"
    assert [os.path.basename(path) for path in loaded.files] == ["r.yaml", "a.yaml", "b.yaml"]


def test_a_fault_in_an_included_file_has_that_file_s_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "r.yaml").write_text(LEAST.replace("respond: 200", "upstream: u") + "include: [more.yaml, broken.yaml]\n")
    (tmp_path / "more.yaml").write_text("\nconsumers: {t: {bearer: {file: gone}}}\n")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "r.yaml"))
    assert [os.path.basename(one.file) for one in caught.value.findings] == ["more.yaml", "broken.yaml"]
    assert caught.value.findings[0].line == 2
    assert str(tmp_path / "gone") in str(caught.value), "a relative key file begins at the folder of its own file"


def test_all_files_together_are_bounded(tmp_path: pathlib.Path) -> None:
    count = ALL_BYTES // FILE_BYTES + 1
    (tmp_path / "r.yaml").write_text(LEAST + "include: x*.yaml\n")
    for number in range(count):
        (tmp_path / f"x{number}.yaml").write_bytes(b"#" * (FILE_BYTES - 1))
    with pytest.raises(ConfigError, match="all files together"):
        load(str(tmp_path / "r.yaml"))


FRAGMENTS = st.sampled_from([
    "listeners", "routes", "upstreams", "name", "address", "127.0.0.1:1", "match", "regex", "(a+)+", "endpoints", "http://a",
    ": ", ":\n  ", "\n", "- ", "{", "}", "[", "]", ", ", "&a ", "*a", "<<", "'", '"', "#", "off", "5s", "~", "|", ">", "!", "!!str ",
    "? ", "---\n", "\t", "\\", "%", "@", "`", "respond", "200", "bearer", "file", "/", "include",
])


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(FRAGMENTS, max_size=40).map("".join) | st.text(max_size=200))
def test_any_text_is_accepted_or_refused_and_nothing_else(text: str) -> None:
    try:
        assert isinstance(load_text(text, "r.yaml"), Loaded)
    except ConfigError as refusal:
        assert any(one.level == "error" for one in refusal.findings)
        assert all(one.message and one.file for one in refusal.findings)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_accepted_or_refused_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError):
        load(str(path))


def test_a_finding_of_a_later_part_is_placed_where_its_key_stands() -> None:
    loaded = load_text(LEAST + "upstreams:\n  a: {endpoints: 'http://127.0.0.1:1'}\n", "r.yaml")
    known, near, lost = loaded.located([
        Finding("", 0, 0, "upstreams.a.endpoints", "x"), Finding("", 0, 0, "upstreams.a.tls.ca", "x"), Finding("b", 7, 1, "q", "x"),
    ])
    assert (known.file, known.line) == (near.file, near.line) == ("r.yaml", LEAST.count("\n") + 2)
    assert (lost.file, lost.line) == ("b", 7)


def test_a_file_may_have_thousands_of_routes() -> None:
    route = "  - {name: r%d, match: {host: [a.example], prefix: /r%d/}, upstream: a, strip_prefix: /r%d, allow: [c]}\n"
    routes = "".join(route % (number, number, number) for number in range(5000))
    loaded = load_text(
        "listeners: {public: {address: '127.0.0.1:0'}}\nupstreams: {a: {endpoints: 'http://127.0.0.1:1'}}\n"
        "consumers: {c: {addresses: [10.0.0.0/8]}}\nroutes:\n" + routes, "r",
    )
    assert len(loaded.config.routes) == 5000


def test_a_variable_in_the_body_of_a_response_is_warned_of_unless_it_may_belong_to_a_script() -> None:
    for body, warned in (("Hello ${HOST_NAME}", True), ("a\nb ${PORT:-80}", True), ("<script>`${name}`</script>", False), ("${", False)):
        text = f"listeners: {{a: {{address: '127.0.0.1:1'}}}}\nroutes: [{{name: r, respond: {{body: {json.dumps(body)}}}}}]\n"
        loaded = load_text(text, "relayd.yaml")
        assert [one.path for one in loaded.warnings] == ["routes[0].respond.body"] * warned
