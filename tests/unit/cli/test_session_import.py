"""Sessions of another program: which of its keys are sessions, in which parts they are passed on, what is reported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.cli.main import main
from relayd.cli.session_import import BATCH, BATCH_BYTES, Found, batches, found_in, literal_start, masked
from relayd.proxy.client_session import key_of
from tests.aids.ports import free_port
from tests.functional.harness.redis import Redis, needs_redis
from tests.unit.cli.admin_case import Admin


@pytest.mark.parametrize(("pattern", "start"), [
    ("session:*", "session:"), ("*", ""), ("a?b", "a"), ("s[ab]:*", "s"), ("plain", "plain"), ("a\\*b", "a"),
])
def test_the_id_begins_where_the_pattern_varies(pattern: str, start: str) -> None:
    assert literal_start(pattern) == start


@pytest.mark.parametrize(("name", "kind", "value", "reason"), [
    (b"session:abc", "string", b'{"a":1}', ""),
    (b"session:abc", "hash", None, "its type is hash"),
    (b"session:abc", "string", b"\x80\x04pickle", "not JSON"),
    (b"session:abc", "string", b"", "not JSON"),
    (b"session:abc", "string", b"[" * 100_000, "not JSON"),
    (b"session:", "string", b"{}", "cannot be the id"),
    (b"session:a b", "string", b"{}", "cannot be the id"),
    (b"session:\xff", "string", b"{}", "cannot be the id"),
    (b"other:abc", "string", b"{}", "cannot be the id"),
    (b"session:" + b"x" * 129, "string", b"{}", "cannot be the id"),
])
def test_what_is_a_session(name: bytes, kind: str, value: bytes | None, reason: str) -> None:
    found = found_in(name, kind, value, "session:")
    assert reason in found.reason if reason else found == Found("session:abc", key_of(b"abc"), {"a": 1}, 7)


def test_parts_are_bounded() -> None:
    skipped: list[Found] = []
    small = [Found(f"s{number}", f"k{number}", {}, 2) for number in range(2 * BATCH + 1)]
    assert [len(batch) for batch in batches(iter(small), skipped)] == [BATCH, BATCH, 1]
    large = [Found(f"s{number}", f"k{number}", {}, BATCH_BYTES // 2) for number in range(5)]
    assert [len(batch) for batch in batches(iter(large), skipped)] == [2, 2, 1] and not skipped
    odd = [Found("a", reason="why"), Found("b", "kb", {}, BATCH_BYTES + 1), Found("c", "kc", {}, 1)]
    assert [list(batch) for batch in batches(iter(odd), skipped)] == [["kc"]]
    assert [(one.name, one.reason) for one in skipped] == [("a", "why"), ("b", "The document is too large.")]


def test_ids_are_masked_in_the_report() -> None:
    assert masked("session:0123456789", 8) == "session:0123..." and masked("session:012", 8) == "session:012"


# ---- the command, with a real Redis of the other program

PASSWORD = "old-secret"
NO_SESSIONS = (200, {"stored": 0, "skipped": {}})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis"), password=PASSWORD) as running:
        yield running


@pytest.fixture
def old(server: Redis) -> Redis:
    server.ask("FLUSHALL")
    return server


def words(redis: Redis, folder: Path, *further: str, pattern: str = "session:*", password: bytes = PASSWORD.encode() + b"\n") -> list[str]:
    file = folder / "password"
    file.write_bytes(password)
    return ["sessions", "import", "--redis", redis.url, "--password-file", str(file), "--pattern", pattern, *further]


@needs_redis()
def test_sessions_are_passed_on_under_the_digests_of_their_ids(old: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.ask("SET", "session:visitor-1", '{"cart": [1]}')
    old.ask("SET", "session:visitor-2", "[]")
    old.ask("HSET", "session:table-3", "a", "1")
    old.ask("SET", "unrelated", "{}")
    kept = key_of(b"visitor-2")
    with Admin(tmp_path, (200, {"stored": 1, "skipped": {kept: "It exists."}})) as admin:
        assert main([*words(old, tmp_path, "--consumer", "team"), *admin.options]) == 0
    assert admin.asked == ["POST /sessions/import"]
    assert json.loads(admin.bodies[0]) == {
        "consumer": "team", "dry_run": False, "sessions": {key_of(b"visitor-1"): {"cart": [1]}, kept: []}}
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "skipped session:tabl...: its type is hash, not string", "skipped session:visi...: It exists.", "1 sessions imported, 2 skipped"]
    assert not shown.err and len(old.keys()) == 4


@needs_redis()
def test_a_dry_run_is_one_and_its_report_in_json_has_no_ids(old: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.ask("SET", "session:visitor-1", "{}")
    old.ask("SET", "session:visitor-2", "pickle")
    with Admin(tmp_path, (200, {"stored": 1, "skipped": {}})) as admin:
        assert main([*words(old, tmp_path, "--dry-run"), *admin.options]) == 0
        assert capsys.readouterr().out.endswith("1 sessions would be imported, 1 skipped\n")
        assert main([*words(old, tmp_path, "--dry-run", "--json"), *admin.options]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown) == {
        "dry_run": True, "imported": 1, "skipped": [{"key": "session:visi...", "reason": "its value is not JSON"}]}
    for body in map(json.loads, admin.bodies):
        assert body["dry_run"] is True and body["consumer"] == "" and list(body["sessions"]) == [key_of(b"visitor-1")]


@needs_redis()
def test_the_id_begins_after_what_is_to_be_stripped(old: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.ask("SET", "app:one:visitor-1", "{}")
    old.ask("SET", "app:two:visitor-2", "{}")
    with Admin(tmp_path, (200, {"stored": 1, "skipped": {}})) as admin:
        assert main([*words(old, tmp_path, "--strip", "app:one:", pattern="app:*"), *admin.options]) == 0
    assert list(json.loads(admin.bodies[0])["sessions"]) == [key_of(b"visitor-1")]
    assert "skipped app:two:visi...: what is left of its key cannot be the id" in capsys.readouterr().out


@needs_redis()
def test_many_sessions_go_in_parts_and_are_added_up(old: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.ask("MSET", *[text for number in range(BATCH + 1) for text in (f"session:{number}", "{}")])
    with Admin(tmp_path, (200, {"stored": BATCH, "skipped": {}}), (200, {"stored": 1, "skipped": {}})) as admin:
        assert main([*words(old, tmp_path), *admin.options]) == 0
    parts = [json.loads(body)["sessions"] for body in admin.bodies]
    assert sorted(map(len, parts)) == [1, BATCH] and len(parts[0] | parts[1]) == BATCH + 1
    assert capsys.readouterr().out == f"{BATCH + 1} sessions imported, 0 skipped\n"


@needs_redis()
def test_a_refusal_of_relayd_ends_the_import_with_an_error(old: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.ask("SET", "session:visitor-1", "{}")
    with Admin(tmp_path, (400, {"error": {"message": "There is no such consumer."}})) as admin:
        assert main([*words(old, tmp_path, "--consumer", "tea"), *admin.options]) == 1
    shown = capsys.readouterr()
    assert shown.err == "relayd: not done: There is no such consumer.\n" and not shown.out


@needs_redis()
@pytest.mark.parametrize("password", [b"guessed", b"\xff"])
def test_a_wrong_password_is_an_error_and_nothing_is_passed_on(
    password: bytes, old: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old.ask("SET", "session:visitor-1", "{}")
    with Admin(tmp_path, NO_SESSIONS) as admin:
        assert main([*words(old, tmp_path, password=password), *admin.options]) == 1
    shown = capsys.readouterr().err
    assert not admin.asked and shown.startswith("relayd: ") and "guessed" not in shown
    if password == b"\xff":
        assert shown == f"relayd: {tmp_path}/password: is not UTF-8 at byte 1: write the password in UTF-8\n"


@needs_redis()
@pytest.mark.parametrize(("url", "reason"), [("redis://127.0.0.1:{port}/0", "Redis: "), ("http://x", "the URL of Redis: ")])
def test_a_redis_that_cannot_be_reached_is_named_as_the_cause(
    url: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Admin(tmp_path, NO_SESSIONS) as admin:
        options = ["--redis", url.format(port=free_port()), "--pattern", "session:*", *admin.options]
        assert main(["sessions", "import", *options]) == 1
    assert not admin.asked and capsys.readouterr().err.startswith(f"relayd: {reason}")


def test_without_the_library_the_package_to_install_is_named() -> None:
    script = "import sys; sys.modules['redis'] = None; from relayd.cli.main import main; sys.exit(main(sys.argv[1:]))"
    asked = ["sessions", "import", "--redis", "redis://127.0.0.1:1", "--pattern", "session:*"]
    done = subprocess.run([sys.executable, "-c", script, *asked], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "python3-redis" in done.stderr and "Traceback" not in done.stderr
