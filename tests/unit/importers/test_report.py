"""The report, the names and the writer of an import."""

from __future__ import annotations

import pytest

from relayd.config.load import load_tree
from relayd.importers._draft import Commented, Draft, is_key_field, is_secret_name, plain_name
from relayd.importers._masking import MASK, masked_source
from relayd.importers._paths import is_portable, literal_prefix, whole_path
from relayd.importers._report import Fidelity, Report
from relayd.importers._sources import Source, SourceError, Sources
from relayd.importers._tree import Tree
from relayd.importers._writer import yaml_text


def test_a_line_has_the_worst_verdict_of_its_statements() -> None:
    report = Report()
    report.source("f", "a; b;\nc\n\nd")
    one, two = report.item("f", 1, label="a"), report.item("f", 1, label="b")
    one.exact("fine")
    two.unsupported("no")
    two.unsupported("no")
    report.item("f", 2, 3).approximate("c")
    found = report.entries()
    assert [(entry.line, entry.last, entry.fidelity, entry.reasons) for entry in found] == [
        (1, 1, Fidelity.UNSUPPORTED, ("a: fine", "b: no")), (2, 3, Fidelity.APPROXIMATE, ("c",))]


def test_a_statement_without_a_note_is_not_supported_and_a_block_is_as_known_as_its_contents() -> None:
    report = Report()
    report.source("f", "a\nb\nc\nd")
    block = report.item("f", 1)
    report.item("f", 2, outer=block).exact()
    other = report.item("f", 3)
    report.item("f", 4, outer=other)
    assert [str(one.fidelity) for one in report.entries()] == ["exact", "exact", "not supported", "not supported"]


def test_a_statement_ends_where_the_next_one_begins() -> None:
    report = Report()
    report.source("f", "a\nb\nc")
    for first, last in ((1, 3), (2, 2)):
        report.item("f", first, last).exact()
    assert [(one.line, one.last) for one in report.entries()] == [(1, 1), (2, 2)]


def test_hidden_values_and_user_information_are_masked() -> None:
    report = Report()
    report.source("f", "key = abcdef http://user:pw@host/ " + "x" * 200)
    report.hide("abcdef")
    report.hide("none")
    report.item("f", 1).by_hand("abcdef is bad")
    (entry,) = report.entries()
    assert entry.text.startswith(f"key = {MASK} http://{MASK}@host/") and len(entry.text) == 120 and entry.reasons == (f"{MASK} is bad",)


