"""The thread that writes."""

from __future__ import annotations

import pathlib
import sqlite3

from relayd.stores._faults import FAILED, LOCKED
from relayd.stores._sqlite_file import File, Value
from relayd.stores._writer import Job, Verb, Writer

WAIT_S = 10.0


def writer_on(path: pathlib.Path) -> tuple[Writer, File]:
    file = File(str(path), 10, 1 << 20, 1.0)
    return Writer(file), file


def done(writer: Writer, *jobs: Job) -> None:
    for job in jobs:
        writer.give(job)
    last = Job(Verb.NOTHING)
    writer.give(last)
    assert last.ended.wait(WAIT_S)


def test_jobs_are_done_in_their_order(tmp_path: pathlib.Path) -> None:
    writer, file = writer_on(tmp_path / "s")
    jobs = [Job(Verb.PUT, ("team", "a"), Value(str(number), 10, 60.0), float(number)) for number in range(5)]
    done(writer, *jobs, Job(Verb.DELETE, ("team", "b")))
    assert [job.entry_key for job in writer.done][:5] == [("team", "a")] * 5 and not any(job.fault for job in writer.done)
    reader = file.reader()
    assert reader.execute("SELECT value FROM entries").fetchall() == [("4",)]
    reader.close()
    assert writer.stop(WAIT_S)


def test_a_lock_ends_the_wait_of_whoever_gave_the_job_before_the_job_fails(tmp_path: pathlib.Path) -> None:
    writer, _ = writer_on(tmp_path / "s")
    other = sqlite3.connect(tmp_path / "s", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    job = Job(Verb.PUT, ("team", "a"), Value("1", 10, 61.0), 1.0)
    writer.give(job)
    assert job.ended.wait(WAIT_S) and job.met_lock and writer.blocked
    other.execute("ROLLBACK")  # perhaps in time for the job
    done(writer, Job(Verb.PUT, ("team", "b"), Value("1", 10, 61.0), 1.0))
    assert job.fault in (None, LOCKED) and not writer.blocked
    other.close()
    assert writer.stop(WAIT_S)


def test_whatever_a_file_does_the_thread_goes_on(tmp_path: pathlib.Path) -> None:
    writer, file = writer_on(tmp_path / "s")
    bad = Job(Verb.TOUCH)
    bad.touches = 7  # type: ignore[assignment]
    done(writer, bad)
    assert bad.fault is not None and bad.fault is FAILED
    good = Job(Verb.PUT, ("team", "a"), Value("1", 10, 61.0), 1.0)
    done(writer, good)
    assert good.fault is None and file.generation == 0
    assert writer.stop(WAIT_S)
