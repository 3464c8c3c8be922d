"""`discovery: {file: ...}`: the contract, and files of every form that people and programs write."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd.schema import Duration
from relayd.upstream.discovered import Address
from relayd.upstream.discovery.file import stamp_of
from tests.unit.proxy.harness import until
from tests.unit.upstream.discovery.contract import Contract, Source


class File(Source):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "endpoints.yaml"

    def options(self) -> dict[str, Any]:
        return {"path": str(self.path), "interval": Duration(0.01)}

    def write(self, text: str) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        os.rename(beside, self.path)

    async def set(self, *urls: str) -> None:
        self.write("".join(f"- {url}\n" for url in urls) or "[]")

    async def fail(self) -> None:
        self.write("- http://127.0.0.1:8001\n- ftp://there\n")


class TestFile(Contract):
    kind = "file"

    @contextlib.asynccontextmanager
    async def source(self, folder: Path) -> AsyncIterator[File]:
        yield File(folder)

    @pytest.mark.parametrize("text", [
        "- http://a:1\n- {url: 'http://b:2', weight: 3, priority: 1, limits: 4}\n",
        "endpoints:\n  - http://a:1\n  - url: http://b:2\n    weight: 3\n    priority: 1\n    limits: {requests: 4}\n",
        '["http://a:1", {"url": "http://b:2", "weight": 3, "priority": 1, "limits": 4}]',
        '{\n\t"endpoints": [\n\t\t"http://a:1",\n\t\t{"url": "http://b:2", "weight": 3, "priority": 1, "limits": 4}\n\t]\n}',
    ])
    async def test_yaml_and_json_with_and_without_the_key(self, tmp_path: Path, text: str) -> None:
        source = File(tmp_path)
        source.write(text)
        async with self.at_work(source) as reports:
            await reports.until_found("http://a:1", "http://b:2")
            assert reports.addresses == (Address("http://a:1"), Address("http://b:2", 3, 1, 4))

    @pytest.mark.parametrize(("text", "fault"), [
        ("- http://a:1\n- http://user:secret@b:2\n", "endpoints.yaml:2:3: error: endpoints[1].url: contains user information"),
        ("", "endpoints.yaml:1:1: error: needs a list"),
        ("{}", "endpoints.yaml:1:1: error: needs a list"),
        ("- http://a:1\n  b: [\n", "endpoints.yaml:2"),
        ("hosts: [a]\n", "endpoints.yaml:1:1: error: needs a list"),
        ("endpoints: []\nhosts: [a]\n", "endpoints.yaml:2:1: error: hosts: unknown key"),
        ("[[[[[", "endpoints.yaml:"),
        ("- {url: 'http://a:1', weight: 0}\n", "endpoints.yaml:1:31: error: endpoints[0].weight"),
        ("[" + "a," * 200_000 + "]", "contains more than"),
        ("#" * (1 << 20) + "\n", "is larger than"),
        ("- &a http://a:1\n- *b\n", "endpoints.yaml:2"),
    ])
    async def test_a_broken_file_is_refused_with_file_and_line(self, tmp_path: Path, text: str, fault: str) -> None:
        source = File(tmp_path)
        source.write("- http://a:1\n")
        async with self.at_work(source) as reports:
            await reports.until_found("http://a:1")
            source.write(text)
            reason = await reports.until_failed()
            assert fault in reason and "secret" not in reason and len(reason) < 400
            assert reports.found_last == ("http://a:1",)

    async def test_a_file_that_has_not_changed_is_confirmed_unless_it_is_faulty(self, tmp_path: Path) -> None:
        source = File(tmp_path)
        source.write("- http://a:1\n")
        async with self.at_work(source) as reports:
            await until(lambda: reports.confirmations > 2)
            assert reports.seen == [("http://a:1",)], "it is not read again"
            await source.fail()
            await reports.until_failed()
            looks = len(reports.pauses)
            await until(lambda: len(reports.pauses) > looks + 2)  # Reports.confirmed refuses to confirm a failure
            source.write("- http://b:1\n")
            await reports.until_found("http://b:1")

    async def test_the_empty_list_means_no_endpoint(self, tmp_path: Path) -> None:
        source = File(tmp_path)
        source.write("- http://a:1\n")
        async with self.at_work(source) as reports:
            await reports.until_found("http://a:1")
            source.write("[]")
            await reports.until_found()

    async def test_a_missing_file_a_folder_and_a_pipe_are_faults_until_a_file_is_there(self, tmp_path: Path) -> None:
        source = File(tmp_path)
        async with self.at_work(source) as reports:
            await reports.until_failed("No such file")
            source.path.mkdir()
            await reports.until_failed("is a directory")
            source.path.rmdir()
            os.mkfifo(source.path)
            await reports.until_failed("is not a regular file")
            source.write("- http://a:1\n")
            await reports.until_found("http://a:1")

    def test_a_file_that_becomes_readable_is_read_again(self, tmp_path: Path) -> None:
        """Its contents do not change with its rights."""
        source = File(tmp_path)
        source.write("[]")
        before = stamp_of(str(source.path))
        source.path.chmod(0o600)
        assert stamp_of(str(source.path)) != before

    async def test_a_file_that_is_being_written_in_place_is_not_read_half(self, tmp_path: Path) -> None:
        source = File(tmp_path)
        source.write("- http://a:1\n")
        async with self.at_work(source, interval=Duration(0.1)) as reports:
            await reports.until_found("http://a:1")
            with source.path.open("w") as file:
                for number in range(20):
                    file.write(f"- http://b:{number + 1}\n")
                    file.flush()
            await reports.until_found(*(f"http://b:{number + 1}" for number in range(20)))
            assert {len(one) for one in reports.seen if isinstance(one, tuple)} <= {1, 20}

    async def test_a_check_reads_the_file(self, tmp_path: Path) -> None:
        source = File(tmp_path)
        ((key, warning),) = self.made(source).cautions()
        assert key == "path" and "No such file" in warning
        source.write("- ftp://there\n")
        ((key, warning),) = self.made(source).cautions()
        assert f"{source.path}:1:3" in warning
