"""What holds for every kind of import, over all samples: nothing is lost, nothing secret is shown, relayd accepts the result."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from relayd import registry
from relayd.config.load import load_text
from relayd.errors import ConfigError
from relayd.importers import FOLDER, Conversion, converted, recognised
from relayd.importers._masking import MASK
from tests.aids.imports import files_of, filled, samples, significant

SECRET = re.compile(r"(?:secret|sk|letmein|redispass)-[A-Za-z0-9\-]{4,}")
KINDS = registry.kinds(FOLDER)
# Files of the machine on which the original runs, and variables of its environment.
ELSEWHERE = re.compile(r"^cannot be read: No such file|^environment variable \w+ is not set")


def texts(sample: Path) -> list[tuple[str, str]]:
    return [(path.name, filled(path.read_text(encoding="utf-8"))) for path in files_of(sample)]


def conversion(sample: Path) -> Conversion:
    return converted(sample.parent.name, texts(sample), named=lambda pattern, beside: [], read=lambda path: "")


@pytest.fixture(params=samples(), ids=lambda path: f"{path.parent.name}-{path.name}")
def sample(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_every_kind_has_samples_and_a_manual_entry() -> None:
    assert tuple(sorted({path.parent.name for path in samples()})) == KINDS
    assert all(registry.entry(FOLDER, kind) for kind in KINDS)


def test_every_significant_line_is_reported_once(sample: Path) -> None:
    """An entry covers the lines of its statement; no line of the source is without one, and none is in two."""
    result = conversion(sample)
    for name, text in texts(sample):
        covered = [number for one in result.entries if one.file == name for number in range(one.line, one.last + 1)]
        assert len(covered) == len(set(covered))
        assert not set(significant(text)) - set(covered)
        assert all(one.fidelity == 0 or one.reasons for one in result.entries)


def test_a_line_that_nobody_knows_is_reported_as_not_supported(sample: Path) -> None:
    assert {str(one.fidelity) for one in conversion(sample).entries} <= {"exact", "approximate", "by hand", "not supported"}


def test_relayd_accepts_the_result(sample: Path, tmp_path: Path) -> None:
    result = conversion(sample)
    for name, value in result.keys.items():
        (tmp_path / name).write_text(value + "\n")
        (tmp_path / name).chmod(0o600)
    try:
        load_text(result.text(str(tmp_path)), sample.name)
    except ConfigError as refused:
        assert not [str(one) for one in refused.findings if one.level == "error" and not ELSEWHERE.search(one.message)]


def test_no_secret_is_in_the_yaml_or_in_the_report(sample: Path) -> None:
    result = conversion(sample)
    shown = result.text("/etc/relayd/keys") + json.dumps([[one.text, one.reasons] for one in result.entries]) + "".join(result.remarks)
    assert not SECRET.search(shown), SECRET.search(shown)
    assert all(value not in shown for value in result.keys.values() if len(value) > 8)


SECRET_EVERYWHERE = {
    "nginx": """server {
  listen 80;
  location /a { proxy_set_header X-Api-Key letmein-a111; proxy_set_header Cookie "s=letmein-a112"; if ($host) { return 403; } proxy_pass http://h; }
  location /b { proxy_pass https://u:letmein-b111@h/x?key=letmein-b112; }
  location /c { proxy_set_header Authorization "Bearer letmein-c111"; proxy_set_header X-Token letmein-c112; proxy_pass http://h; }
}""",
    "caddyfile": """example.org {
  request_header Authorization "Bearer letmein-a111"
  @q query api_key=letmein-b111
  respond @q 200
  handle /v1/* {
    reverse_proxy https://h {
      header_up X-Api-Key letmein-c111
      header_up X-Token letmein-c112
    }
  }
  forward_auth h {
    header_up Authorization "Bearer letmein-d111"
  }
}""",
    "haproxy": """userlist u
  user a password $5$letmein-a111
  user b insecure-password letmein-a112
frontend f
  mode http
  bind :80
  stats auth admin:letmein-b111
  http-request set-header Authorization Bearer\\ letmein-c111
  default_backend b
backend b
  mode http
  http-request set-header X-Api-Key letmein-d111 if q
  http-check send hdr Authorization letmein-d112
  server s 10.0.0.1:1
""",
    "traefik": """http:
  routers:
    a: {rule: "PathPrefix(`/`)", service: s, middlewares: [h]}
    b: {rule: "Query(`token=letmein-a111`)", service: s}
  middlewares:
    h: {headers: {customRequestHeaders: {Authorization: "Bearer letmein-b111", X-Foo-Token: letmein-b112}}}
  services:
    s: {loadBalancer: {servers: [{url: "http://10.0.0.1:1"}]}}
""",
    "litellm": """model_list:
  - {model_name: g, litellm_params: {model: openai/x, api_key: letmein-a111, extra_headers: {X-Auth: letmein-b111, Authorization: "Bearer letmein-b112"}}}
general_settings:
  slack_webhook: https://hooks.slack.com/services/letmein-c111
""",
    "compose": """services:
  app:
    image: app
    command: ["--api-key", "letmein-a111", "--token=letmein-a112"]
    environment: {AUTH_HEADER: "Bearer letmein-b111"}
""",
}


@pytest.mark.parametrize("kind", SECRET_EVERYWHERE)
def test_no_secret_is_shown_where_nothing_reads_it(kind: str, tmp_path: Path) -> None:
    """In fields of a block or middleware, in what answers 501, and in what this import does not know."""
    result = converted(kind, [("f", SECRET_EVERYWHERE[kind])], named=lambda pattern, beside: [], read=lambda path: "")
    text = result.text(str(tmp_path))
    shown = text + json.dumps([[one.text, one.reasons] for one in result.entries]) + "".join(result.remarks)
    assert "letmein" not in shown
    assert MASK in shown
    for name, value in result.keys.items():
        (tmp_path / name).write_text(value + "\n")
        (tmp_path / name).chmod(0o600)
    try:
        load_text(text, kind)
    except ConfigError as refused:
        assert not [str(one) for one in refused.findings if one.level == "error" and not ELSEWHERE.search(one.message)]


def test_a_sample_is_recognised_without_its_kind(sample: Path) -> None:
    assert recognised(texts(sample)) == sample.parent.name


def damaged(text: str, chance: random.Random) -> str:
    """The text with a character, a word or a line lost, doubled, moved or replaced."""
    lines = text.split("\n")
    number, place = chance.randrange(len(lines)), chance.randrange(len(text) + 1)
    kind = chance.randrange(5)
    if kind == 0:
        return text[:place] + chance.choice("\"'{};\\[]:#\n$` *%()é-") + text[place:]
    if kind == 1:
        return text[:place] + text[place + chance.randint(1, 6) :]
    if kind == 2:
        lines.insert(number, lines[chance.randrange(len(lines))])
    elif kind == 3:
        words = lines[number].split(" ")
        chance.shuffle(words)
        lines[number] = " ".join(words)
    else:
        lines[number] = lines[number][: len(lines[number]) // 2]
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_is_converted_or_refused(sample: Path, seed: int) -> None:
    """Nothing but the two faults that the command reports, and no secret in the report either."""
    chance = random.Random(seed)
    files = [(name, damaged(text, chance)) for name, text in texts(sample)]
    try:
        result = converted(sample.parent.name, files, named=lambda pattern, beside: [], read=lambda path: "")
    except (ValueError, ConfigError) as fault:
        assert str(fault)
        return
    assert result.text("/k") and result.entries


def test_unknown_files_are_not_guessed() -> None:
    with pytest.raises(ValueError, match="name it: "):
        recognised([("notes.txt", "hello\n")])


@pytest.mark.parametrize(("kind", "text"), [
    ("nginx", "a {\n" * 3000 + "}\n" * 3000),
    ("caddyfile", "a {\n" * 3000 + "}\n" * 3000),
])
def test_deeply_nested_blocks_are_refused_with_the_file(kind: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"f.*: blocks are nested deeper than"):
        converted(kind, [("f", text)], named=lambda pattern, beside: [], read=lambda path: "")


@pytest.mark.parametrize("rule", ["(" * 3000 + "Path(`/x`)" + ")" * 3000, "!" * 3000 + "Path(`/x`)", " && ".join(["(Path(`/a`) || Method(`GET`))"] * 40)])
def test_a_rule_of_any_depth_is_closed(rule: str) -> None:
    text = f"http:\n  routers:\n    a: {{rule: \"{rule}\", service: s}}\n  services:\n    s: {{loadBalancer: {{servers: [{{url: 'http://10.0.0.1:1'}}]}}}}\n"
    result = converted("traefik", [("f", text)], named=lambda pattern, beside: [], read=lambda path: "")
    assert result.draft.routes[0].value["respond"]["status"] == 501


@pytest.mark.parametrize(("kind", "text", "line", "key"), [
    ("litellm", "model_list: []\nlitellm_settings:\n  cache: true\n", 3, "cache of the routes"),
    ("litellm", "model_list: []\nrouter_settings:\n  redis_host: h\n", 3, "see store"),
    ("litellm", "model_list:\n  - model_name: m\n    litellm_params:\n      model: openai/m\n      rpm: 6\n", 5, "rates of the upstream"),
    ("traefik", "http:\n  routers:\n    r: {rule: 'Path(`/`)', service: s, middlewares: [m]}\n  middlewares:\n    m: {rateLimit: {average: 9}}\n", 5, "rates"),
    ("traefik", "http:\n  routers:\n    r: {rule: 'Path(`/`)', service: s, middlewares: [m]}\n  middlewares:\n    m: {ipAllowList: {sourceRange: [10.0.0.0/8]}}\n", 5, "addresses of consumers"),
    ("traefik", "http:\n  routers:\n    r: {rule: 'Path(`/`)', service: s, middlewares: [m]}\n  middlewares:\n    m: {basicAuth: {users: ['u:x']}}\n", 5, "basic of consumers"),
    ("caddyfile", "a.example {\n  basic_auth {\n    u x\n  }\n  respond 200\n}\n", 2, "basic of consumers"),
    ("caddyfile", "a.example {\n  tracing\n  respond 200\n}\n", 2, "telemetry.otlp"),
    ("haproxy", "frontend f\n  mode http\n  bind :443 ssl crt /c ca-file /d verify required\n", 3, "tls.client_ca"),
    ("nginx", "server {\n  listen 80;\n  location / { return 204; }\n  limit_req zone=one;\n}\n", 4, "rates"),
])
def test_what_relayd_has_is_by_hand_and_its_key_is_named(kind: str, text: str, line: int, key: str) -> None:
    result = converted(kind, [("file.yml", text)], named=lambda pattern, beside: [], read=lambda path: "")
    (entry,) = [one for one in result.entries if one.line == line]
    assert str(entry.fidelity) in ("by hand", "approximate") and key in "; ".join(entry.reasons)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file_has_an_empty_report(kind: str) -> None:
    result = converted(kind, [("empty", "")], named=lambda pattern, beside: [], read=lambda path: "")
    assert not result.entries
