"""The store of the configuration, and the sealing key."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relayd.config.store import Store
from relayd.daemon.configured_store import open_store
from relayd.daemon.state_dir import seal_key
from relayd.errors import ConfigError
from relayd.schema import Duration, Size
from relayd.stores.memory import Store as MemoryStore
from tests.aids.sections import section


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    return tmp_path


def test_memory_forgets_with_the_process_and_a_file_does_not(state: Path) -> None:
    for chosen, kept in ((Store(kind="memory"), None), (Store(kind="sqlite"), {"a": 1}), (Store(), {"a": 1})):
        store = open_store(chosen)
        store.space("team").put("k", {"a": 1})
        assert store.space("team").get("k") == {"a": 1} and store.space("other").get("k") is None
        store.close()
        again = open_store(chosen)
        assert again.space("team").get("k") == kept
        again.close()
    assert (state / "store.sqlite").exists()


def test_the_default_is_memory_without_a_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    store = open_store(Store())
    assert isinstance(store, MemoryStore) and store.notices == ()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "nowhere"))
    store = open_store(Store())
    assert isinstance(store, MemoryStore)
    assert "nowhere" in store.notices[0] and "is lost when relayd ends" in store.notices[0]


def test_a_store_has_the_bounds_that_are_written() -> None:
    store = open_store(Store(entries=2, size=Size(1 << 20), ttl=Duration(9)))
    for number in range(4):
        store.space("team").put(str(number), number)
    assert [store.space("team").get(str(number)) for number in range(4)] == [None, None, 2, 3]


def test_a_file_that_cannot_be_made_refuses_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        open_store(section(Store, kind="sqlite", path=str(tmp_path / "nowhere" / "store.sqlite")))
    (finding,) = refused.value.findings
    assert finding.path == "store.path" and "nowhere" in finding.message


def test_the_key_survives_and_is_for_its_owner_alone(state: Path) -> None:
    key, why = seal_key()
    assert len(key) == 32 and why == "" and seal_key() == (key, "")
    assert stat.S_IMODE(os.stat(state / "seal.key").st_mode) == 0o600


def test_a_damaged_key_is_replaced(state: Path) -> None:
    (state / "seal.key").write_bytes(b"short")
    key, why = seal_key()
    assert len(key) == 32 and why == "" and seal_key()[0] == key


def test_a_key_that_cannot_be_stored_is_used_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "gone"))
    key, why = seal_key()
    assert len(key) == 32 and "gone" in why
    monkeypatch.delenv("STATE_DIRECTORY")
    assert seal_key()[0] != seal_key()[0]


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Become one of the instances of this host: relayd@NAME.service."""
    for name in ("shared", "one", "two"):
        (tmp_path / name).mkdir()

    def become(name: str) -> None:
        monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/{name}:{tmp_path}/shared")

    return become


def test_instances_share_the_sealing_key(instance: Callable[[str], None]) -> None:
    instance("one")
    key, why = seal_key()
    instance("two")
    assert (seal_key(), why) == ((key, ""), "")


def test_an_instance_waits_for_the_key_that_another_one_is_writing(
    instance: Callable[[str], None], tmp_path: Path
) -> None:
    instance("one")
    with ThreadPoolExecutor(1) as pool:
        with open(tmp_path / "shared" / "seal.key", "wb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            started = pool.submit(seal_key)
            with pytest.raises(TimeoutError):
                started.result(0.2)
            other.write(b"k" * 32)
        assert started.result(30) == (b"k" * 32, "")


def test_instances_share_a_stored_value(instance: Callable[[str], None]) -> None:
    instance("one")
    one = open_store(Store(kind="sqlite"))
    one.space("team").put("k", {"a": 1})
    instance("two")
    two = open_store(Store(kind="sqlite"))
    assert two.space("team").get("k") == {"a": 1}
    two.close()
    one.close()
