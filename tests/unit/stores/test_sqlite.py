"""The store in a file: restarts, other instances, other versions, damage."""

from __future__ import annotations

import pathlib
import sqlite3
import stat
import threading

import pytest

from relayd.stores.sqlite import VERSION, Store


def opened(path: pathlib.Path, **bounds: int) -> Store:
    return Store(str(path), **{"max_entries": 100, "max_bytes": 1 << 20, "ttl_s": 60, **bounds})


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "sessions.sqlite"


def test_what_was_put_survives_a_restart(path: pathlib.Path) -> None:
    store = opened(path)
    store.space("team").put("a", {"b": 1})
    store.close()
    store = opened(path)
    assert store.space("team").get("a") == {"b": 1}
    assert store.entries == 1 and not store.notices
    store.close()


def test_a_process_that_dies_loses_nothing(path: pathlib.Path) -> None:
    store = opened(path)
    store.space("team").put("a", 1)
    copy = path.with_name("copy.sqlite")
    for ending in ("", "-wal"):
        pathlib.Path(f"{copy}{ending}").write_bytes(pathlib.Path(f"{path}{ending}").read_bytes())
    store.close()
    again = opened(copy)
    assert again.space("team").get("a") == 1
    again.close()


def test_instances_share_a_file_and_its_bounds(path: pathlib.Path) -> None:
    one, two = opened(path, max_entries=10), opened(path, max_entries=10)
    for number in range(20):
        (one, two)[number % 2].space("team").put(str(number), number)
    assert one.entries == two.entries == 10
    assert one.space("team").get("19") == 19 and two.space("team").get("18") == 18
    one.close()
    two.close()


def test_instances_that_begin_at_once_share_one_file(path: pathlib.Path) -> None:
    stores: list[Store] = []
    threads = [threading.Thread(target=lambda: stores.append(opened(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 8 and not any(store.notices for store in stores)
    stores[0].space("team").put("a", 1)
    assert all(store.space("team").get("a") == 1 for store in stores)
    for store in stores:
        store.close()


def test_only_the_owner_may_read_the_file(path: pathlib.Path) -> None:
    store = opened(path)
    store.space("team").put("a", 1)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    store.close()


@pytest.mark.parametrize("content", [b"this is no database", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_moved_aside_and_said(path: pathlib.Path, content: bytes) -> None:
    path.write_bytes(content)
    store = opened(path)
    store.space("team").put("a", 1)
    assert store.space("team").get("a") == 1
    [notice] = store.notices
    assert "moved to" in notice
    assert path.with_name(path.name + ".unusable").read_bytes() == content
    store.close()


def test_a_file_of_another_version_is_moved_aside_and_said(path: pathlib.Path) -> None:
    store = opened(path)
    store.space("team").put("a", 1)
    store.close()
    file = sqlite3.connect(path)
    file.execute(f"PRAGMA user_version = {VERSION + 1}")
    file.close()
    store = opened(path)
    assert store.space("team").get("a") is None
    assert f"schema version {VERSION + 1}" in store.notices[0]
    store.close()


def test_a_file_that_is_damaged_while_it_is_open_is_replaced(path: pathlib.Path) -> None:
    store = opened(path, max_bytes=1 << 26)
    for number in range(20):
        store.space("team").put(str(number), "x" * 500_000)  # more than the library keeps in memory
    store.close()
    store = opened(path, max_bytes=1 << 26)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    assert None in [store.space("team").get(str(number)) for number in range(20)]
    assert store.faults and "moved to" in store.notices[0]
    store.space("team").put("c", 1)
    assert store.space("team").get("c") == 1
    store.close()


def test_a_file_that_another_holds_is_not_waited_for(path: pathlib.Path) -> None:
    store = opened(path)
    store.space("team").put("a", 1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.space("team").put("b", 1)
    assert store.faults == 1 and "locked" in store.notices[0]
    assert store.space("team").get("a") == 1
    other.execute("ROLLBACK")
    other.close()
    store.space("team").put("b", 2)
    assert store.space("team").get("b") == 2
    store.close()


def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError):
        opened(tmp_path / "nowhere" / "sessions.sqlite")


def test_sweeping_gives_room_back_to_the_disk(path: pathlib.Path) -> None:
    now_s = 0.0
    store = Store(str(path), 1000, 1 << 26, 10, now=lambda: now_s)
    for number in range(100):
        store.space("team").put(str(number), "x" * 20_000)
    store.close()
    full = path.stat().st_size
    store = Store(str(path), 1000, 1 << 26, 10, now=lambda: now_s)
    now_s = 11.0
    store.sweep()
    store.close()
    assert path.stat().st_size < full / 10  # the disk has it back