@pytest.mark.parametrize(("name", "secret"), [
    ("API_KEY", True), ("openai_api_key", True), ("key", True), ("master_key", True), ("DB_PASSWORD", True), ("X-Auth-Token", True), ("aws_access_key_id", True), ("client.secret", True),
    ("keyboard", False), ("tokens", False), ("PORT", False), ("max_tokens", False), ("monkey", False),
])
def test_names_of_secrets(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


def test_names_of_sections() -> None:
    assert (plain_name("/a b/c:1"), plain_name("***"), plain_name("x" * 90)) == ("a-b-c-1", "x", "x" * 60)
    assert is_key_field("Authorization") and is_key_field("X-My-Token") and not is_key_field("X-Team")


def test_equal_upstreams_are_one_and_names_are_unique() -> None:
    draft = Draft()
    assert [draft.upstream("a", {"endpoints": [url]}, None) for url in ("x", "y", "x")] == ["a", "a-2", "a"]
    assert [draft.route("r", {}, None) for _ in range(3)] == ["r", "r-2", "r-3"]


def test_a_key_is_a_file_and_an_unused_one_is_forgotten() -> None:
    draft = Draft()
    assert draft.key("one", "value") == draft.key("two", "value") and draft.key("ONE", "other").name == "one-2"
    draft.consumer("c", {"bearer": draft.key("one", "value")}, None)
    assert draft.document("/k/")["consumers"]["c"].value == {"bearer": {"file": "/k/one"}} and list(draft.keys) == ["one"]


def test_the_yaml_is_read_back_as_it_was() -> None:
    values = {"routes": [Commented({"name": "a", "text": "line\n\"q\" \\ é: #x", "on": True, "n": 1, "long": ["x" * 60, "y" * 60]}, "f:1")],
              "names": {"a*": Commented({"k": {"deep": "v" * 120, "empty": {}}}, "f:2"), "null": "~"}}
    text = yaml_text(values, "head\nmore")
    assert text.startswith("# head\n# more\n\nroutes:\n  # f:1\n  - name: a\n")
    root = Tree(Report(), "x").root(text, load_tree(text, "x"))
    found = {one.name: one for one in next(iter(root.get("routes") or ()))}
    assert found["text"].text == "line\n\"q\" \\ é: #x" and found["long"].texts == ["x" * 60, "y" * 60] and found["on"].flag is True and found["n"].number == 1
    assert (deep := root.at("names.a*.k.deep")) is not None and deep.text == "v" * 120


def test_values_of_a_tree() -> None:
    root = Tree(Report(), "x").root("a: [1, 2]\nb: text\nc:\n", load_tree("a: [1, 2]\nb: text\nc:\n", "x"))
    a, b, c = root.get("a"), root.get("b"), root.get("c")
    assert a is not None and b is not None and c is not None
    assert (a.texts, b.texts, c.texts, b.number, b.flag, c.text, list(b)) == (["1", "2"], ["text"], [], None, None, None, [])
    assert root.at("a.b.c") is None


@pytest.mark.parametrize(("pattern", "whole"), [
    ("^/a$", "/a"), ("/a", ".*?/a.*"), ("^/a", "/a.*"), ("a$", ".*?a"), ("^/a|^/b$", "(?:/a.*|/b)"), ("^/(a|b)$", "/(a|b)"), ("^/a.*", "/a.*"), (r"\.php$", r".*?\.php"), ("^/[|]$", "/[|]"),
])
def test_patterns_of_the_whole_path(pattern: str, whole: str) -> None:
    assert whole_path(pattern) == whole


def test_patterns_that_are_not_portable_or_not_linear() -> None:
    assert is_portable("^/a/(b|c)[0-9]+$") and not is_portable(r"\x41") and not is_portable("(?<n>a)") and not is_portable("é")
    with pytest.raises(ValueError, match=r"linear|time|match"):
        whole_path("^(a+)+$")


@pytest.mark.parametrize(("pattern", "prefix"), [("^/a/(b)", "/a/"), ("/a", ""), ("^/ab?c", "/a"), ("^/a|/b", ""), ("^/abc", "/abc"), ("^/ab+", "/ab")])
def test_the_fixed_beginning_of_a_pattern(pattern: str, prefix: str) -> None:
    assert literal_prefix(pattern) == prefix


def test_included_files_are_bounded_and_faults_are_named() -> None:
    def unreadable(path: str) -> str:
        raise ValueError("no")

    with pytest.raises(SourceError, match="x: cannot be read: no"):
        Sources([], lambda pattern, beside: ["x"], unreadable).included("x", "y")
    with pytest.raises(SourceError, match="more than 200"):
        Sources([], lambda pattern, beside: ["x"] * 201, lambda path: "").included("x", "y")
    assert Sources([], lambda pattern, beside: ["x"], lambda path: "t").included("x", "y") == [Source("x", "t")]


def edits(name: str, value: str) -> dict[str, object]:
    return {"request_headers": {"set": {name: value, "X-Team": "blue"}}}


def test_a_key_among_the_fields_of_a_route_becomes_the_key_of_its_upstream() -> None:
    draft = Draft()
    item = draft.report.item("f", 3)
    plain = draft.upstream("u", {"endpoints": ["http://h"]}, item)
    draft.route("free", {"match": {}, "upstream": plain}, item)
    draft.route("a", {"match": {}, "upstream": plain, **edits("Authorization", "Bearer letmein")}, item)
    draft.route("b", {"match": {}, "upstream": plain, **edits("Authorization", "Bearer letmein")}, item)
    upstreams, routes = draft.upstreams, [one.value for one in draft.routes]
    assert [one["upstream"] for one in routes] == ["u", "u-2", "u-2"]
    assert "auth" not in upstreams["u"].value and "bearer" in upstreams["u-2"].value["auth"]
    assert routes[1]["request_headers"] == {"set": {"X-Team": "blue"}}
    assert list(draft.keys.values()) == ["letmein"]


def test_a_second_key_of_an_upstream_is_left_to_the_reader() -> None:
    draft = Draft()
    first, second = draft.report.item("f", 1), draft.report.item("f", 2)
    upstream: dict[str, object] = {}
    draft.upstream_key(upstream, "Authorization", "Bearer one", first)
    draft.upstream_key(upstream, "X-Api-Key", "two", second)
    assert "bearer" in str(upstream["auth"])
    assert (first.result()[0], second.result()[0]) == (Fidelity.EXACT, Fidelity.BY_HAND)


@pytest.mark.parametrize(("line", "shown"), [
    ("proxy_set_header X-Api-Key $http_x_api_key;", "proxy_set_header X-Api-Key $http_x_api_key;"),
    ("ssl_certificate_key /etc/ssl/a.key;", "ssl_certificate_key /etc/ssl/a.key;"),
    ("api_key: os.environ/KEY", "api_key: os.environ/KEY"),
    ("OPENAI_API_KEY=${OPENAI_API_KEY}", "OPENAI_API_KEY=${OPENAI_API_KEY}"),
    ("auth_basic off;", "auth_basic off;"),
    ("max_tokens: 100000", "max_tokens: 100000"),
    ("password: 'two words'", "password: '***'"),
    ('"apiKey":"x","model":"m"', '"apiKey":"***","model":"m"'),
    ("users=bob:$apr1$abc$def", "users=***"),
    ("url: https://me:pw@h/x?token=a&q=b", "url: https://***@h/x?token=***"),
])
def test_a_line_is_shown_without_what_its_words_show_to_be_secret(line: str, shown: str) -> None:
    assert masked_source(line) == shown
